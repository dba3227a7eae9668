//! The dispatcher as a process: how it is started, what its `/status` says, and how much memory it takes.

use crate::memory;
use anyhow::{Context, Result, ensure};
use harness::paths;
use harness::stack::ServiceProcess;
use hyper::StatusCode;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time in which the dispatcher must find all stub replicas.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit for an answer of `/status`. It suffices even if the queue is long.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// Time between two polls of `/status`.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Time between two samples of the memory.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);

/// A running dispatcher, which is stopped when this value is dropped.
pub(crate) struct DispatcherProcess {
    service: ServiceProcess,
    /// The address on loopback at which the dispatcher listens.
    pub(crate) address: SocketAddr,
}

impl DispatcherProcess {
    /// Starts a dispatcher with `flags` and waits until all `replicas` are in rotation.
    ///
    /// # Errors
    /// If the dispatcher does not start, or does not find a replica.
    pub(crate) async fn start(replicas: &[SocketAddr], flags: &[String]) -> Result<Self> {
        let list: Vec<String> = replicas.iter().map(SocketAddr::to_string).collect();
        let mut all_flags = vec![
            "--listen=127.0.0.1:0".to_owned(),
            "--log=warn".to_owned(),
            format!("--replicas=static:{}", list.join(",")),
        ];
        all_flags.extend_from_slice(flags);
        let folder = paths::output("bench").join("stress");
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let service = ServiceProcess::start("dispatcher", &all_flags, &folder)?;
        let address = service.address.parse();
        let address = address.with_context(|| format!("the dispatcher's address {:?} is invalid", service.address))?;
        let dispatcher = Self { service, address };
        let deadline = Instant::now() + READY_TIMEOUT;
        while dispatcher.ready_replicas().await? < replicas.len() {
            ensure!(
                Instant::now() < deadline,
                "after {READY_TIMEOUT:?}, not all {} stub replicas are in rotation; see {}",
                replicas.len(),
                folder.join("dispatcher.log").display()
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(dispatcher)
    }

    async fn ready_replicas(&self) -> Result<usize> {
        let status = self.status().await?;
        let replicas = status["replicas"].as_array().context("the dispatcher's /status has no replicas")?;
        Ok(replicas.iter().filter(|replica| replica["state"] == "ready").count())
    }

    /// The JSON that `GET /status` returns.
    ///
    /// # Errors
    /// If the dispatcher does not answer, or its answer is not JSON.
    async fn status(&self) -> Result<Value> {
        let (status, body) = service::fetch::get(&self.service.address, "/status", STATUS_TIMEOUT).await?;
        ensure!(status == StatusCode::OK, "the dispatcher's /status answered {status}");
        serde_json::from_slice(&body).context("parse the dispatcher's /status")
    }

    /// The number of requests that wait in the queue.
    ///
    /// # Errors
    /// If the dispatcher does not answer.
    pub(crate) async fn queue_length(&self) -> Result<u64> {
        self.status().await?["queue_length"].as_u64().context("the dispatcher's /status has no queue_length")
    }

    /// Waits until `condition` is true for the queue length.
    ///
    /// # Errors
    /// If that takes longer than `timeout`.
    pub(crate) async fn wait_for_queue(&self, condition: impl Fn(u64) -> bool, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            let length = self.queue_length().await?;
            if condition(length) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the queue length is still {length} after {timeout:?}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// The dispatcher's resident memory in bytes, once it has had time to give back unused memory.
    ///
    /// # Errors
    /// If the dispatcher has ended, or the system is not Linux.
    pub(crate) async fn settled_memory(&self) -> Result<u64> {
        tokio::time::sleep(super::SETTLE).await;
        memory::resident(self.service.id())
    }

    /// The number of files and sockets that the dispatcher has open.
    ///
    /// # Errors
    /// If the dispatcher has ended, or the system is not Linux.
    pub(crate) fn open_files(&self) -> Result<usize> {
        let folder = format!("/proc/{}/fd", self.service.id());
        Ok(std::fs::read_dir(&folder).with_context(|| format!("list {folder}"))?.count())
    }

    /// Starts a thread that samples the dispatcher's resident memory.
    pub(crate) fn watch_memory(&self) -> MemoryWatch {
        let (stop, stopped) = channel();
        let process = self.service.id();
        MemoryWatch { stop, sampling: std::thread::spawn(move || sample_memory(process, &stopped)) }
    }
}

/// A time, and the resident memory at that time in bytes.
pub(crate) type MemorySample = (Instant, u64);

/// A thread that samples the resident memory of a process.
pub(crate) struct MemoryWatch {
    stop: Sender<()>,
    sampling: JoinHandle<Vec<MemorySample>>,
}

impl MemoryWatch {
    /// Ends the thread. Returns all samples in order of time.
    pub(crate) fn finish(self) -> Vec<MemorySample> {
        drop(self.stop);
        self.sampling.join().expect("the sampling thread does not panic")
    }
}

fn sample_memory(process: u32, stopped: &Receiver<()>) -> Vec<MemorySample> {
    let mut samples = Vec::new();
    while stopped.recv_timeout(SAMPLE_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        let Ok(bytes) = memory::resident(process) else { break };
        samples.push((Instant::now(), bytes));
    }
    samples
}
