//! The scaler as a child process, observed through its log, its HTTP paths and its commands.

use crate::control_plane::{TIMEOUT, wait_for};
use hyper::StatusCode;
use serde_json::Value;
use service::fetch;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// The most lines that the scaler may log in any half minute.
const MOST_LINES: usize = 50;

/// The time over which log lines are counted.
const HALF_MINUTE: Duration = Duration::from_secs(30);

/// A running scaler. It is killed when dropped.
pub(crate) struct Scaler {
    child: Child,
    /// The address that the scaler serves on, `host:port`.
    pub(crate) address: String,
    /// The lines of the scaler's log, each with the time at which it was read.
    log: Arc<Mutex<Vec<(Instant, String)>>>,
    /// The lines that the scaler has printed after its address.
    printed: Arc<Mutex<Vec<String>>>,
}

/// The command that runs the scaler with these flags on a free port.
pub(crate) fn command(flags: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scaler"));
    command.args(["--listen=127.0.0.1:0", "--exit-with-parent"]).args(flags);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

impl Scaler {
    /// Starts a scaler on the cluster of this kubeconfig.
    pub(crate) async fn start(kubeconfig: &Path, flags: &[String]) -> Self {
        Self::spawn(command(flags).env("KUBECONFIG", kubeconfig)).await
    }

    /// Starts the scaler by this command. Returns once it has printed its address.
    pub(crate) async fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the scaler's program can be executed");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (kept, errors) = (log.clone(), child.stderr.take().expect("standard error is piped"));
        tokio::spawn(async move {
            let mut lines = BufReader::new(errors).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                kept.lock().expect("no thread panics while it holds the lock").push((Instant::now(), line));
            }
        });
        let mut printed = BufReader::new(child.stdout.take().expect("standard output is piped")).lines();
        let line = tokio::time::timeout(TIMEOUT, printed.next_line()).await;
        let line = line.expect("the scaler prints its address in time").expect("standard output is text");
        let address = line.as_deref().and_then(|line| line.strip_prefix("listening on http://"));
        let address = address
            .unwrap_or_else(|| panic!("the scaler printed {line:?} instead of its address; its log: {log:?}"))
            .to_owned();
        let later = Arc::new(Mutex::new(Vec::new()));
        let kept = later.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = printed.next_line().await {
                kept.lock().expect("no thread panics while it holds the lock").push(line);
            }
        });
        Self { child, address, log, printed: later }
    }

    /// Waits until the scaler has printed a line that begins with `start`. Returns the rest of the line.
    pub(crate) async fn wait_for_line(&self, start: &str) -> String {
        wait_for(start, async || {
            let printed = self.printed.lock().expect("no thread panics while it holds the lock");
            printed.iter().find_map(|line| line.strip_prefix(start)).map(str::to_owned)
        })
        .await
    }

    /// The scaler's latest decision.
    pub(crate) async fn latest(&self) -> Value {
        self.json("/status").await["targets"][0]["latest"].take()
    }

    /// All decisions that the scaler remembers.
    pub(crate) async fn decisions(&self) -> Vec<Value> {
        match self.json("/decisions").await {
            Value::Array(decisions) => decisions,
            other => panic!("/decisions is no list: {other}"),
        }
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&self.get(path).await).expect("the answer is JSON")
    }

    async fn get(&self, path: &str) -> Vec<u8> {
        let (status, body) = fetch::get(&self.address, path, TIMEOUT).await.expect("the scaler answers");
        assert_eq!(status, StatusCode::OK, "{path}");
        body.to_vec()
    }

    /// The value of the first series of the metric `name` that has all `labels`, which have the form `name="value"`;
    /// zero if there is no such series.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = String::from_utf8(self.get("/metrics").await).expect("metrics are text");
        let value = text.lines().find_map(|line| {
            let (present, value) = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} ")?;
            labels.iter().all(|label| present.contains(label)).then(|| value.parse().expect("the value is a number"))
        });
        value.unwrap_or_default()
    }

    /// Runs a command about this scaler, such as `scaler status`. Returns its output.
    pub(crate) async fn run_command(&self, command: &[&str]) -> String {
        let mut program = Command::new(env!("CARGO_BIN_EXE_scaler"));
        let output = program
            .args(command)
            .args(["--scaler", &self.address])
            .output()
            .await
            .expect("the scaler's program can be executed");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("the output is text")
    }

    /// Waits until the latest decision satisfies `is_wanted`. `what` names that decision for the message of a failure.
    pub(crate) async fn wait_for(&self, what: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + TIMEOUT;
        loop {
            let latest = self.latest().await;
            if is_wanted(&latest) {
                return latest;
            }
            assert!(
                Instant::now() < until,
                "timed out after {TIMEOUT:?} waiting for {what}; {latest}\n{}",
                self.log().join("\n")
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the scaler has measured [`LOAD`](crate::test_deployment::LOAD) and desires the four replicas that this
    /// load needs.
    pub(crate) async fn wait_until_steady(&self) {
        self.wait_for("a recommendation of four replicas", |latest| {
            let rate = |name| latest["workings"][name].as_f64().unwrap_or_default();
            let is_measured = (28.0..34.0).contains(&rate("arrivals_per_second"));
            latest["wanted"] == 4
                && latest["desired"] == 4
                && latest["replicas"]["desired"] == 4
                && is_measured
                && rate("arrivals_high") - rate("arrivals_low") < 6.0
        })
        .await;
    }

    /// Waits until the explanation of the latest decision contains all `words`. Returns the explanation.
    pub(crate) async fn wait_for_explanation(&self, words: &[&str]) -> String {
        let what = format!("an explanation with {words:?}");
        let has_words = |latest: &Value| {
            latest["explanation"].as_str().is_some_and(|text| words.iter().all(|word| text.contains(word)))
        };
        let latest = self.wait_for(&what, has_words).await;
        latest["explanation"].as_str().expect("the explanation is text").to_owned()
    }

    /// The lines of the scaler's log.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log
            .lock()
            .expect("no thread panics while it holds the lock")
            .iter()
            .map(|(_, line)| line.clone())
            .collect()
    }

    /// Whether a line of the scaler's log contains `words`.
    pub(crate) fn has_logged(&self, words: &str) -> bool {
        self.log().iter().any(|line| line.contains(words))
    }

    /// Sends SIGKILL, and waits until the scaler has ended.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("the scaler was started by this test");
    }

    /// Checks that the scaler runs, has not panicked, and has logged at most [`MOST_LINES`] lines in any half minute.
    pub(crate) fn assert_healthy(&mut self) {
        let log = self.log.lock().expect("no thread panics while it holds the lock");
        let text = || log.iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>().join("\n");
        let ended = self.child.try_wait().expect("the status of a child process can be read");
        assert!(ended.is_none(), "the scaler ended with {ended:?}:\n{}", text());
        assert!(!text().contains("panicked"), "the scaler panicked:\n{}", text());
        for (index, (at, _)) in log.iter().enumerate() {
            let within = log[index..].iter().take_while(|(then, _)| *then < *at + HALF_MINUTE).count();
            assert!(within <= MOST_LINES, "{within} lines in half a minute:\n{}", text());
        }
    }
}

/// Runs a command that must fail. Returns its standard error.
pub(crate) async fn failure_output(command: &mut Command) -> String {
    let ended = tokio::time::timeout(TIMEOUT, command.output()).await.expect("the command ends in time");
    let Output { status, stderr, .. } = ended.expect("the scaler's program can be executed");
    assert!(!status.success(), "the command succeeds");
    String::from_utf8(stderr).expect("standard error is text")
}
