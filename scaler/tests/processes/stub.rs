//! Stubs of replicas and of a dispatcher, and the scaler as a child process.

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use scaler::target::processes::ProcessesSpec;
use scaler::target::{Handle, TargetState};
use service::respond;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
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

/// Time limit of every wait. It is long, because busy machines are slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A server that answers readiness probes for replicas, and `/metrics` as an idle dispatcher does.
pub(crate) struct Stub {
    pub(crate) address: String,
    /// Whether replicas are reported as ready.
    pub(crate) is_ready: Arc<AtomicBool>,
    server: JoinHandle<()>,
}

impl Stub {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
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

    /// Writes a shell script that prints this stub's address as its own, as a replica does, and then runs `lines`.
    pub(crate) fn program(&self, folder: &Path, lines: &str) -> PathBuf {
        let program = folder.join("replica");
        fs::write(&program, format!("#!/bin/sh\necho listening on http://{}\n{lines}\n", self.address))
            .expect("written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("ours");
        program
    }
}

impl Drop for Stub {
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

/// A folder for the files of one scaler, and the stub that its replicas share.
pub(crate) struct Scene {
    pub(crate) stub: Stub,
    pub(crate) folder: TempDir,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        Self { stub: Stub::start().await, folder: tempfile::tempdir().expect("a temporary folder") }
    }

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

    pub(crate) fn list(&self) -> PathBuf {
        self.folder.path().join("replicas")
    }

    /// The path of the scaler's log.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The text of the scaler's log.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.log()).expect("a scaler was started")
    }

    /// Ids of the replicas' processes. A child that a replica has forked shows the replica's command line until it
    /// executes its own program, so processes whose parent is among the matches are left out.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let program = self.folder.path().join("replica");
        let program = program.to_str().expect("text").as_bytes();
        let processes = fs::read_dir("/proc").expect("there is /proc").flatten();
        let processes = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let runs = |process: &u32| {
            let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            line.split(|&byte| byte == 0).any(|argument| argument == program)
        };
        let found: Vec<u32> = processes.filter(runs).collect();
        found.iter().copied().filter(|&process| parent(process).is_none_or(|parent| !found.contains(&parent))).collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // A killed scaler may leave replicas behind, since not every script ends with its parent.
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

/// A running scaler, killed when dropped.
pub(crate) struct Scaler {
    child: Child,
    address: String,
    /// Kept open: the scaler would fail to print to a closed pipe.
    _stdout: BufReader<ChildStdout>,
}

impl Scaler {
    /// Starts a scaler whose replicas run the shell script `lines` of this scene, with `flags` added.
    pub(crate) async fn start(scene: &Scene, lines: &str, flags: &[&str]) -> Self {
        let own = [
            "--drain-delay=0s".into(),
            "--grace=5s".into(),
            format!("--dispatcher={}", scene.stub.address),
            format!("--list={}", scene.list().display()),
            format!("--replica={}", scene.stub.program(scene.folder.path(), lines).display()),
        ];
        let all: Vec<&str> = own.iter().map(String::as_str).chain(flags.iter().copied()).collect();
        Self::with(&scene.log(), &all).await
    }

    /// Starts a scaler with these flags, which writes its log to `log`.
    pub(crate) async fn with(log: &Path, flags: &[&str]) -> Self {
        let log = fs::File::create(log).expect("created");
        let mut child = Command::new(env!("CARGO_BIN_EXE_scaler"))
            .args(["--listen=127.0.0.1:0", "--exit-with-parent"])
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("the scaler starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).await.expect("text");
        let address = line.trim().strip_prefix("listening on http://").expect("its address").to_owned();
        Self { child, address, _stdout: stdout }
    }

    /// The scaler's process id.
    pub(crate) fn process(&self) -> u32 {
        self.child.id().expect("it was not waited for")
    }

    /// Sends SIGKILL, which the scaler cannot handle, and waits until it has ended.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("it is ours");
    }

    /// The body of the scaler's answer to GET `path`.
    pub(crate) async fn get(&self, path: &str) -> String {
        let answer = service::fetch::get(&self.address, path, PATIENCE).await;
        String::from_utf8(answer.expect("it answers").1.to_vec()).expect("text")
    }
}

/// Waits for a state of the target.
pub(crate) async fn until(target: &Handle, what: &str, wanted: impl FnMut(&TargetState) -> bool) -> TargetState {
    let mut state = target.state.clone();
    match tokio::time::timeout(PATIENCE, state.wait_for(wanted)).await {
        Ok(state) => state.expect("the task lives").clone(),
        Err(_elapsed) => panic!("not in time: {what}; {:?}", target.state.borrow()),
    }
}

/// Waits until `look` finds a value.
pub(crate) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Stops the target, and waits until its processes have ended.
pub(crate) async fn stop(target: Handle) {
    drop(target.desired);
    tokio::time::timeout(PATIENCE, target.done).await.expect("in time").expect("no panic");
}
