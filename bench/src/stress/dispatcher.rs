//! The dispatcher as a process that is started, asked and measured from outside.

use crate::memory;
use anyhow::{Context, Result, ensure};
use harness::paths;
use harness::stack::Service;
use hyper::StatusCode;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time for the dispatcher to find every replica.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for `/status`, with any length of the queue.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// Time between two polls of `/status`.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Time between two samples of the memory.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);

/// A running dispatcher. It ends when dropped.
pub(crate) struct DispatcherProcess {
    service: Service,
    /// The dispatcher's address on loopback.
    pub(crate) address: SocketAddr,
}

impl DispatcherProcess {
    /// Starts a dispatcher with `flags` and waits until all `replicas` are in rotation.
    ///
    /// # Errors
    /// When the dispatcher does not start, or does not find a replica.
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
        let service = Service::start("dispatcher", &all_flags, &folder)?;
        let address = service.address.parse().with_context(|| format!("read the address {:?}", service.address))?;
        let dispatcher = Self { service, address };
        let deadline = Instant::now() + READY_TIMEOUT;
        while dispatcher.ready_replicas().await? < replicas.len() {
            ensure!(Instant::now() < deadline, "the dispatcher did not find all {} stubs", replicas.len());
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(dispatcher)
    }

    async fn ready_replicas(&self) -> Result<usize> {
        let status = self.status().await?;
        let replicas = status["replicas"].as_array().context("/status has no replicas")?;
        Ok(replicas.iter().filter(|replica| replica["state"] == "ready").count())
    }

    /// The answer to `GET /status`.
    ///
    /// # Errors
    /// When the dispatcher does not answer, or answers something else than JSON.
    async fn status(&self) -> Result<Value> {
        let (status, body) = service::fetch::get(&self.service.address, "/status", STATUS_TIMEOUT).await?;
        ensure!(status == StatusCode::OK, "/status answered {status}");
        serde_json::from_slice(&body).context("read /status")
    }

    /// The number of waiting requests.
    ///
    /// # Errors
    /// When the dispatcher does not answer.
    pub(crate) async fn queue_length(&self) -> Result<u64> {
        self.status().await?["queue_length"].as_u64().context("/status has no queue_length")
    }

    /// Waits until the length of the queue fulfils `condition`.
    ///
    /// # Errors
    /// When that takes longer than `timeout`.
    pub(crate) async fn wait_for_queue(&self, condition: impl Fn(u64) -> bool, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            let length = self.queue_length().await?;
            if condition(length) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the length of the queue is {length} after {timeout:?}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Resident memory, bytes, after the time in which unused memory is given back.
    ///
    /// # Errors
    /// When the dispatcher has ended, or the system is not Linux.
    pub(crate) async fn settled_memory(&self) -> Result<u64> {
        tokio::time::sleep(super::SETTLE).await;
        memory::resident(self.service.id())
    }

    /// The number of open descriptors.
    ///
    /// # Errors
    /// When the dispatcher has ended, or the system is not Linux.
    pub(crate) fn open_files(&self) -> Result<usize> {
        let folder = format!("/proc/{}/fd", self.service.id());
        Ok(std::fs::read_dir(&folder).with_context(|| format!("list {folder}"))?.count())
    }

    /// Samples the resident memory from now on.
    pub(crate) fn watch_memory(&self) -> MemoryWatch {
        let (stop, stopped) = channel();
        let process = self.service.id();
        MemoryWatch { stop, sampling: std::thread::spawn(move || sample_memory(process, &stopped)) }
    }
}

/// Resident memory at an instant, bytes.
pub(crate) type MemorySample = (Instant, u64);

/// A thread that samples the memory of a process.
pub(crate) struct MemoryWatch {
    stop: Sender<()>,
    sampling: JoinHandle<Vec<MemorySample>>,
}

impl MemoryWatch {
    /// Ends the thread. Returns all samples, in order of time.
    pub(crate) fn finish(self) -> Vec<MemorySample> {
        drop(self.stop);
        self.sampling.join().expect("sampling does not panic")
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
