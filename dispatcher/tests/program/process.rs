//! The dispatcher's program, which a test starts on a free port, and an HTTP client for it.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

/// The longest time that a test waits for any one event. A test that waits longer fails.
pub(crate) const WAIT_LIMIT: Duration = Duration::from_secs(20);

/// Prints that a test was skipped. `text` says the reason, and what to do so that the test runs. It is written to
/// standard error directly, because the test harness hides the output of tests that pass.
pub(crate) fn report_skipped(text: &str) {
    writeln!(std::io::stderr(), "skipped: {text}").expect("standard error is open");
}

/// A command that runs the program on a free port. The program ends when the test ends.
pub(crate) fn command(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dispatcher"));
    command.args(["--listen=127.0.0.1:0", "--exit-with-parent"]).args(flags).stdin(Stdio::piped()).kill_on_drop(true);
    command
}

/// A command that runs the ignored test `name` of this program after the shell command `preparation`. `wrapper` is a
/// command that runs the shell; it may be empty.
pub(crate) fn test_command(name: &str, preparation: &str, wrapper: &[&str]) -> Command {
    let this = std::env::current_exe().expect("the test program has a path");
    let script = format!("{preparation} && exec \"$0\" \"$@\"");
    let whole = [wrapper, &["sh", "-c", &script]].concat();
    let mut command = Command::new(whole[0]);
    command.args(&whole[1..]).arg(this).args([name, "--exact", "--ignored", "--nocapture"]).kill_on_drop(true);
    command
}

/// The running program. It is killed when this value is dropped.
pub(crate) struct Program {
    pub(crate) child: Child,
    /// The address that the program serves on, `host:port`.
    pub(crate) address: String,
    /// Whether the program announced `https`.
    pub(crate) has_tls: bool,
    /// The lines on standard output after the first. The pipe is kept open, because the program fails if it cannot
    /// print.
    output: Lines<BufReader<ChildStdout>>,
}

impl Program {
    /// Starts the program with the given flags and environment variables, and waits until it serves.
    pub(crate) async fn start(flags: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::run(command(flags).envs(environment.iter().copied())).await
    }

    /// Starts the program and waits until it serves. Returns the program and the lines of its log.
    pub(crate) async fn start_with_log(flags: &[&str]) -> (Self, Lines<BufReader<ChildStderr>>) {
        Self::run_with_log(&mut command(flags)).await
    }

    /// Runs `command`, which runs the program, and waits until the program serves. Returns the lines of its log, too.
    pub(crate) async fn run_with_log(command: &mut Command) -> (Self, Lines<BufReader<ChildStderr>>) {
        let mut program = Self::run(command.stderr(Stdio::piped())).await;
        let log = program.child.stderr.take().expect("standard error is piped");
        (program, BufReader::new(log).lines())
    }

    async fn run(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the dispatcher starts");
        let mut output = BufReader::new(child.stdout.take().expect("standard output is piped")).lines();
        let line = next_line(&mut output).await;
        let (scheme, address) = line
            .strip_prefix("listening on ")
            .and_then(|url| url.split_once("://"))
            .expect("the first line has the program's address");
        let (address, has_tls) = (address.to_owned(), scheme == "https");
        Self { child, address, has_tls, output }
    }

    /// The next line on the program's standard output.
    pub(crate) async fn next_line(&mut self) -> String {
        next_line(&mut self.output).await
    }

    /// Opens a connection to the program.
    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.expect("the program listens")
    }

    /// Sends the program the signal with this name, such as TERM.
    pub(crate) async fn signal(&self, name: &str) {
        let process = self.child.id().expect("the program runs").to_string();
        let sent = Command::new("kill").args(["-s", name, &process]).status().await.expect("the command `kill` exists");
        assert!(sent.success(), "kill -s {name} failed");
    }
}

async fn next_line<R: tokio::io::AsyncBufRead + Unpin>(lines: &mut Lines<R>) -> String {
    let line = tokio::time::timeout(WAIT_LIMIT, lines.next_line()).await.expect("the program prints a line");
    line.expect("the line is UTF-8").expect("the program prints another line before it ends")
}

/// Waits for a line of the log that contains `words`.
pub(crate) async fn until_logged(log: &mut Lines<BufReader<ChildStderr>>, words: &str) {
    while !next_line(log).await.contains(words) {}
}

/// The running program and an HTTP client for it.
pub(crate) struct RunningDispatcher {
    pub(crate) program: Program,
    pub(crate) client: Client<HttpConnector, Full<Bytes>>,
}

