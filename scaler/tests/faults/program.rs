//! The scaler as a child process, observed through its log, its HTTP paths and its commands.

use crate::control_plane::PATIENCE;
use hyper::StatusCode;
use serde_json::Value;
use service::fetch;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Most lines that the log may get in any half minute.
const MOST_LINES: usize = 50;
const HALF_MINUTE: Duration = Duration::from_secs(30);

/// A running scaler, killed when dropped.
pub(crate) struct Scaler {
    child: Child,
    /// `host:port`.
    pub(crate) address: String,
    log: Arc<Mutex<Vec<(Instant, String)>>>,
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
        Self::run(command(flags).env("KUBECONFIG", kubeconfig)).await
    }

    pub(crate) async fn run(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the scaler starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (kept, errors) = (log.clone(), child.stderr.take().expect("piped"));
        tokio::spawn(async move {
            let mut lines = BufReader::new(errors).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                kept.lock().expect("whole").push((Instant::now(), line));
            }
        });
        let mut printed = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = tokio::time::timeout(PATIENCE, printed.next_line()).await.expect("in time").expect("text");
        let address = line.as_deref().and_then(|line| line.strip_prefix("listening on http://"));
        let address = address.unwrap_or_else(|| panic!("its address, not {line:?}: {log:?}")).to_owned();
        tokio::spawn(async move { while let Ok(Some(_line)) = printed.next_line().await {} });
        Self { child, address, log }
    }

    /// The scaler's latest decision.
    pub(crate) async fn latest(&self) -> Value {
        self.json("/status").await["targets"][0]["latest"].take()
    }

    /// All decisions that the scaler remembers.
    pub(crate) async fn decisions(&self) -> Vec<Value> {
        match self.json("/decisions").await {
            Value::Array(decisions) => decisions,
            other => panic!("{other}"),
        }
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&self.get(path).await).expect("JSON")
    }

    async fn get(&self, path: &str) -> Vec<u8> {
        let (status, body) = fetch::get(&self.address, path, PATIENCE).await.expect("it answers");
        assert_eq!(status, StatusCode::OK, "{path}");
        body.to_vec()
    }

    /// The value of the first series of this metric that has all of these labels, `name="value"`; zero as long as there
    /// is none.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = String::from_utf8(self.get("/metrics").await).expect("text");
        let value = text.lines().find_map(|line| {
            let (of, value) = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} ")?;
            labels.iter().all(|label| of.contains(label)).then(|| value.parse().expect("a number"))
        });
        value.unwrap_or_default()
    }

    /// The output of a command such as `scaler status` about this scaler.
    pub(crate) async fn ask(&self, command: &[&str]) -> String {
        let mut asked = Command::new(env!("CARGO_BIN_EXE_scaler"));
        let output = asked.args(command).args(["--scaler", &self.address]).output().await.expect("it runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Waits until the latest decision satisfies `is_it`.
    pub(crate) async fn until(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        self.until_within(PATIENCE, what, is_it).await
    }

    pub(crate) async fn until_within(&self, patience: Duration, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + patience;
        loop {
            let latest = self.latest().await;
            if is_it(&latest) {
                return latest;
            }
            assert!(Instant::now() < until, "not in time: {what}; {latest}\n{}", self.log().join("\n"));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the scaler has measured [`LOAD`](crate::scene::LOAD) and desires the four replicas that it needs.
    pub(crate) async fn until_steady(&self) {
        self.until("four are wanted", |latest| {
            let rate = latest["workings"]["arrivals_per_second"].as_f64().unwrap_or_default();
            let window = latest["workings"]["window_seconds"].as_f64().unwrap_or_default();
            latest["wanted"] == 4 && (24.0..30.0).contains(&rate) && window >= 4.0
        })
        .await;
    }

    /// Waits until the explanation of the latest decision contains all `words`. Returns the explanation.
    pub(crate) async fn until_said(&self, words: &[&str]) -> String {
        let what = format!("an explanation with {words:?}");
        let said = |latest: &Value| {
            latest["explanation"].as_str().is_some_and(|text| words.iter().all(|word| text.contains(word)))
        };
        let latest = self.until(&what, said).await;
        latest["explanation"].as_str().expect("text").to_owned()
    }

    /// The lines of the scaler's log.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().expect("whole").iter().map(|(_, line)| line.clone()).collect()
    }

    /// Whether a line of the scaler's log contains `words`.
    pub(crate) fn has_logged(&self, words: &str) -> bool {
        self.log().iter().any(|line| line.contains(words))
    }

    /// Sends SIGKILL, and waits until the scaler has ended.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("it ran");
    }

    /// Checks that the scaler runs, has not panicked, and has logged at most [`MOST_LINES`] in any half minute.
    pub(crate) fn is_well(&mut self) {
        let log = self.log.lock().expect("whole");
        let text = || log.iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>().join("\n");
        let ended = self.child.try_wait().expect("it can be asked");
        assert!(ended.is_none(), "it ended with {ended:?}:\n{}", text());
        assert!(!text().contains("panicked"), "{}", text());
        for (index, (at, _)) in log.iter().enumerate() {
            let within = log[index..].iter().take_while(|(then, _)| *then < *at + HALF_MINUTE).count();
            assert!(within <= MOST_LINES, "{within} lines in half a minute:\n{}", text());
        }
    }
}

/// Runs a command that must fail. Returns its standard error.
pub(crate) async fn fails(command: &mut Command) -> String {
    let ended = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends");
    let Output { status, stderr, .. } = ended.expect("it runs");
    assert!(!status.success(), "it runs well");
    String::from_utf8(stderr).expect("text")
}
