//! What each test needs: a folder, a stub server for replicas and dispatcher, and the scaler as a child process.

use crate::script;
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use scaler::target::processes::ProcessesSpec;
use scaler::target::{Handle, TargetState};
use service::respond;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The time limit of every wait. It is long, because busy machines are slow.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// A server that answers the readiness probes of replicas, and `/metrics` as an idle dispatcher does.
pub(crate) struct StubServer {
    /// The address that the stub listens on, `host:port`.
    pub(crate) address: String,
    /// Whether readiness probes succeed.
    pub(crate) is_ready: Arc<AtomicBool>,
    server: JoinHandle<()>,
}

impl StubServer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("there is a free port");
        let address = listener.local_addr().expect("the listener is bound").to_string();
        let is_ready = Arc::new(AtomicBool::new(true));
        let ready = is_ready.clone();
        let handle = move |request: Request<Incoming>| {
            std::future::ready(match request.uri().path() {
                "/metrics" => respond::text("text/plain; version=0.0.4", idle_dispatcher()),
                _ if ready.load(Ordering::SeqCst) => respond::text("text/plain", "ready".into()),
                _ => respond::json(StatusCode::SERVICE_UNAVAILABLE, &"starting"),
            })
        };
        let server =
            tokio::spawn(service::server::serve(listener, None, handle, std::future::pending(), Duration::ZERO));
        Self { address, is_ready, server }
    }

    /// Writes a shell script that prints the stub's address as a replica prints its own, and then runs `lines`. Returns
    /// the script's path.
    pub(crate) fn program(&self, folder: &Path, lines: &str) -> PathBuf {
        let program = folder.join("replica");
        script::write(&program, &format!("#!/bin/sh\necho listening on http://{}\n{lines}\n", self.address));
        program
    }
}

impl Drop for StubServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The metrics of a dispatcher that has never received a request.
fn idle_dispatcher() -> String {
    let histogram = |name: &str| format!("{name}_bucket{{le=\"+Inf\"}} 0\n{name}_sum 0\n{name}_count 0\n");
    format!(
        "dispatcher_queue_length 0\ndispatcher_capacity 1\ndispatcher_enqueued_requests_total 0\n{}{}",
        histogram("dispatcher_upstream_duration_seconds"),
        histogram("dispatcher_request_duration_seconds"),
    )
}

/// The folder with the files of one scaler, and the stub server that its replicas share. Replicas that still run are
/// killed when it is dropped.
pub(crate) struct Fixture {
    pub(crate) stub: StubServer,
    pub(crate) folder: TempDir,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self { stub: StubServer::start().await, folder: tempfile::tempdir().expect("temporary folders can be created") }
    }

    /// The specification of replicas that run the shell lines `lines`.
    pub(crate) fn spec(&self, lines: &str) -> ProcessesSpec {
        ProcessesSpec {
            program: self.stub.program(self.folder.path(), lines),
            arguments: Vec::new(),
            list: self.list(),
            controller: None,
            drain_delay: Duration::ZERO,
            grace: Duration::from_secs(5),
        }
    }

    /// The path of the file in which ready replicas are published.
    pub(crate) fn list(&self) -> PathBuf {
        self.folder.path().join("replicas")
    }

    /// The path of the scaler's log.
    pub(crate) fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The text of the scaler's log.
    pub(crate) fn log_text(&self) -> String {
        fs::read_to_string(self.log_path()).expect("a scaler was started and has created its log")
    }

    /// The process ids of the replicas. A child of a replica has the replica's command line until it executes its own
    /// program, so processes whose parent is a match are left out.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let program = self.folder.path().join("replica");
        let program = program.to_str().expect("the path is UTF-8").as_bytes();
        let processes = fs::read_dir("/proc").expect("/proc is mounted").flatten();
        let processes = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let runs = |process: &u32| {
            let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            line.split(|&byte| byte == 0).any(|argument| argument == program)
        };
        let found: Vec<u32> = processes.filter(runs).collect();
        found.iter().copied().filter(|&process| parent(process).is_none_or(|parent| !found.contains(&parent))).collect()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // Not every script ends with its parent, so a killed scaler may leave replicas behind.
        for process in self.processes() {
            if let Some(process) = i32::try_from(process).ok().and_then(Pid::from_raw) {
                let _gone_already = kill_process(process, Signal::KILL);
            }
        }
    }
}

