//! `cargo xtask demo`: the main job with a verdict.

use crate::stack::{Setup, Stack};
use crate::steal::{Stolen, Watch};
use crate::{build, paths};
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

/// What the run must reach: right, and within 0.5 s.
const GOAL: f64 = 0.99;

/// What the scaler plans for. Stricter than [`GOAL`], of which a plan for 99 % would leave nothing for surprises.
const QUANTILE: &str = "--quantile=0.999";

/// Runs the demo.
///
/// # Errors
/// When something could not be run, or the objective did not hold. A miss while the host of this machine stopped it is
/// tried once more.
pub fn run() -> Result<()> {
    build::programs()?;
    let folder = paths::output("demo");
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

    let burst = Burst { url, capacity, folder };
    let (stack, outcome, stolen) = burst.replay(stack)?;
    if outcome.is_ok() || !stolen.stopped_the_machine() {
        return outcome;
    }
    println!("a machine that was stopped says nothing about the objective; replaying once more");
    let (_stack, outcome, _stolen) = burst.replay(stack)?;
    outcome
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

/// The workload, scaled to this machine.
struct Burst {
    url: String,
    capacity: f64,
    folder: PathBuf,
}

impl Burst {
    /// Replays it against a fresh scaler, tells what happened, and judges.
    fn replay(&self, stack: Stack) -> Result<(Stack, Result<()>, Stolen)> {
        let scaling = ["--min=1", MAX, SHARE, QUANTILE, "--interval=1s", "--down-window=8s"].map(str::to_owned);
        let stack = stack.rescale(scaling.into())?;
        println!("replaying the burst, scaled to peak at 120 % of that");
        let workload = format!("--workload={}", paths::root().join("loadgen/workloads/burst.txt").display());
        let scale = format!("--rate-scale={:.3}", self.capacity / 100.0);
        let html = format!("--html={}", self.folder.join("report.html").display());
        let watch = Watch::start();
        let report = loadgen(&[&self.url, &workload, &scale, "--table=4", &html], &self.folder.join("report.json"))?;
        let stolen = watch.finish();

        println!("\nwhat the scaler did");
        let explained = Command::new(paths::program("scaler"))
            .arg("explain")
            .arg(format!("--scaler={}", stack.scaler.address))
            .status()
            .context("run scaler explain")?;
        ensure!(explained.success(), "the scaler does not explain itself ({explained})");
        Ok((stack, verdict(&report, stolen), stolen))
    }
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

/// Whether the objective held, and the scaler went up and came down again, beside what the host took meanwhile.
fn verdict(report: &Value, stolen: Stolen) -> Result<()> {
    let summary = &report["summary"];
    let good = summary["goodput_per_second"].as_f64().unwrap_or_default()
        * report["setup"]["length_seconds"].as_f64().unwrap_or_default()
        / summary["offered"].as_f64().unwrap_or(f64::INFINITY);
    let failed = summary["failed"].as_u64().unwrap_or(u64::MAX);
    let empty = Vec::new();
    let replicas = report["glimpses"].as_array().unwrap_or(&empty).iter();
    let replicas: Vec<f64> = replicas.filter_map(|glimpse| glimpse["replicas"].as_f64()).collect();
    let peak = replicas.iter().copied().fold(0.0, f64::max);
    let first = replicas.first().copied().unwrap_or(0.0);
    // The fewest since the burst: random arrivals may ask for one more again before the end.
    let since = replicas.iter().skip_while(|&&count| count < peak);
    let after = since.copied().fold(peak, f64::min);

    println!("\nright and within the objective: {:.2} % (goal {:.0} %), failed: {failed}", 100.0 * good, 100.0 * GOAL);
    println!("replicas: {first} before the burst, {peak} in it, {after} after it");
    if stolen.is_notable() {
        println!("{stolen}");
    }
    ensure!(good >= GOAL, "the objective was missed");
    ensure!(failed == 0, "requests failed");
    ensure!(peak > first && after < peak, "the scaler did not follow the burst");
    println!("the objective held");
    Ok(())
}
