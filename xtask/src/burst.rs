//! The demo's burst: a workload scaled to what one replica can do on this machine, against a fresh scaler.

use crate::paths;
use crate::stack::{Setup, Stack};
use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Cores for each replica, where permitted: three of them and the rest of the system fit two cores.
const SHARE: &str = "--cpu-share=0.6";

/// The most that the scaler may start.
const MAX: &str = "--max=3";

/// Calm at both ends, and between them more than one replica can do.
pub const WORKLOAD: &str = "loadgen/workloads/burst.txt";

/// Of the scaler, while the burst is replayed. Planned is for more than [`crate::demo::run`] asks for, as a plan for
/// that would leave nothing for surprises.
pub const SCALING: [&str; 6] = ["--min=1", MAX, SHARE, "--quantile=0.999", "--interval=1s", "--down-window=8s"];

/// The interval among these.
pub const INTERVAL_SECONDS: f64 = 1.0;

/// The workload, scaled to this machine.
pub struct Burst {
    /// Of the dispatcher.
    url: String,
    /// Pictures per second that one replica can do.
    capacity: f64,
    folder: PathBuf,
}

impl Burst {
    /// Starts the stack and measures what one replica can do.
    ///
    /// # Errors
    /// When something does not start or answer.
    pub fn prepare(folder: PathBuf) -> Result<(Stack, Self)> {
        let stack = Stack::start(Setup {
            listen: "127.0.0.1:0",
            folder: folder.clone(),
            scaler: vec!["--max=1".into(), SHARE.into()],
        })?;
        println!("dispatcher  http://{}", stack.dispatcher.address);
        println!("cpu share   {}", stack.share);
        let url = format!("--url=http://{}/predict", stack.dispatcher.address);
        let capacity = capacity(&url, &folder)?;
        println!("capacity    {capacity:.1} pictures/s, {:.0} ms each", 1e3 / capacity);
        Ok((stack, Self { url, capacity, folder }))
    }

    /// By what the workload's rates are multiplied.
    pub fn scale(&self) -> f64 {
        (self.capacity * 10.0).round() / 1e3
    }

    /// A fresh scaler.
    ///
    /// # Errors
    /// When it does not start.
    pub fn rescale(&self, stack: Stack) -> Result<Stack> {
        stack.rescale(SCALING.map(str::to_owned).into())
    }

    /// Replays it; loadgen's report.
    ///
    /// # Errors
    /// When loadgen fails.
    pub fn replay(&self, flags: &[&str]) -> Result<Value> {
        println!("replaying the burst, scaled to peak at 120 % of that");
        let workload = format!("--workload={}", paths::root().join(WORKLOAD).display());
        let scale = format!("--rate-scale={}", self.scale());
        let flags = [&[self.url.as_str(), &workload, &scale, "--table=4"], flags].concat();
        loadgen(&flags, &self.folder.join("report.json"))
    }
}

/// Pictures per second that one replica can do.
fn capacity(url: &str, folder: &Path) -> Result<f64> {
    let spinner = ProgressBar::new_spinner().with_message("measuring what one replica can do");
    spinner.enable_steady_tick(Duration::from_millis(100));
    let measured =
        loadgen(&[url, "--closed=1", "--duration=5s", "--generate=60", "--quiet"], &folder.join("capacity.json"))?;
    spinner.finish_and_clear();
    let answered = measured["summary"]["answered"].as_f64().unwrap_or_default();
    ensure!(answered > 0.0, "the replica answered nothing; see {}", folder.join("scaler.log").display());
    Ok(answered / measured["setup"]["length_seconds"].as_f64().unwrap_or(f64::INFINITY))
}

/// Runs loadgen and reads its report.
fn loadgen(flags: &[&str], json: &Path) -> Result<Value> {
    let mut command = Command::new(paths::program("loadgen"));
    command.arg("run").args(flags).arg(format!("--json={}", json.display()));
    let status = command.status().context("run loadgen")?;
    ensure!(status.success(), "loadgen failed ({status})");
    let text = std::fs::read_to_string(json).with_context(|| format!("read {}", json.display()))?;
    serde_json::from_str(&text).with_context(|| format!("read {}", json.display()))
}
