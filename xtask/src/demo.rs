//! `cargo xtask demo`: the main job with a verdict.

use crate::burst::Burst;
use crate::stack::Stack;
use crate::steal::{Stolen, Watch};
use crate::{build, paths};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::process::Command;

/// What the run must reach: right, and within 0.5 s.
const GOAL: f64 = 0.99;

/// Runs the demo.
///
/// # Errors
/// When something could not be run, or the objective did not hold. A miss while the host of this machine stopped it is
/// tried once more.
pub fn run() -> Result<()> {
    build::programs()?;
    let (stack, burst) = Burst::prepare(paths::output("demo"))?;
    let (stack, outcome, stolen) = replay(&burst, stack)?;
    if outcome.is_ok() || !stolen.stopped_the_machine() {
        return outcome;
    }
    println!("a machine that was stopped says nothing about the objective; replaying once more");
    let (_stack, outcome, _stolen) = replay(&burst, stack)?;
    outcome
}

/// Replays the burst against a fresh scaler, tells what happened, and judges.
fn replay(burst: &Burst, stack: Stack) -> Result<(Stack, Result<()>, Stolen)> {
    let stack = burst.rescale(stack)?;
    let html = format!("--html={}", paths::output("demo").join("report.html").display());
    let watch = Watch::start();
    let report = burst.replay(&[&html])?;
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
    ensure!(report["punctuality"]["is_bottleneck"] == false, "the load could not be sent on time");
    ensure!(good >= GOAL, "the objective was missed");
    ensure!(failed == 0, "requests failed");
    ensure!(peak > first && after < peak, "the scaler did not follow the burst");
    println!("the objective held");
    Ok(())
}