/// A response of the dispatcher.
#[derive(Debug)]
pub(crate) struct DispatcherReply {
    pub(crate) status: u16,
    /// The value of the header `Retry-After`; `None` without the header.
    pub(crate) retry_after: Option<String>,
    /// The body; null if the body is not JSON.
    pub(crate) json: Value,
}

impl DispatcherReply {
    /// The status and the code in the error body.
    pub(crate) fn status_and_code(&self) -> (u16, &str) {
        (self.status, self.json["code"].as_str().unwrap_or("none"))
    }

    /// The value of `Retry-After` in seconds; `None` without the header.
    pub(crate) fn retry_after_seconds(&self) -> Option<f64> {
        self.retry_after.as_ref()?.parse().ok()
    }

    /// Whether `Retry-After` is a whole number of seconds, and at least 1.
    pub(crate) fn has_retry_after(&self) -> bool {
        self.retry_after.as_ref().is_some_and(|after| after.parse::<u64>().is_ok_and(|seconds| seconds >= 1))
    }
}

impl RunningDispatcher {
    /// Starts the program with `--replicas=source`, such as `static:127.0.0.1:6000`.
    pub(crate) async fn start(source: &str, flags: &[&str]) -> Self {
        let source = format!("--replicas={source}");
        Self::new(Program::start(&[&["--log=error", &source], flags].concat(), &[]).await)
    }

    pub(crate) fn new(program: Program) -> Self {
        Self { program, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    pub(crate) async fn post(&self, headers: &[(&str, &str)]) -> DispatcherReply {
        self.post_body(headers, Bytes::from_static(b"image")).await
    }

    pub(crate) async fn post_body(&self, headers: &[(&str, &str)], body: impl Into<Bytes>) -> DispatcherReply {
        let mut request = Request::post(format!("http://{}/predict", self.program.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Full::new(body.into())).expect("the request is well formed")).await
    }

    /// Sends an image. Returns the status; `None` if the dispatcher ends before it has answered.
    pub(crate) async fn try_post(&self) -> Option<u16> {
        let request = Request::post(format!("http://{}/predict", self.program.address));
        let request = request.body(Full::new(Bytes::from_static(b"image"))).expect("the request is well formed");
        Some(self.client.request(request).await.ok()?.status().as_u16())
    }

    pub(crate) async fn get(&self, path: &str) -> DispatcherReply {
        let request = Request::get(format!("http://{}{path}", self.program.address));
        self.send(request.body(Full::default()).expect("the request is well formed")).await
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> DispatcherReply {
        let response = self.client.request(request).await.expect("the dispatcher answers");
        let status = response.status().as_u16();
        let retry_after = response.headers().get("retry-after");
        let retry_after = retry_after.map(|value| value.to_str().expect("the header is ASCII").to_owned());
        let body = response.into_body().collect().await.expect("the answer arrives whole").to_bytes();
        DispatcherReply { status, retry_after, json: serde_json::from_slice(&body).unwrap_or(Value::Null) }
    }

    /// The value of the metric `name`, which includes its labels; 0 if `/metrics` does not have the metric.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let metrics = self.metrics().await;
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().expect("the value of a metric is a number"))
    }

    /// The text of `/metrics`.
    pub(crate) async fn metrics(&self) -> String {
        let answer = service::fetch::get(&self.program.address, "/metrics", WAIT_LIMIT).await;
        String::from_utf8(answer.expect("the dispatcher answers").1.into()).expect("the metrics are UTF-8")
    }

    /// The states of the replicas in `/status`, ordered by address.
    pub(crate) async fn states(&self) -> Vec<String> {
        let status = self.get("/status").await.json;
        let mut replicas = status["replicas"].as_array().expect("`replicas` is a list").clone();
        replicas.sort_by_key(|replica| replica["address"].to_string());
        replicas.iter().map(|replica| replica["state"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Waits until the sorted states of the replicas are `expected`. The order of the replicas does not matter.
    pub(crate) async fn until_states(&self, expected: &[&str]) {
        let mut states = Vec::new();
        for _ in 0..1000 {
            states = self.states().await;
            states.sort();
            if states == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the states of the replicas stay {states:?} instead of {expected:?}");
    }

    /// Waits until `count` requests are in the queue.
    pub(crate) async fn until_waiting(&self, count: u64) {
        self.until_status("queue_length", count).await;
    }

    /// Waits until the number `name` in `/status` is `count`.
    pub(crate) async fn until_status(&self, name: &str, count: u64) {
        let mut value = Value::Null;
        for _ in 0..1000 {
            value = self.get("/status").await.json[name].clone();
            if value == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{name} in /status stays {value} instead of {count}");
    }
}
