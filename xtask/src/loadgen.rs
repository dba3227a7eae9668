//! Runs loadgen and reads its report.

use crate::paths;
use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What loadgen exits with when it has made the run, and not everything in it was as it should be.
const BREACHED: i32 = 99;

/// `loadgen run` with these flags; its report, which it also writes to `json`.
///
/// # Errors
/// When the run could not be made.
pub fn run(flags: &[&str], json: &Path) -> Result<Value> {
    run_on(None, flags, json)
}

/// The same, on one core only.
///
/// # Errors
/// When the run could not be made.
pub fn run_on(core: Option<&str>, flags: &[&str], json: &Path) -> Result<Value> {
    let program = paths::program("loadgen");
    let mut command = match core {
        None => Command::new(program),
        Some(core) => {
            let mut command = Command::new("taskset");
            command.args(["-c", core]).arg(program);
            command
        }
    };
    command.arg("run").args(flags).arg(format!("--json={}", json.display()));
    let status = command.status().context("run loadgen")?;
    ensure!(status.success() || status.code() == Some(BREACHED), "loadgen failed ({status})");
    let text = std::fs::read_to_string(json).with_context(|| format!("read {}", json.display()))?;
    serde_json::from_str(&text).with_context(|| format!("read {}", json.display()))
}

/// Pictures per second that one replica behind `url` can do, measured for five seconds.
///
/// # Errors
/// When it answers nothing.
pub fn capacity(url: &str, folder: &Path) -> Result<f64> {
    let spinner = ProgressBar::new_spinner().with_message("measuring what one replica can do");
    spinner.enable_steady_tick(Duration::from_millis(100));
    let measured =
        run(&[url, "--closed=1", "--duration=5s", "--generate=60", "--quiet"], &folder.join("capacity.json"))?;
    spinner.finish_and_clear();
    let answered = measured["summary"]["answered"].as_f64().unwrap_or_default();
    ensure!(answered > 0.0, "the replica answered nothing; see {}", folder.join("scaler.log").display());
    Ok(answered / measured["setup"]["length_seconds"].as_f64().unwrap_or(f64::INFINITY))
}
