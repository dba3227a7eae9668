//! The demo's burst through the real programs, and the same arrivals through the simulator with the service times and the
//! start-up that were measured: both must tell the same.

use super::simulate;
use crate::burst::{Burst, INTERVAL_SECONDS, SCALING, WORKLOAD};
use crate::stack::{Service, Stack};
use crate::{build, paths};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs;

/// Of the arrivals, in both.
const SEED: &str = "--seed=1";

/// The histogram of what replicas worked for each answer.
const WORK: &str = "dispatcher_replica_work_seconds_bucket";

/// Most service times that the simulator is given.
const TIMES: f64 = 1000.0;

/// What matters of a run.
struct Figures {
    attainment: f64,
    replica_seconds: f64,
}

/// Runs both and prints them.
///
/// # Errors
/// When something does not start or answer.
pub fn run() -> Result<Value> {
    println!("\n== The demo's burst, live and simulated");
    build::programs()?;
    let folder = paths::output("bench-scaler");
    let (stack, burst) = Burst::prepare(folder.clone())?;
    let stack = burst.rescale(stack)?;
    let before = work(&stack.dispatcher)?;
    let report = burst.replay(&[SEED, "--arrivals=poisson"])?;
    let seconds = report["setup"]["length_seconds"].as_f64().context("the report has no length")?;
    let decisions: Value = serde_json::from_str(&get(&stack.scaler, "/decisions")?)?;
    let decisions = decisions.as_array().context("/decisions is no list")?;
    let live = Figures {
        attainment: report["summary"]["attainment"].as_f64().context("the report has no attainment")?,
        replica_seconds: replica_seconds(decisions, seconds),
    };

    let times = folder.join("service-times.txt");
    fs::write(&times, service_times(&before, &work(&stack.dispatcher)?)?)?;
    let lead = decisions.iter().rev().find_map(|decision| decision["workings"]["lead_seconds"].as_f64());
    // The law waits for a start-up and one interval.
    let startup = lead.context("the scaler decided nothing")? - INTERVAL_SECONDS;
    let slots = Stack::status(&stack.dispatcher)?["replicas"][0]["capacity"].as_u64().unwrap_or(1);
    let owned = [
        format!("--workload={}", paths::root().join(WORKLOAD).display()),
        format!("--rate-scale={}", burst.scale()),
        format!("--service-times={}", times.display()),
        format!("--startup={startup:.3}s"),
        format!("--slots={slots}"),
    ];
    let known = SCALING.iter().copied().filter(|flag| !flag.starts_with("--cpu-share"));
    let flags: Vec<&str> =
        owned.iter().map(String::as_str).chain(known).chain([SEED, "--seeds=1", "--policy=slo", "--goal=0"]).collect();
    let (found, table) = simulate(&flags)?;
    println!("\nsimulated with a start-up of {startup:.2} s\n{table}");
    let row = &found["workloads"][0]["laws"][0];
    let simulated = Figures {
        attainment: row["attainment"].as_f64().context("no attainment")?,
        replica_seconds: row["replica_seconds"].as_f64().context("no replica-seconds")?,
    };

    println!("            in time   replica-seconds");
    for (name, figures) in [("live", &live), ("simulated", &simulated)] {
        println!("{name:10} {:6.2} %   {:13.1}", 100.0 * figures.attainment, figures.replica_seconds);
    }
    let (points, ratio) =
        (100.0 * (live.attainment - simulated.attainment), live.replica_seconds / simulated.replica_seconds);
    println!("difference {points:+6.2} points (within 2), ratio {ratio:.3} (within 10 %)");
    let json = |Figures { attainment, replica_seconds }: &Figures| json!({"attainment": attainment, "replica_seconds": replica_seconds});
    Ok(json!({"live": json(&live), "simulated": json(&simulated), "points": points, "ratio": ratio}))
}

fn get(service: &Service, path: &str) -> Result<String> {
    let url = format!("http://{}{path}", service.address);
    Ok(ureq::get(&url).call().with_context(|| format!("get {url}"))?.body_mut().read_to_string()?)
}

/// Upper bounds and cumulative counts.
fn work(dispatcher: &Service) -> Result<Vec<(f64, f64)>> {
    let text = get(dispatcher, "/metrics")?;
    let line = |line: &str| {
        let (bound, count) = line.strip_prefix(WORK)?.strip_prefix("{le=\"")?.split_once("\"} ")?;
        Some((bound.parse().ok()?, count.parse().ok()?))
    };
    Ok(text.lines().filter_map(line).collect())
}

/// What was added, spread evenly within each bucket; one a line, milliseconds.
fn service_times(before: &[(f64, f64)], after: &[(f64, f64)]) -> Result<String> {
    let mut text = String::new();
    let total = |buckets: &[(f64, f64)]| buckets.last().map_or(0.0, |bucket| bucket.1);
    let share = TIMES / (total(after) - total(before)).max(1.0);
    let (mut lower, mut below) = (0.0, 0.0);
    for (index, &(bound, count)) in after.iter().enumerate() {
        let upto = count - before.get(index).map_or(0.0, |bucket| bucket.1);
        let times = ((upto - below) * share).round() as usize;
        for time in 0..times {
            let upper = if bound.is_finite() { bound } else { lower };
            writeln!(text, "{:.3}", 1e3 * (lower + (upper - lower) * (time as f64 + 0.5) / times as f64))?;
        }
        (lower, below) = (bound, upto);
    }
    Ok(text)
}

/// Replicas that ran, starting ones included, over the last `seconds` of the decisions.
fn replica_seconds(decisions: &[Value], seconds: f64) -> f64 {
    let at = |decision: &Value| decision["at_seconds"].as_f64().unwrap_or_default();
    let end = decisions.last().map_or(0.0, at);
    let running = |decision: &Value| {
        let count = |state: &str| decision["replicas"][state].as_f64().unwrap_or_default();
        count("ready") + count("starting")
    };
    let spans = decisions.windows(2).map(|pair| {
        let (from, to) = (at(&pair[0]).max(end - seconds), at(&pair[1]));
        running(&pair[0]) * (to - from).max(0.0)
    });
    spans.sum()
}
