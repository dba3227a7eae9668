//! `cargo xtask bench scaler`: the laws in virtual time, on the course task's workload where there is one and on
//! described ones; with other start-up times and intervals; under steady loads; how fast the simulator is; and whether it tells
//! what really happens.

pub mod live;

use crate::{build, paths};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Flash crowds, square waves, ramps, waves, bursts and steps, with two to six replicas at their highest.
const SHAPES: [&str; 12] = [
    "spike:low=5,high=60,period=40,length=600",
    "spike:low=10,high=40,period=15,length=600",
    "square:low=6,high=40,period=40,length=600",
    "square:low=8,high=30,period=120,length=720",
    "square:low=5,high=50,period=240,length=960",
    "ramp:low=4,high=60,length=600",
    "sine:low=4,high=45,period=200,length=800",
    "sine:low=5,high=30,period=60,length=600",
    "sawtooth:low=4,high=50,period=100,length=600",
    "on-off:low=6,high=36,period=80,length=900",
    "markov:low=4,high=60,period=60,length=900",
    "step:low=7,high=50,length=400",
];

/// Between one replica's load and five replicas', requests per second.
const STEADY: [u32; 12] = [7, 10, 12, 14, 20, 24, 28, 30, 40, 48, 60, 70];

/// The laws that are compared everywhere.
const LAWS: &str = "slo,concurrency,cpu:50,cpu:70,cpu:90";

/// Flags of `bench scaler`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Write all figures here as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The course task's workload; skipped where it is not there
    #[arg(long, value_name = "FILE", default_value = "../shared/data/workload.txt")]
    workload: PathBuf,
    /// Only the run through the real programs and its simulation
    #[arg(long)]
    live: bool,
}

/// Runs everything and prints it.
///
/// # Errors
/// When the scaler cannot be built or run.
pub fn run(options: &Options) -> Result<()> {
    let mut found = serde_json::Map::new();
    if !options.live {
        simulations(options, &mut found)?;
    }
    found.insert("live".into(), live::run()?);
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&found)?;
        std::fs::write(path, json).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Everything in virtual time.
fn simulations(options: &Options, found: &mut serde_json::Map<String, Value>) -> Result<()> {
    build::scaler()?;
    let workload = format!("--workload={}", options.workload.display());
    if options.workload.is_file() {
        found.insert("course".into(), show("The course task's workload, all laws", &[&workload])?);
        let replayed = [workload.as_str(), "--arrivals=replayed", "--policy", LAWS];
        found.insert("replayed".into(), show("The same with exactly as many requests in every second", &replayed)?);
        for startup in ["1s", "3s", "12s"] {
            let flags = [workload.as_str(), "--policy=slo,concurrency,cpu:50", "--startup", startup];
            found.insert(format!("startup {startup}"), show(&format!("Start-up {startup}"), &flags)?);
        }
        for interval in ["500ms", "1s", "2s", "15s"] {
            let flags = [workload.as_str(), "--policy=slo", "--interval", interval];
            found.insert(format!("interval {interval}"), show(&format!("A decision every {interval}"), &flags)?);
        }
    } else {
        println!("skipped: the course task's workload is not at {}", options.workload.display());
    }
    let shapes: Vec<String> = SHAPES.iter().map(|shape| format!("--shape={shape}")).collect();
    let mut flags = vec!["--policy", "slo,concurrency,cpu:50", "--seeds=3"];
    flags.extend(shapes.iter().map(String::as_str));
    found.insert("shapes".into(), show("Other workloads", &flags)?);
    found.insert("steady".into(), steady()?);
    found.insert("speed".into(), speed()?);
    Ok(())
}

/// Runs `scaler simulate`, shows its table, and returns its figures without the courses.
fn show(title: &str, flags: &[&str]) -> Result<Value> {
    println!("\n== {title}");
    let (mut found, table) = simulate(flags)?;
    print!("{table}");
    for rows in found["workloads"].as_array_mut().into_iter().flatten() {
        forget_course(&mut rows["oracle"]);
        rows["laws"].as_array_mut().into_iter().flatten().for_each(forget_course);
    }
    Ok(found["workloads"].take())
}

/// It is long, and can be made again.
fn forget_course(row: &mut Value) {
    if let Some(row) = row.as_object_mut() {
        row.remove("course");
    }
}

/// Runs `scaler simulate`; its figures and its table.
fn simulate(flags: &[&str]) -> Result<(Value, String)> {
    let folder = paths::output("bench-scaler");
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let json = folder.join("comparison.json");
    let mut command = Command::new(paths::program("scaler"));
    command.arg("simulate").args(flags).arg("--json").arg(&json);
    let output = command.stderr(Stdio::inherit()).output().context("run scaler simulate")?;
    ensure!(output.status.success(), "scaler simulate failed ({}): {flags:?}", output.status);
    let text = std::fs::read_to_string(&json).with_context(|| format!("read {}", json.display()))?;
    let found = serde_json::from_str(&text).with_context(|| format!("read {}", json.display()))?;
    Ok((found, String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Half an hour of a load that does not change: changes after the first minute.
fn steady() -> Result<Value> {
    println!("\n== Half an hour of steady load: changes after the first minute, in each of five runs");
    let mut found = Vec::new();
    for rate in STEADY {
        let mut changes = Vec::new();
        for seed in 1..=5 {
            let (shape, seed) = (format!("--shape=constant:low={rate},length=1800"), format!("--seed={seed}"));
            let (found, _) = simulate(&[&shape, &seed, "--policy=slo", "--seeds=1", "--goal=0"])?;
            changes.push(late_changes(&found["workloads"][0]["laws"][0]["course"]));
        }
        println!("{rate:>4} requests/s  {changes:?}");
        found.push(json!({"requests_per_second": rate, "changes": changes}));
    }
    Ok(found.into())
}

fn late_changes(course: &Value) -> usize {
    let moments = course.as_array().into_iter().flatten();
    let settled = moments.filter(|moment| moment["at_seconds"].as_f64() > Some(60.0));
    let desired: Vec<&Value> = settled.map(|moment| &moment["desired"]).collect();
    desired.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

/// An hour of 20,000 requests a second on 1,000 replicas.
fn speed() -> Result<Value> {
    println!("\n== An hour of 20,000 requests/s on 1,000 replicas");
    let started = Instant::now();
    let flags = ["--shape=constant:low=20000,length=3600", "--max=1000", "--service=45ms", "--policy=slo", "--seeds=1"];
    print!("{}", simulate(&flags)?.1);
    let seconds = started.elapsed().as_secs_f64();
    println!("took {seconds:.1} s");
    Ok(json!({"seconds": seconds}))
}
