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

/// Least share of all requests that must be answered rightly and within 0.5 s.
const GOAL: f64 = 0.99;

/// Time limit of `scaler explain`.
const EXPLAIN_LIMIT: Duration = Duration::from_secs(30);

/// Runs the demo. If the objective was missed while the host of this virtual machine stopped it, the burst is replayed once
/// more.
///
/// # Errors
/// If something could not be run, or the objective did not hold.
pub fn run() -> Result<()> {
    println!("{}", estimate());
    build::programs()?;
    let (stack, burst) = Burst::prepare(paths::output("demo"))?;
    let (stack, verdict, stolen) = replay(&burst, stack)?;
    if verdict.is_ok() || !stolen.stopped_the_machine() {
        return verdict;
    }
    println!("a machine that was stopped says nothing about the objective; replaying once more");
    let (_stack, verdict, _stolen) = replay(&burst, stack)?;
    verdict
}

/// Replays the burst against a fresh scaler and prints what happened. Returns whether the objective held.
fn replay(burst: &Burst, stack: Stack) -> Result<(Stack, Result<()>, Stolen)> {
    let stack = burst.rescale(stack)?;
    let html = format!("--html={}", paths::output("demo").join("report.html").display());
    let watch = Watch::start();
    let report = burst.replay(&[&html])?;
    let stolen = watch.finish();

    println!("\nwhat the scaler did");
    let mut explain = Command::new(paths::program("scaler"));
    explain.arg("explain").arg(format!("--scaler={}", stack.scaler.address));
    command::run(&mut explain, EXPLAIN_LIMIT)?;

    let outcome = Outcome::of(&report);
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

/// The figures of a run by which it is judged.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    /// Share of all requests that were answered rightly and within the objective, 0 to 1.
    good: f64,
    failed: u64,
    /// Whether loadgen sent every request on time.
    is_punctual: bool,
    /// Replicas before the burst.
    first: f64,
    /// Most replicas.
    peak: f64,
    /// Fewest replicas after the peak; random arrivals may ask for one more again before the end.
    after: f64,
}

impl Outcome {
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
        ensure!(self.is_punctual, "loadgen could not send the load on time: this machine is too busy");
        ensure!(self.good >= GOAL, "the objective was missed");
        ensure!(self.failed == 0, "{} requests failed", self.failed);
        ensure!(self.peak > self.first && self.after < self.peak, "the scaler did not follow the burst");
        Ok(())
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { good, failed, first, peak, after, .. } = self;
        let (good, goal) = (100.0 * good, 100.0 * GOAL);
        writeln!(f, "right and within the objective: {good:.2} % (goal {goal:.0} %), failed: {failed}")?;
        write!(f, "replicas: {first} before the burst, {peak} in it, {after} after it")
    }
}
