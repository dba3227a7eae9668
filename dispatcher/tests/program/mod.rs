//! The dispatcher's program, started for a test on a free port, and a client of it.

#![allow(dead_code, reason = "each file of tests uses a part")]

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
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

/// Longer than anything that is waited for takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Past the capturing of what passing tests print: nothing is skipped silently.
pub(crate) fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").expect("standard error is open");
}

/// The program, to be run on a free port.
pub(crate) fn command(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dispatcher"));
    command.args(["--listen=127.0.0.1:0", "--exit-with-parent"]).args(flags).stdin(Stdio::piped()).kill_on_drop(true);
    command
}

/// Running; killed when dropped.
pub(crate) struct Program {
    pub(crate) child: Child,
    /// `host:port`.
    pub(crate) address: String,
    /// Whether it said that it speaks TLS.
    pub(crate) speaks_tls: bool,
    /// What else it prints; closed, it could not.
    printed: Lines<BufReader<ChildStdout>>,
}

impl Program {
    pub(crate) async fn start(flags: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::run(command(flags).envs(environment.iter().copied())).await
    }

    /// The same, and what it logs.
    pub(crate) async fn logging(flags: &[&str]) -> (Self, Lines<BufReader<ChildStderr>>) {
        let mut program = Self::run(command(flags).stderr(Stdio::piped())).await;
        let log = program.child.stderr.take().expect("piped");
        (program, BufReader::new(log).lines())
    }

    async fn run(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the dispatcher starts");
        let mut printed = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = next_line(&mut printed).await;
        let (scheme, address) =
            line.strip_prefix("listening on ").and_then(|url| url.split_once("://")).expect("its address");
        let (address, speaks_tls) = (address.to_owned(), scheme == "https");
        Self { child, address, speaks_tls, printed }
    }

    /// The next line that it prints.
    pub(crate) async fn line(&mut self) -> String {
        next_line(&mut self.printed).await
    }

    /// Sends a signal by its name, such as TERM.
    pub(crate) async fn signal(&self, name: &str) {
        let process = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args(["-s", name, &process]).status().await.expect("there is a kill");
        assert!(sent.success(), "the process is there to be told");
    }

    /// Processor time that it has used (proc(5): fields 14 and 15 of stat, hundredths of a second).
    #[cfg(target_os = "linux")]
    pub(crate) fn processor_seconds(&self) -> f64 {
        let process = self.child.id().expect("it runs");
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
        let fields: Vec<&str> = stat.rsplit(')').next().expect("a name in brackets").split_whitespace().collect();
        fields[11..13].iter().map(|ticks| ticks.parse::<f64>().expect("a count")).sum::<f64>() / 100.0
    }

    /// A field of its status, in KiB (proc(5)).
    #[cfg(target_os = "linux")]
    pub(crate) fn kibibytes(&self, field: &str) -> u64 {
        let process = self.child.id().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).expect("the field");
        line.trim().strip_suffix(" kB").expect("its unit").parse().expect("a number")
    }
}

async fn next_line<R: tokio::io::AsyncBufRead + Unpin>(lines: &mut Lines<R>) -> String {
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("it says something");
    line.expect("readable").expect("it goes on")
}

/// Waits for a line that holds `words`.
pub(crate) async fn until_logged(log: &mut Lines<BufReader<ChildStderr>>, words: &str) {
    while !next_line(log).await.contains(words) {}
}

/// A program and a client of it.
pub(crate) struct Dispatcher {
    pub(crate) program: Program,
    pub(crate) client: Client<HttpConnector, Full<Bytes>>,
}

/// Status, `Retry-After` and JSON.
pub(crate) type Reply = (u16, Option<String>, Value);

/// Status and code.
pub(crate) fn code(reply: &Reply) -> (u16, &str) {
    (reply.0, reply.2["code"].as_str().unwrap_or("none"))
}

impl Dispatcher {
    pub(crate) async fn start_on(source: &str, flags: &[&str]) -> Self {
        let source = format!("--replicas={source}");
        Self::of(Program::start(&[&["--log=error", &source], flags].concat(), &[]).await)
    }

    pub(crate) fn of(program: Program) -> Self {
        Self { program, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    pub(crate) async fn post(&self, headers: &[(&str, &str)]) -> Reply {
        self.post_body(headers, Bytes::from_static(b"picture")).await
    }

    pub(crate) async fn post_body(&self, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        let mut request = Request::post(format!("http://{}/predict", self.program.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Full::new(body.into())).expect("a request")).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        let request = Request::get(format!("http://{}{path}", self.program.address));
        self.send(request.body(Full::default()).expect("a request")).await
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Reply {
        let response = self.client.request(request).await.expect("the dispatcher answers");
        let status = response.status().as_u16();
        let after = response.headers().get("retry-after").map(|value| value.to_str().expect("digits").to_owned());
        let body = response.into_body().collect().await.expect("a whole answer").to_bytes();
        (status, after, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// What `/metrics` says of `name`, labels and all; 0 if it says nothing.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let (_, body) = service::fetch::get(&self.program.address, "/metrics", PATIENCE).await.expect("it answers");
        let text = String::from_utf8(body.into()).expect("text");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// The states of its replicas, in the order of their names.
    pub(crate) async fn states(&self) -> Vec<String> {
        let status = self.get("/status").await.2;
        let mut replicas = status["replicas"].as_array().expect("a list").clone();
        replicas.sort_by_key(|replica| replica["address"].to_string());
        replicas.iter().map(|replica| replica["state"].as_str().unwrap_or_default().to_owned()).collect()
    }

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
        panic!("{states:?} instead of {expected:?}");
    }

    pub(crate) async fn until_waiting(&self, count: u64) {
        self.until_status("queue_length", count).await;
    }

    /// Until a number in `/status` is this.
    pub(crate) async fn until_status(&self, name: &str, count: u64) {
        let mut seen = Value::Null;
        for _ in 0..1000 {
            seen = self.get("/status").await.2[name].clone();
            if seen == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{name} is {seen} instead of {count}");
    }
}
