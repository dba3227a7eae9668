//! Replays workloads with the real programs, and then simulates them with the same arrivals and with the measured service
//! times and start-up time. Attainment and replica-seconds of both should agree. The demo's burst is answered whole, so
//! the attainments of another workload are compared, too, in which some requests are late.

use super::comparison::{Comparison, Row};
use super::section::Measured;
use crate::figure::{Figure, TargetRange};
use anyhow::{Context, Result};
use harness::burst::{Burst, INTERVAL_SECONDS, SCALING, WORKLOAD};
use harness::stack::{ServiceProcess, Stack};
use harness::{http, paths};
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// The flag for the seed of the arrivals, of loadgen and of the simulator.
const SEED: &str = "--seed=1";

/// The name of the buckets of the dispatcher's histogram of work.
const WORK_BUCKET: &str = "dispatcher_replica_work_seconds_bucket";

/// The approximate number of service times in the simulator's file, at most.
const MAX_SERVICE_TIMES: f64 = 1000.0;

/// A bucket of a histogram: its upper bound in seconds, and the number of observations up to that bound.
type Bucket = (f64, f64);

/// The workload in which some requests are late, relative to the root of the workspace.
const SURGES: &str = "loadgen/workloads/surges.txt";

/// The workloads by name.
const WORKLOADS: [(&str, &str); 2] = [("burst", WORKLOAD), ("surges", SURGES)];

/// The attainment and the cost of a run.
struct RunResult {
    /// The share of the requests that were answered within the objective, 0 to 1.
    attainment: f64,
    /// The time that replicas ran, summed over all replicas.
    replica_seconds: f64,
}

impl RunResult {
    fn json(&self) -> Value {
        json!({"attainment": self.attainment, "replica_seconds": self.replica_seconds})
    }
}

/// What the simulator needs to know about the live run.
struct SimulatorInput {
    /// The factor of the workload's rates.
    rate_scale: f64,
    /// The text of a file of service times: one a line, in milliseconds.
    service_times: String,
    /// The time from the start of a replica until it is ready, in seconds.
    startup_seconds: f64,
    /// The slots of a replica.
    slots: u64,
}

/// Runs the workloads live and simulated, and prints the results.
///
/// # Errors
/// If a program does not start, fails or does not answer.
pub(super) fn measure() -> Result<Measured> {
    let folder = paths::output("bench-scaler");
    let (mut stack, burst) = Burst::prepare(folder.clone())?;
    let (mut figures, mut details) = (Vec::new(), Map::new());
    for (name, workload) in WORKLOADS {
        // A new scaler knows nothing of the workload before, as that of the simulation.
        stack = burst.rescale(stack)?;
        let (live, repetition) = run_live(&stack, &burst, workload)?;
        let simulated = run_simulated(&repetition, workload, &folder)?;
        println!("{name:10}  in time   replica-seconds");
        for (name, outcome) in [("live", &live), ("simulated", &simulated)] {
            println!("{name:10} {:6.2} %   {:13.1}", 100.0 * outcome.attainment, outcome.replica_seconds);
        }
        let points = 100.0 * (live.attainment - simulated.attainment);
        let ratio = live.replica_seconds / simulated.replica_seconds;
        figures.push(
            Figure::new(format!("live_{name}_points"), points, "points")
                .labelled(format!("live, {name}: in time, minus the simulation's share"))
                .with_target(TargetRange::Between(-2.0, 2.0)),
        );
        figures.push(
            Figure::new(format!("live_{name}_ratio"), ratio, "")
                .labelled(format!("live, {name}: replica-seconds ÷ those of the simulation"))
                .with_target(TargetRange::Between(0.9, 1.1)),
        );
        if workload == SURGES {
            figures.push(
                Figure::new("live_surges_attainment", 100.0 * live.attainment, "%")
                    .labelled("live, surges: in time; otherwise the comparison says little")
                    .with_target(TargetRange::Between(90.0, 99.0)),
            );
        }
        details.insert(name.into(), json!({"live": live.json(), "simulated": simulated.json()}));
    }
    Ok(Measured { figures, details: details.into() })
}

