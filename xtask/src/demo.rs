//! `cargo xtask demo`: replays a burst against a fresh system and judges whether the objective held.

use crate::build;
use crate::estimate::estimate;
use anyhow::{Result, ensure};
use harness::burst::Burst;
use harness::stack::Stack;
use harness::steal::{Stolen, Watch};
use harness::{command, paths};
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

/// The smallest share of all requests that must be answered correctly within the objective of 0.5 s, 0 to 1.
const GOAL: f64 = 0.99;

/// Time limit of `scaler explain`.
const EXPLAIN_LIMIT: Duration = Duration::from_secs(30);

/// Runs the demo. Replays the burst a second time if the first replay failed and the host stopped this virtual machine.
///
/// # Errors
/// If a program cannot be built or run, loadgen sends late, or the demo misses one of its goals.
pub fn run() -> Result<()> {
    println!("{}", estimate());
    build::programs(&build::PROGRAMS)?;
    let (stack, burst) = Burst::prepare(paths::output("demo"))?;
    let (stack, verdict, stolen) = replay(&burst, stack)?;
    if verdict.is_ok() || !stolen.stopped_the_machine() {
        return verdict;
    }
    println!("the host stopped this virtual machine, so the result does not count; replaying the burst once more");
    let (_stack, verdict, _stolen) = replay(&burst, stack)?;
    verdict
}

/// Replays the burst against a fresh scaler and prints the result. The inner result is the verdict on the replay.
fn replay(burst: &Burst, stack: Stack) -> Result<(Stack, Result<()>, Stolen)> {
    let stack = burst.rescale(stack)?;
    let html = format!("--html={}", paths::output("demo").join("report.html").display());
    let watch = Watch::start();
    let report = burst.replay(&[&html])?;
    let stolen = watch.finish();

    println!("\nthe decisions of the scaler");
    let mut explain = Command::new(paths::program("scaler"));
    explain.arg("explain").arg(format!("--scaler={}", stack.scaler.address));
    command::run(&mut explain, EXPLAIN_LIMIT)?;

    let outcome = DemoResult::of(&report);
    println!("\n{outcome}");
    if stolen.is_notable() {
        println!("{stolen}");
    }
    let verdict = outcome.judge();
    if verdict.is_ok() {
        println!("the objective held");
    }
    Ok((stack, verdict, stolen))
}

/// The figures by which a replay is judged.
#[derive(Debug, Clone, Copy)]
struct DemoResult {
    /// The share of all requests that were answered correctly within the objective, 0 to 1.
    good: f64,
    failed: u64,
    /// Whether loadgen sent every request on time.
    is_punctual: bool,
    /// The number of replicas before the burst.
    first: f64,
    /// The largest number of replicas.
    peak: f64,
    /// The smallest number of replicas after the peak. The last number may be higher, because arrivals are random.
    after: f64,
}

impl DemoResult {
    /// Reads the figures from loadgen's report.
    fn of(report: &Value) -> Self {
        let summary = &report["summary"];
        let good_answers = summary["goodput_per_second"].as_f64().unwrap_or_default()
            * report["setup"]["length_seconds"].as_f64().unwrap_or_default();
        let samples = report["glimpses"].as_array().into_iter().flatten();
        let replicas: Vec<f64> = samples.filter_map(|sample| sample["replicas"].as_f64()).collect();
        let peak = replicas.iter().copied().fold(0.0, f64::max);
        Self {
            good: good_answers / summary["offered"].as_f64().unwrap_or(f64::INFINITY),
            failed: summary["failed"].as_u64().unwrap_or(u64::MAX),
            is_punctual: report["punctuality"]["is_bottleneck"] == false,
            first: replicas.first().copied().unwrap_or(0.0),
            peak,
            after: replicas.iter().copied().skip_while(|&count| count < peak).fold(peak, f64::min),
        }
    }

    fn judge(self) -> Result<()> {
        let logs = paths::output("demo");
        ensure!(self.is_punctual, "loadgen could not send on time; end other programs on this machine and try again");
        ensure!(self.good >= GOAL, "the objective was missed: too few answers were correct and in time");
        ensure!(self.failed == 0, "{} requests failed; read the logs in {}", self.failed, logs.display());
        ensure!(self.peak > self.first && self.after < self.peak, "the replica count did not rise and fall again");
        Ok(())
    }
}

impl std::fmt::Display for DemoResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { good, failed, first, peak, after, .. } = self;
        let (good, goal) = (100.0 * good, 100.0 * GOAL);
        writeln!(f, "correct and within the objective: {good:.2} % (goal {goal:.0} %), failed: {failed}")?;
        write!(f, "replicas: {first} before the burst, {peak} during the burst, {after} after it")
    }
}
