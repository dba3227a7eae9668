//! Runs loadgen and reads its report.

use crate::paths;
use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The exit status of loadgen after a complete run that breached a threshold or was sent late.
const BREACHED: i32 = 99;

/// Runs `loadgen run` with `flags`. Returns its report, which it also writes to `json`.
///
/// # Errors
/// If loadgen could not complete the run.
pub fn run(flags: &[&str], json: &Path) -> Result<Value> {
    run_command(Command::new(paths::program("loadgen")), flags, json)
}

/// Like [`run`], with a command that starts loadgen, such as `taskset -c 1 loadgen`.
///
/// # Errors
/// If loadgen could not complete the run.
pub fn run_command(mut command: Command, flags: &[&str], json: &Path) -> Result<Value> {
    command.arg("run").args(flags).arg(format!("--json={}", json.display()));
    let status = command.status().with_context(|| format!("start {command:?}"))?;
    ensure!(status.success() || status.code() == Some(BREACHED), "loadgen failed ({status}); its message is above");
    let text = std::fs::read_to_string(json).with_context(|| format!("read {}", json.display()))?;
    serde_json::from_str(&text).with_context(|| format!("parse {} as JSON", json.display()))
}

/// Images per second that one replica can classify, measured for five seconds. `url` is the flag `--url` of loadgen;
/// loadgen's report goes to `folder`.
///
/// # Errors
/// If no request was answered.
pub fn capacity(url: &str, folder: &Path) -> Result<f64> {
    let spinner = ProgressBar::new_spinner().with_message("measuring the capacity of one replica");
    spinner.enable_steady_tick(Duration::from_millis(100));
    let measured =
        run(&[url, "--closed=1", "--duration=5s", "--generate=60", "--quiet"], &folder.join("capacity.json"))?;
    spinner.finish_and_clear();
    let answered = measured["summary"]["answered"].as_f64().unwrap_or_default();
    ensure!(answered > 0.0, "the replica answered no request; see {}", folder.join("scaler.log").display());
    Ok(answered / measured["setup"]["length_seconds"].as_f64().unwrap_or(f64::INFINITY))
}