fn run_live(stack: &Stack, burst: &Burst, workload: &str) -> Result<(RunResult, SimulatorInput)> {
    let before = work_buckets(&stack.dispatcher)?;
    let report = burst.replay_workload(workload, &[SEED, "--arrivals=poisson"])?;
    let seconds = report["setup"]["length_seconds"].as_f64().context("the report has no setup.length_seconds")?;
    let decisions = serde_json::from_str(&get(&stack.scaler, "/decisions")?);
    let decisions: Value = decisions.context("parse the scaler's /decisions")?;
    let decisions = decisions.as_array().context("the scaler's /decisions is no list")?;
    let attainment = report["summary"]["attainment"].as_f64().context("the report has no summary.attainment")?;
    let lead = decisions.iter().rev().find_map(|decision| decision["workings"]["lead_seconds"].as_f64());
    let repetition = SimulatorInput {
        rate_scale: burst.scale(),
        service_times: service_times(&before, &work_buckets(&stack.dispatcher)?)?,
        // The law's lead is the start-up time plus one interval.
        startup_seconds: lead.context("no decision in /decisions has workings.lead_seconds")? - INTERVAL_SECONDS,
        slots: Stack::status(&stack.dispatcher)?["replicas"][0]["capacity"].as_u64().unwrap_or(1),
    };
    Ok((RunResult { attainment, replica_seconds: replica_seconds(decisions, seconds) }, repetition))
}

fn run_simulated(repetition: &SimulatorInput, workload: &str, folder: &Path) -> Result<RunResult> {
    let SimulatorInput { rate_scale, service_times, startup_seconds, slots } = repetition;
    let times = folder.join("service-times.txt");
    fs::write(&times, service_times).with_context(|| format!("write {}", times.display()))?;
    let flags = [
        format!("--workload={}", paths::root().join(workload).display()),
        format!("--rate-scale={rate_scale}"),
        format!("--service-times={}", times.display()),
        format!("--startup={startup_seconds:.3}s"),
        format!("--slots={slots}"),
    ];
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    // The simulator does not know --cpu-share. The measured service times contain its effect.
    flags.extend(SCALING.iter().copied().filter(|flag| !flag.starts_with("--cpu-share")));
    flags.extend([SEED, "--seeds=1", "--policy=slo", "--goal=0"]);
    let comparison = Comparison::run(workload, &flags)?;
    println!("\nthe simulation, with a start-up time of {startup_seconds:.2} s:\n{}", comparison.table);
    let &Row { attainment, replica_seconds, .. } = comparison.workloads[0].row("slo");
    Ok(RunResult { attainment, replica_seconds })
}

fn get(service: &ServiceProcess, path: &str) -> Result<String> {
    http::get(&format!("http://{}{path}", service.address))
}

fn work_buckets(dispatcher: &ServiceProcess) -> Result<Vec<Bucket>> {
    let text = get(dispatcher, "/metrics")?;
    let bucket = |line: &str| {
        let (bound, count) = line.strip_prefix(WORK_BUCKET)?.strip_prefix("{le=\"")?.split_once("\"} ")?;
        Some((bound.parse().ok()?, count.parse().ok()?))
    };
    Ok(text.lines().filter_map(bucket).collect())
}

/// Service times with the distribution of the observations between `before` and `after`: one a line, in milliseconds.
/// Within each bucket they are spread evenly.
fn service_times(before: &[Bucket], after: &[Bucket]) -> Result<String> {
    let mut text = String::new();
    let total = |buckets: &[Bucket]| buckets.last().map_or(0.0, |bucket| bucket.1);
    let share = MAX_SERVICE_TIMES / (total(after) - total(before)).max(1.0);
    let (mut lower, mut below) = (0.0, 0.0);
    for (index, &(bound, count)) in after.iter().enumerate() {
        let up_to_bound = count - before.get(index).map_or(0.0, |bucket| bucket.1);
        let times = ((up_to_bound - below) * share).round() as usize;
        let upper = if bound.is_finite() { bound } else { lower };
        for time in 0..times {
            writeln!(text, "{:.3}", 1e3 * (lower + (upper - lower) * (time as f64 + 0.5) / times as f64))?;
        }
        (lower, below) = (bound, up_to_bound);
    }
    Ok(text)
}

/// The replica-seconds of ready and starting replicas in the last `seconds` of the decisions.
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
