//! Runs loadgen, and reads the figures that the checks need from its report.

use crate::paths;
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// loadgen's exit status after a complete run that breached a threshold, or in which this machine sent too late.
const THRESHOLD_BREACHED: i32 = 99;

/// A running loadgen, which is killed when this value is dropped.
pub struct LoadgenProcess {
    child: Child,
    report: PathBuf,
}

/// The figures of a run of loadgen.
#[derive(Debug)]
pub struct LoadReport {
    /// The number of requests that were scheduled.
    pub offered: u64,
    /// The number of requests without a correct answer of status 200.
    pub failed: u64,
    /// The number of failed requests for each error code.
    pub errors: BTreeMap<String, u64>,
    /// The share of the offered requests that were answered within the objective, 0 to 1.
    pub attainment: f64,
    /// The objective.
    pub objective: Duration,
    /// The 99th percentile of the latency of all offered requests in milliseconds; `None` if more than 1 % have failed,
    /// since that percentile is never reached.
    pub p99_ms: Option<f64>,
    /// The length of the schedule in seconds.
    pub length_seconds: f64,
}

impl LoadgenProcess {
    /// Starts `loadgen run` with `flags`. It posts images to `url`, and writes its JSON report to the file `report`.
    ///
    /// # Errors
    /// If loadgen cannot be started.
    pub fn start(url: &str, flags: &[&str], report: PathBuf) -> Result<Self> {
        // If the run fails, an old report would be taken for its report.
        if report.exists() {
            std::fs::remove_file(&report).with_context(|| format!("remove {}", report.display()))?;
        }
        let mut command = Command::new(paths::program("loadgen"));
        command.args(["run", "--quiet", "--url", url]).args(flags).arg(format!("--json={}", report.display()));
        let child = command
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("start loadgen; build it: cargo build --release --workspace")?;
        Ok(Self { child, report })
    }

    /// Waits until the run is over. Returns its figures.
    ///
    /// # Errors
    /// If loadgen failed.
    pub async fn finish(mut self) -> Result<LoadReport> {
        let status = self.child.wait().await.context("wait for loadgen")?;
        ensure!(status.success() || status.code() == Some(THRESHOLD_BREACHED), "loadgen run failed ({status})");
        LoadReport::read(&self.report)
    }

    /// Stops the run. Returns the figures of the requests that were sent.
    ///
    /// # Errors
    /// If loadgen has ended already, or writes no report.
    pub async fn stop(mut self) -> Result<LoadReport> {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let pid = pid.context("loadgen has ended before it was stopped")?;
        kill_process(pid, Signal::INT).context("send SIGINT to loadgen")?;
        self.child.wait().await.context("wait for loadgen")?;
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
            objective: report["setup"]["objective_ms"]
                .as_f64()
                .map(|milliseconds| Duration::from_secs_f64(milliseconds / 1e3))
                .context("the report has no setup.objective_ms")?,
            p99_ms: summary["offered_latency_ms"]["p99"].as_f64(),
            length_seconds: report["setup"]["length_seconds"]
                .as_f64()
                .context("the report has no setup.length_seconds")?,
        })
    }

    /// Checks that at least `share` of the requests were answered within the objective.
    ///
    /// # Errors
    /// If fewer were.
    pub fn ensure_attainment(&self, share: f64) -> Result<()> {
        let (found, wanted, objective) = (self.attainment * 100.0, share * 100.0, self.objective.as_millis());
        ensure!(
            self.attainment >= share,
            "{found:.1} % of {} requests were answered within {objective} ms, but {wanted:.0} % must be",
            self.offered
        );
        Ok(())
    }

    /// Checks that requests were sent and none failed.
    ///
    /// # Errors
    /// If a request failed. The message has the error codes.
    pub fn ensure_no_failures(&self) -> Result<()> {
        ensure!(self.offered > 0, "loadgen sent no requests");
        ensure!(
            self.failed == 0,
            "{} of {} requests failed; their error codes: {:?}",
            self.failed,
            self.offered,
            self.errors
        );
        Ok(())
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (offered, failed, percent) = (self.offered, self.failed, self.attainment * 100.0);
        let objective = self.objective.as_millis();
        write!(f, "{offered} requests, {failed} failed, {percent:.1} % within {objective} ms, p99 of all offered ")?;
        match self.p99_ms {
            Some(p99) => write!(f, "{p99:.0} ms"),
            None => f.write_str("never"),
        }
    }
}
