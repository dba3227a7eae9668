//! A measured program: a dispatcher or a scaler as a process, with its processor time, its memory and its log.

use crate::paths;
use anyhow::{Context, Result, ensure};
use procfs::process::Process;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};

/// The line of the dispatcher's log for a replica that has joined the rotation.
const JOINED: &str = "a replica is ready and takes requests";

/// Time limit for an answer of `/metrics`.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);

/// A running program, which is killed when this value is dropped.
pub(super) struct Program {
    child: Child,
    process: Process,
    address: SocketAddr,
    joins: Joins,
}

/// The time at which each replica joined the rotation last, by its `address:port`.
#[derive(Clone, Default)]
struct Joins(Arc<Mutex<HashMap<String, Instant>>>);

/// Processor time and memory of a process since its start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    /// Processor time in seconds.
    pub seconds: f64,
    /// Resident memory in MiB.
    pub mebibytes: f64,
    /// The most resident memory so far, in MiB.
    pub peak_mebibytes: f64,
}

impl Program {
    /// Starts the program `name` with `flags`. It serves its metrics at `address`, and reaches the API server at the URL
    /// `api_server`, without TLS. Its log goes to `folder`, too.
    ///
    /// # Errors
    /// If the program is not built, or cannot be started.
    pub(super) fn start(
        name: &str,
        flags: &[String],
        address: SocketAddr,
        api_server: &str,
        folder: &Path,
    ) -> Result<Self> {
        let kubeconfig = folder.join(format!("{name}.kubeconfig"));
        let text = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "relay",
            "clusters": [{"name": "relay", "cluster": {"server": api_server}}],
            "users": [{"name": "relay", "user": {}}],
            "contexts": [{"name": "relay", "context": {"cluster": "relay", "user": "relay"}}],
        });
        fs::write(&kubeconfig, text.to_string()).with_context(|| format!("write {}", kubeconfig.display()))?;
        let log_path = folder.join(format!("{name}.log"));
        let log = File::create(&log_path).with_context(|| format!("create {}", log_path.display()))?;
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig=KILL").arg(paths::program(name)).arg(format!("--listen={address}")).args(flags);
        command.env("KUBECONFIG", &kubeconfig).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let spawned = command.kill_on_drop(true).spawn();
        let mut child =
            spawned.with_context(|| format!("start {name}; build it: cargo build --release --workspace"))?;
        let id = child.id().and_then(|id| i32::try_from(id).ok()).context("the program has ended already")?;
        let joins = Joins::default();
        tokio::spawn(follow(child.stderr.take().expect("standard error is piped"), log, joins.clone()));
        let process = Process::new(id).with_context(|| format!("read the usage of {name}"))?;
        Ok(Self { child, process, address, joins })
    }

    /// The processor time and the memory so far.
    ///
    /// # Errors
    /// If the program has ended.
    pub(super) fn usage(&mut self) -> Result<Usage> {
        if let Some(status) = self.child.try_wait().context("check whether the program runs")? {
            anyhow::bail!("the program has ended ({status}); see its log");
        }
        let stat = self.process.stat().context("read the processor time")?;
        let status = self.process.status().context("read the memory")?;
        let mebibytes = |kibibytes: Option<u64>| kibibytes.unwrap_or_default() as f64 / 1024.0;
        Ok(Usage {
            seconds: (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64,
            mebibytes: mebibytes(status.vmrss),
            peak_mebibytes: mebibytes(status.vmhwm),
        })
    }

    /// Kills the program and waits for its end, so that its address is free.
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) async fn end(mut self) -> Result<()> {
        self.child.kill().await.context("end a measured program")
    }

    /// Waits until `count` replicas have joined the rotation.
    ///
    /// # Errors
    /// If the program ends, or that takes longer than `timeout`.
    pub(super) async fn wait_for_joins(&mut self, count: usize, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while self.joined() < count {
            self.usage()?;
            let joined = self.joined();
            ensure!(
                Instant::now() <= deadline,
                "{joined} of {count} replicas are ready after {timeout:?}; see the log"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// The number of open connections of the program to the port `port`.
    ///
    /// # Errors
    /// If the program has ended.
    pub(super) fn connections(&self, port: u16) -> Result<usize> {
        let all = self.process.tcp().context("read the connections of the network")?;
        let is_own = |entry: &procfs::net::TcpNetEntry| entry.remote_address.port() == port;
        Ok(all.iter().filter(|entry| is_own(entry) && entry.state == procfs::net::TcpState::Established).count())
    }

    /// The number of replicas that have joined the rotation since the start.
    fn joined(&self) -> usize {
        self.joins.lock(|joins| joins.len())
    }

    /// The time at which `replica` joined the rotation after `since`; `None` if it has not.
    pub(super) fn joined_after(&self, replica: &str, since: Instant) -> Option<Instant> {
        self.joins.lock(|joins| joins.get(replica).copied()).filter(|at| *at >= since)
    }

    /// The text of `/metrics`, and the time that its answer took.
    ///
    /// # Errors
    /// If the program does not answer.
    pub(super) async fn scrape(&self) -> Result<(String, Duration)> {
        let start = Instant::now();
        let (status, body) = service::fetch::get(&self.address.to_string(), "/metrics", SCRAPE_TIMEOUT).await?;
        ensure!(status.is_success(), "{} answered /metrics with {status}", self.address);
        Ok((String::from_utf8_lossy(&body).into_owned(), start.elapsed()))
    }

    /// The value of the metric `name`, which has one series; `None` if the program has no such metric, or does not answer
    /// yet.
    pub(super) async fn value(&self, name: &str) -> Option<f64> {
        let (text, _) = self.scrape().await.ok()?;
        text.lines().find_map(|line| value(line, name))
    }
}

impl Joins {
    fn lock<T>(&self, read: impl FnOnce(&mut HashMap<String, Instant>) -> T) -> T {
        read(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The value in a line of `/metrics` if it is a sample of the metric `name`.
fn value(line: &str, name: &str) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    if !rest.starts_with([' ', '{']) {
        return None;
    }
    rest.rsplit(' ').next()?.parse().ok()
}

/// Reads a log until its end: notes the replicas that join, and copies it to `log`.
async fn follow(stderr: ChildStderr, mut log: File, joins: Joins) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(address) = joined_address(&line) {
            joins.lock(|joins| joins.insert(address.to_owned(), Instant::now()));
        }
        // The log is an aid for the reader of a failure. Without it, the figures are the same.
        let _unwritten = writeln!(log, "{line}");
    }
}

/// The address in a line of the log for a replica that has joined the rotation; `None` for any other line.
fn joined_address(line: &str) -> Option<&str> {
    let (_, fields) = line.split_once(JOINED)?;
    fields.split_whitespace().find_map(|field| field.strip_prefix("address="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_found_by_the_whole_name_of_its_metric() {
        for (line, expected) in [
            ("ready 3", Some(3.0)),
            ("ready{target=\"a b\"} 4", Some(4.0)),
            ("ready_replicas 5", None),
            ("# TYPE ready gauge", None),
        ] {
            assert_eq!(value(line, "ready"), expected, "{line}");
        }
    }

    #[test]
    fn the_log_tells_the_replicas_that_join() {
        let line = "2026-01-01T00:00:00Z  INFO dispatcher::worker::probes: a replica is ready and takes requests \
                    address=10.128.0.1:6000 capacity=Some(1)";
        assert_eq!(joined_address(line), Some("10.128.0.1:6000"));
        assert_eq!(joined_address("a replica is ejected address=10.128.0.1:6000"), None);
    }
}