/// The id of the parent of `process`; `None` if `process` has ended.
fn parent(process: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// A running scaler. It is killed when dropped.
pub(crate) struct Scaler {
    child: Child,
    /// The address that the scaler serves on, `host:port`.
    address: String,
    /// This end of the pipe stays open, because the scaler could not print to a closed pipe.
    _stdout: BufReader<ChildStdout>,
}

impl Scaler {
    /// Starts a scaler whose replicas run the shell lines `lines`. `flags` are added to those of the fixture.
    pub(crate) async fn start(fixture: &Fixture, lines: &str, flags: &[&str]) -> Self {
        let fixed = [
            "--drain-delay=0s".into(),
            "--grace=5s".into(),
            format!("--dispatcher={}", fixture.stub.address),
            format!("--list={}", fixture.list().display()),
            format!("--replica={}", fixture.stub.program(fixture.folder.path(), lines).display()),
        ];
        let all: Vec<&str> = fixed.iter().map(String::as_str).chain(flags.iter().copied()).collect();
        Self::start_with_flags(&fixture.log_path(), &all).await
    }

    /// Starts a scaler with these flags. It writes its log to the file `log`.
    pub(crate) async fn start_with_flags(log: &Path, flags: &[&str]) -> Self {
        let log = fs::File::create(log).expect("the folder is writable");
        let mut child = Command::new(env!("CARGO_BIN_EXE_scaler"))
            .args(["--listen=127.0.0.1:0", "--exit-with-parent"])
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("the scaler's program can be executed");
        let mut stdout = BufReader::new(child.stdout.take().expect("standard output is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).await.expect("standard output is text");
        let address = line
            .trim()
            .strip_prefix("listening on http://")
            .expect("the first line is the scaler's address")
            .to_owned();
        Self { child, address, _stdout: stdout }
    }

    /// The scaler's process id.
    pub(crate) fn process(&self) -> u32 {
        self.child.id().expect("the scaler runs")
    }

    /// Sends SIGKILL, and waits until the scaler has ended.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("the scaler was started by this test");
    }

    /// The body of the scaler's answer to GET `path`.
    pub(crate) async fn get(&self, path: &str) -> String {
        let answer = service::fetch::get(&self.address, path, TIMEOUT).await;
        String::from_utf8(answer.expect("the scaler answers").1.to_vec()).expect("the answer is text")
    }
}

/// Waits until the target's state satisfies `is_wanted`. `what` names that state for the message of a failure.
pub(crate) async fn wait_for_state(
    target: &Handle,
    what: &str,
    is_wanted: impl FnMut(&TargetState) -> bool,
) -> TargetState {
    let mut state = target.state.clone();
    match tokio::time::timeout(TIMEOUT, state.wait_for(is_wanted)).await {
        Ok(state) => state.expect("the target's task runs").clone(),
        Err(_elapsed) => {
            panic!("timed out after {TIMEOUT:?} waiting for {what}; the state is {:?}", target.state.borrow())
        }
    }
}

/// Waits until `look` finds a value. `what` names the value for the message of a failure.
pub(crate) async fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + TIMEOUT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "timed out after {TIMEOUT:?} waiting for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Stops the target, and waits until its processes have ended.
pub(crate) async fn stop(target: Handle) {
    drop(target.desired);
    tokio::time::timeout(TIMEOUT, target.done)
        .await
        .expect("the target's task ends in time")
        .expect("the task does not panic");
}
