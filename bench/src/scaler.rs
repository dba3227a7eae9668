//! `bench scaler`: the scaling laws in virtual time. Runs them on the course task's workload and on shapes, with
//! several start-up times and intervals, and under steady loads. Also measures the speed of the simulator, and how
//! close it is to the real programs.

mod live;

use crate::output::Output;
use anyhow::{Context, Result, ensure};
use harness::paths;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The path of the course task's workload, relative to the root of the workspace.
const WORKLOAD: &str = "loadgen/workloads/course.txt";

/// Shapes: flash crowds, square waves, ramps, waves, bursts and steps. Their peaks need two to six replicas.
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

/// Steady loads in requests per second. They need one to five replicas.
const STEADY: [u32; 12] = [7, 10, 12, 14, 20, 24, 28, 30, 40, 48, 60, 70];

/// Seconds of a steady load after which the number of replicas should no longer change.
const SETTLED: f64 = 60.0;

/// The laws that run on the course task's workload with `--arrivals=replayed`.
const LAWS: &str = "slo,concurrency,cpu:50,cpu:70,cpu:90";

/// The laws that run on the shapes and with several start-up times.
const FEWER_LAWS: &str = "slo,concurrency,cpu:50";

/// Flags of `bench scaler`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    output: Output,
    /// Workload file; by default the course task's workload, loadgen/workloads/course.txt
    #[arg(long, value_name = "FILE")]
    workload: Option<PathBuf>,
    /// Run only the burst with the real programs, and its simulation
    #[arg(long)]
    live: bool,
}

/// Runs the simulations and the real programs, prints the results and writes the figures.
///
/// # Errors
/// If a program does not start, fails or does not answer.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut figures = Map::new();
    if !options.live {
        let course = paths::root().join(WORKLOAD);
        simulations(options.workload.as_deref().unwrap_or(&course), &mut figures)?;
    }
    figures.insert("live".into(), live::run()?);
    options.output.write(&figures.into())
}

/// Runs all simulations except that of the burst, and adds their results to `figures`.
fn simulations(workload: &Path, figures: &mut Map<String, Value>) -> Result<()> {
    let workload = format!("--workload={}", workload.display());
    figures.insert("course".into(), show("The course task's workload, all laws", &[&workload])?);
    let replayed = [&workload, "--arrivals=replayed", "--policy", LAWS];
    figures.insert("replayed".into(), show("The same with exactly as many requests in every second", &replayed)?);
    for startup in ["1s", "3s", "12s"] {
        let flags = [&workload, "--policy", FEWER_LAWS, "--startup", startup];
        figures.insert(format!("startup {startup}"), show(&format!("Start-up {startup}"), &flags)?);
    }
    for interval in ["500ms", "1s", "2s", "15s"] {
        let flags = [&workload, "--policy=slo", "--interval", interval];
        figures.insert(format!("interval {interval}"), show(&format!("A decision every {interval}"), &flags)?);
    }
    let shapes: Vec<String> = SHAPES.iter().map(|shape| format!("--shape={shape}")).collect();
    let mut flags = vec!["--policy", FEWER_LAWS, "--seeds=3"];
    flags.extend(shapes.iter().map(String::as_str));
    figures.insert("shapes".into(), show("Other workloads", &flags)?);
    figures.insert("steady".into(), steady()?);
    figures.insert("speed".into(), speed()?);
    Ok(())
}

/// The results of `lab simulate`.
struct Simulated {
    /// The JSON that the program wrote.
    figures: Value,
    /// The table that the program printed.
    table: String,
}

/// Runs `lab simulate` with `flags`.
fn simulate(flags: &[&str]) -> Result<Simulated> {
    let folder = paths::output("bench-scaler");
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let json = folder.join("comparison.json");
    let mut lab = Command::new(paths::program("lab"));
    lab.arg("simulate").args(flags).arg("--json").arg(&json);
    let output = lab
        .stderr(Stdio::inherit())
        .output()
        .context("run lab simulate; build it: cargo build --release --workspace")?;
    ensure!(output.status.success(), "lab simulate {} failed ({})", flags.join(" "), output.status);
    let text = std::fs::read_to_string(&json).with_context(|| format!("read {}", json.display()))?;
    let figures = serde_json::from_str(&text).with_context(|| format!("parse {}", json.display()))?;
    Ok(Simulated { figures, table: String::from_utf8_lossy(&output.stdout).into_owned() })
}

/// Runs `lab simulate` with `flags` and prints its table. Returns the figures of its workloads. The long lists named
/// `course`, with the replicas over time, are left out.
fn show(title: &str, flags: &[&str]) -> Result<Value> {
    println!("\n== {title}");
    let Simulated { mut figures, table } = simulate(flags)?;
    print!("{table}");
    for workload in figures["workloads"].as_array_mut().into_iter().flatten() {
        remove_course(&mut workload["oracle"]);
        workload["laws"].as_array_mut().into_iter().flatten().for_each(remove_course);
    }
    Ok(figures["workloads"].take())
}

fn remove_course(row: &mut Value) {
    if let Some(row) = row.as_object_mut() {
        row.remove("course");
    }
}

/// Simulates half an hour of each steady load. Returns the number of changes of the desired replicas after the first
/// minute, for each load and seed.
fn steady() -> Result<Value> {
    println!("\n== Half an hour of steady load: changes of the desired replicas after the first minute, in five runs");
    let mut rows = Vec::new();
    for rate in STEADY {
        let mut changes = Vec::new();
        for seed in 1..=5 {
            let (shape, seed) = (format!("--shape=constant:low={rate},length=1800"), format!("--seed={seed}"));
            let simulated = simulate(&[&shape, &seed, "--policy=slo", "--seeds=1", "--goal=0"])?;
            changes.push(late_changes(&simulated.figures["workloads"][0]["laws"][0]["course"]));
        }
        println!("{rate:>4} requests/s  {changes:?}");
        rows.push(json!({"requests_per_second": rate, "changes": changes}));
    }
    Ok(rows.into())
}

/// The number of changes of the desired replicas after [`SETTLED`] seconds.
fn late_changes(course: &Value) -> usize {
    let samples = course.as_array().into_iter().flatten();
    let settled = samples.filter(|sample| sample["at_seconds"].as_f64() > Some(SETTLED));
    let desired: Vec<&Value> = settled.map(|sample| &sample["desired"]).collect();
    desired.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

/// Measures the time that the simulator takes for an hour of 20,000 requests a second on 1,000 replicas.
fn speed() -> Result<Value> {
    println!("\n== An hour of 20,000 requests/s on 1,000 replicas");
    let started = Instant::now();
    let flags = ["--shape=constant:low=20000,length=3600", "--max=1000", "--service=45ms", "--policy=slo", "--seeds=1"];
    print!("{}", simulate(&flags)?.table);
    let seconds = started.elapsed().as_secs_f64();
    println!("the simulation took {seconds:.1} s");
    Ok(json!({"seconds": seconds}))
}
