//! The dispatcher: a process that is started, asked, measured from outside and ended.

use anyhow::{Context, Result, bail, ensure};
use hyper::StatusCode;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// To find every replica.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// To exit, beyond its grace.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// For `/status`, however long its queue is.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two looks at something that changes.
const LOOK: Duration = Duration::from_millis(1);

/// Between two samples of its memory.
const SAMPLE: Duration = Duration::from_millis(100);

/// Ends when dropped, or with this process: when its standard input closes.
pub(crate) struct Dispatcher {
    child: Child,
    /// Kept open so that it can go on to write.
    _stdout: BufReader<ChildStdout>,
    /// On loopback.
    pub(crate) address: SocketAddr,
}

impl Dispatcher {
    /// Starts `program` and waits until all `replicas` take part.
    ///
    /// # Errors
    /// When either does not happen.
    pub(crate) async fn start(program: &Path, replicas: &[SocketAddr], flags: &[String]) -> Result<Self> {
        let list: Vec<String> = replicas.iter().map(SocketAddr::to_string).collect();
        let mut child = Command::new(program)
            .args(["--exit-with-parent", "--listen=127.0.0.1:0", "--log=warn"])
            .arg(format!("--replicas=static:{}", list.join(",")))
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let mut stdout = BufReader::new(child.stdout.take().expect("standard output is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let Some(address) = line.trim().strip_prefix("listening on http://") else {
            child.kill()?;
            child.wait()?;
            bail!("{} did not start; it said {line:?}", program.display());
        };
        let address = address.parse().with_context(|| format!("read the address {address:?}"))?;
        let dispatcher = Self { child, _stdout: stdout, address };
        let ready = |status: &Value| {
            let states = status["replicas"].as_array().into_iter().flatten();
            states.filter(|replica| replica["state"] == "ready").count()
        };
        let deadline = Instant::now() + READY_TIMEOUT;
        while ready(&dispatcher.status().await?) < replicas.len() {
            ensure!(Instant::now() < deadline, "the dispatcher did not find all {} stubs", replicas.len());
            tokio::time::sleep(LOOK).await;
        }
        Ok(dispatcher)
    }

    /// Its `/status`.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) async fn status(&self) -> Result<Value> {
        let (status, body) = service::fetch::get(&self.address.to_string(), "/status", STATUS_TIMEOUT).await?;
        ensure!(status == StatusCode::OK, "/status answered {status}");
        serde_json::from_slice(&body).context("read /status")
    }

    /// Requests waiting.
    ///
    /// # Errors
    /// When it does not say.
    pub(crate) async fn queue_length(&self) -> Result<u64> {
        self.status().await?["queue_length"].as_u64().context("/status has no queue_length")
    }

    /// Waits until its queue `is` as it should be.
    ///
    /// # Errors
    /// When that takes longer than `timeout`.
    pub(crate) async fn wait_for_queue(&self, is: impl Fn(u64) -> bool, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            let length = self.queue_length().await?;
            if is(length) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the queue stays at {length}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Bytes of memory that are resident.
    ///
    /// # Errors
    /// When it has ended, or the system is not Linux.
    pub(crate) fn memory(&self) -> Result<u64> {
        memory(self.child.id())
    }

    /// Descriptors that it has open.
    ///
    /// # Errors
    /// When it has ended, or the system is not Linux.
    pub(crate) fn open_files(&self) -> Result<usize> {
        let folder = format!("/proc/{}/fd", self.child.id());
        Ok(std::fs::read_dir(&folder).with_context(|| format!("list {folder}"))?.count())
    }

    /// Samples its memory from now on.
    pub(crate) fn watch_memory(&self) -> MemoryWatch {
        let (stop, stopped) = channel();
        let process = self.child.id();
        MemoryWatch { stop, sampling: std::thread::spawn(move || sample(process, &stopped)) }
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + STOP_TIMEOUT;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                eprintln!("the dispatcher does not stop; killing it");
                let _ended = self.child.kill();
                let _reaped = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Bytes at an instant.
pub(crate) type Sample = (Instant, u64);

/// Samples until it is asked.
pub(crate) struct MemoryWatch {
    stop: Sender<()>,
    sampling: JoinHandle<Vec<Sample>>,
}

impl MemoryWatch {
    /// All samples, in order of time.
    pub(crate) fn finish(self) -> Vec<Sample> {
        drop(self.stop);
        self.sampling.join().expect("sampling does not panic")
    }
}

fn sample(process: u32, stopped: &Receiver<()>) -> Vec<Sample> {
    let mut samples = Vec::new();
    while stopped.recv_timeout(SAMPLE) == Err(RecvTimeoutError::Timeout) {
        let Ok(bytes) = memory(process) else { break };
        samples.push((Instant::now(), bytes));
    }
    samples
}

/// VmRSS of proc_pid_status(5), there in KiB.
fn memory(process: u32) -> Result<u64> {
    let file = format!("/proc/{process}/status");
    let text = std::fs::read_to_string(&file).with_context(|| format!("read {file}; is this Linux?"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("find VmRSS in {file}"))? << 10)
}
