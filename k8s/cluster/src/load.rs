//! loadgen as a process, and the figures of its report that the checks need.

use crate::paths;
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::{Child, Command};

/// loadgen's exit status when the run was made, and a threshold was breached or this machine could not send on time.
const THRESHOLD_BREACHED: i32 = 99;

/// A running loadgen.
pub struct LoadgenProcess {
    child: Child,
    report: PathBuf,
}

/// The figures of a run.
#[derive(Debug)]
pub struct LoadReport {
    /// Requests that were scheduled.
    pub offered: u64,
    /// Requests without a correct answer of status 200.
    pub failed: u64,
    /// Failed requests by their error code.
    pub errors: BTreeMap<String, u64>,
    /// Share of the offered requests that were answered within the objective, 0 to 1.
    pub attainment: f64,
    /// The 99th percentile of the latency in milliseconds; `None` if nothing was answered.
    pub p99_ms: Option<f64>,
    /// The length of the schedule in seconds.
    pub length_seconds: f64,
}

impl LoadgenProcess {
    /// Starts `loadgen run` with these flags against `url`, which takes images. loadgen writes its JSON report to
    /// `report`.
    ///
    /// # Errors
    /// If loadgen cannot be started.
    pub fn start(url: &str, flags: &[&str], report: PathBuf) -> Result<Self> {
        // An old report must not be taken for that of a run that failed.
        if report.exists() {
            std::fs::remove_file(&report).with_context(|| format!("remove {}", report.display()))?;
        }
        let mut command = Command::new(paths::program("loadgen"));
        command.args(["run", "--quiet", "--url", url]).args(flags).arg(format!("--json={}", report.display()));
        let child = command.stdin(Stdio::null()).kill_on_drop(true).spawn().context("start loadgen")?;
        Ok(Self { child, report })
    }

    /// Waits until the run is over.
    ///
    /// # Errors
    /// If loadgen failed.
    pub async fn finish(mut self) -> Result<LoadReport> {
        let status = self.child.wait().await?;
        ensure!(status.success() || status.code() == Some(THRESHOLD_BREACHED), "loadgen failed ({status})");
        LoadReport::read(&self.report)
    }

    /// Stops the run now. The report covers the requests that were sent.
    ///
    /// # Errors
    /// If loadgen has ended already, or has written no report.
    pub async fn stop(mut self) -> Result<LoadReport> {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        kill_process(pid.context("loadgen has ended before it was stopped")?, Signal::INT)?;
        self.child.wait().await?;
        LoadReport::read(&self.report)
    }
}

impl LoadReport {
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let report: Value = serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
        Self::parse(&report).with_context(|| format!("read {}", path.display()))
    }

    fn parse(report: &Value) -> Result<Self> {
        let summary = &report["summary"];
        let count = |name: &str| summary[name].as_u64().with_context(|| format!("the report has no summary.{name}"));
        let errors = summary["errors"].as_object().into_iter().flatten();
        Ok(Self {
            offered: count("offered")?,
            failed: count("failed")?,
            errors: errors.filter_map(|(code, count)| Some((code.clone(), count.as_u64()?))).collect(),
            attainment: summary["attainment"].as_f64().context("the report has no summary.attainment")?,
            p99_ms: summary["latency_ms"]["p99"].as_f64(),
            length_seconds: report["setup"]["length_seconds"]
                .as_f64()
                .context("the report has no setup.length_seconds")?,
        })
    }

    /// Fails unless requests were sent and all of them were answered.
    ///
    /// # Errors
    /// If a request failed, with the error codes.
    pub fn ensure_no_failures(&self) -> Result<()> {
        ensure!(self.offered > 0, "loadgen sent no requests");
        ensure!(self.failed == 0, "{} of {} requests failed: {:?}", self.failed, self.offered, self.errors);
        Ok(())
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (offered, failed, percent) = (self.offered, self.failed, self.attainment * 100.0);
        write!(f, "{offered} requests, {failed} failed, {percent:.1} % within 500 ms")?;
        self.p99_ms.map_or(Ok(()), |p99| write!(f, ", p99 {p99:.0} ms"))
    }
}
