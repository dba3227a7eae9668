//! loadgen, as a process in the cluster's network.

use crate::paths;
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;
use tokio::process::{Child, Command};

/// What loadgen exits with when it has made the run, and not everything in it was as it should be.
const BREACHED: i32 = 99;

/// A running one.
pub struct Load {
    child: Child,
    json: PathBuf,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// Requests that were sent.
    pub offered: u64,
    /// Those that did not get a correct 200.
    pub failed: u64,
    /// By code.
    pub errors: BTreeMap<String, u64>,
    /// Part of the offered ones that was answered within the objective.
    pub attainment: f64,
    /// Milliseconds; absent if nothing was answered.
    pub p99_ms: Option<f64>,
    /// Everything.
    pub whole: Value,
}

impl Load {
    /// Starts `loadgen run` with these flags against what takes pictures at `url`; its report goes to `json`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(url: &str, flags: &[&str], json: PathBuf) -> Result<Self> {
        let _none = std::fs::remove_file(&json);
        let mut command = Command::new(paths::program("loadgen"));
        command.args(["run", "--quiet", "--url", url]).args(flags).arg(format!("--json={}", json.display()));
        let child = command.stdin(Stdio::null()).kill_on_drop(true).spawn().context("start loadgen")?;
        Ok(Self { child, json })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When the run could not be made.
    pub async fn finish(mut self) -> Result<Report> {
        let status = self.child.wait().await?;
        ensure!(status.success() || status.code() == Some(BREACHED), "loadgen failed ({status})");
        Report::read(&self.json)
    }

    /// Ends it now; what was sent is reported.
    ///
    /// # Errors
    /// When the run could not be made.
    pub async fn end(mut self) -> Result<Report> {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        kill_process(pid.context("loadgen has ended by itself")?, Signal::INT)?;
        self.child.wait().await?;
        Report::read(&self.json)
    }
}

impl Report {
    fn read(json: &PathBuf) -> Result<Self> {
        let text = std::fs::read_to_string(json).with_context(|| format!("read {}", json.display()))?;
        let whole: Value = serde_json::from_str(&text).with_context(|| format!("read {}", json.display()))?;
        let summary = &whole["summary"];
        let number = |name: &str| summary[name].as_u64().with_context(|| format!("the report has no {name}"));
        let errors = summary["errors"].as_object().into_iter().flatten();
        Ok(Self {
            offered: number("offered")?,
            failed: number("failed")?,
            errors: errors.filter_map(|(code, count)| Some((code.clone(), count.as_u64()?))).collect(),
            attainment: summary["attainment"].as_f64().context("the report has no attainment")?,
            p99_ms: summary["latency_ms"]["p99"].as_f64(),
            whole,
        })
    }

    /// Fails unless every request got its answer.
    ///
    /// # Errors
    /// What was answered instead.
    pub fn check(&self) -> Result<()> {
        ensure!(self.offered > 0, "nothing was sent");
        ensure!(self.failed == 0, "{} of {} requests failed: {:?}", self.failed, self.offered, self.errors);
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (offered, failed, good) = (self.offered, self.failed, self.attainment * 100.0);
        write!(f, "{offered} requests, {failed} failed, {good:.1} % within 500 ms")?;
        self.p99_ms.map_or(Ok(()), |p99| write!(f, ", p99 {p99:.0} ms"))
    }
}
