//! `cargo xtask experiment`: replays one workload with each scaling law in turn, and compares the results. Each run has
//! a dispatcher, a scaler and replicas of its own. All laws get the same seeds.

mod runs;

use anyhow::{Context, Result, ensure};
use harness::stack::{ScalerProgram, Stack, StackSetup};
use harness::{loadgen, paths, steal};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Time between two laws, in which the processes of the earlier law end.
const PAUSE: Duration = Duration::from_secs(2);

/// The path of the default workload, relative to the root of the workspace.
const WORKLOAD: &str = "loadgen/workloads/experiment.txt";

/// Cores that all replicas share. On two cores, 0.2 are left for the other programs.
const REPLICA_CORES: f64 = 1.8;

/// Flags of `experiment`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  cargo xtask experiment --policy slo,queue:500ms --workload requests.txt --rate-scale 0.5
  cargo xtask experiment --policy slo,concurrency --seeds 10")]
pub(crate) struct Options {
    /// Scaling laws, as --policy of the scaler and of `lab run` takes them
    #[arg(long, value_delimiter = ',', default_value = "slo,latency-step,latency-ratio,queue,concurrency")]
    policy: Vec<String>,
    /// Workload file, one number for each second: requests per second with --rate-scale, otherwise per cent of what one
    /// replica can do on this machine; by default loadgen/workloads/experiment.txt
    #[arg(long, value_name = "FILE")]
    workload: Option<PathBuf>,
    /// Factor of the workload's rates; without it, the rates are per cent of what one replica can do on this machine
    #[arg(long)]
    rate_scale: Option<f64>,
    /// Factor of the workload's length
    #[arg(long, default_value_t = 1.0)]
    time_scale: f64,
    /// Seed of the arrivals, which are the same for all laws
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(..1_000_000_000))]
    seed: u64,
    /// Runs of each law, with this seed and the following ones. The comparison has the mean of each figure with its 95 %
    /// interval; a single run says nothing about how much the figures vary
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    seeds: u64,
    /// Most replicas that a law may run
    #[arg(long, default_value_t = 3)]
    max: u32,
    /// Cores for each replica, where control groups are permitted; by default 1.8 divided by --max
    #[arg(long)]
    cpu_share: Option<f64>,
    /// File for the comparison; by default comparison.html in target/roundhouse/experiment
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Runs every law for the length of the workload, and compares them.
///
/// # Errors
/// If a program does not start, does not answer, or fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let folder = paths::output("experiment");
    let rate_scale = match options.rate_scale {
        Some(scale) => scale,
        None => measured_rate_scale(options, &folder)?,
    };
    let mut reports = Vec::new();
    // All laws get a seed before any gets the next one, so that a slow time of the machine meets all of them.
    for seed in options.seed..options.seed + options.seeds {
        for policy in &options.policy {
            let runs = options.policy.len() as u64 * options.seeds;
            println!("\n== {policy}, seed {seed} ({} of {runs})", reports.len() + 1);
            std::thread::sleep(PAUSE);
            reports.push(run_law(policy, seed, rate_scale, options, &folder)?);
        }
    }
    println!();
    compare(&reports, options.html.as_deref().unwrap_or(&folder.join("comparison.html")))?;
    runs::print(&reports)
}

/// The factor that turns per cent of one replica's measured capacity into requests per second.
fn measured_rate_scale(options: &Options, folder: &Path) -> Result<f64> {
    let stack = start(folder, ScalerProgram::Scaler, vec!["--max=1".into(), options.cpu_share_flag()])?;
    println!("cpu share   {}", stack.share);
    let capacity = loadgen::capacity(&url_flag(&stack), folder)?;
    println!("capacity    {capacity:.1} images/s of one replica");
    Ok((capacity * 10.0).round() / 1e3)
}

/// Starts new processes with the law `policy`, and replays the workload. Returns the path of loadgen's report.
fn run_law(policy: &str, seed: u64, rate_scale: f64, options: &Options, folder: &Path) -> Result<PathBuf> {
    let flags = vec![format!("--policy={policy}"), format!("--max={}", options.max), options.cpu_share_flag()];
    let stack = start(folder, program_of(policy), flags)?;
    let workload = options.workload.clone().unwrap_or_else(|| paths::root().join(WORKLOAD));
    let report = folder.join(format!("{}-{seed}.json", policy.replace([':', '/'], "-")));
    let flags = [
        url_flag(&stack),
        format!("--workload={}", workload.display()),
        format!("--rate-scale={rate_scale}"),
        format!("--time-scale={}", options.time_scale),
        format!("--seed={seed}"),
        format!("--scaler={}", stack.scaler.address),
        format!("--name={policy}"),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    steal::watch(|| loadgen::run(&flags, &report))?;
    Ok(report)
}

impl Options {
    fn cpu_share_flag(&self) -> String {
        let share = self.cpu_share.unwrap_or_else(|| REPLICA_CORES / f64::from(self.max));
        format!("--cpu-share={share}")
    }
}

/// The program that runs the law `policy`: the scaler for the production laws `slo` and `rate`, the lab for all others.
fn program_of(policy: &str) -> ScalerProgram {
    let law = policy.split(':').next().unwrap_or_default();
    if ["slo", "rate"].contains(&law) { ScalerProgram::Scaler } else { ScalerProgram::Lab }
}

/// Starts a dispatcher and, with the flags `scaler`, a program that scales. Waits for its first replica.
fn start(folder: &Path, program: ScalerProgram, scaler: Vec<String>) -> Result<Stack> {
    Stack::start(StackSetup { listen: "127.0.0.1:0", folder: folder.to_owned(), program, scaler })
}

fn url_flag(stack: &Stack) -> String {
    format!("--url=http://{}/predict", stack.dispatcher.address)
}

fn compare(reports: &[PathBuf], html: &Path) -> Result<()> {
    let mut loadgen = Command::new(paths::program("loadgen"));
    loadgen.arg("compare").args(reports).arg(format!("--html={}", html.display()));
    let status = loadgen.status().context("run loadgen compare; build it: cargo build --release --workspace")?;
    ensure!(status.success(), "loadgen compare failed ({status})");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_laws_for_production_run_in_the_scaler_and_the_others_in_the_lab() {
        for (policy, program) in [
            ("slo", ScalerProgram::Scaler),
            ("rate:100", ScalerProgram::Scaler),
            ("queue", ScalerProgram::Lab),
            ("latency-ratio", ScalerProgram::Lab),
        ] {
            assert_eq!(program_of(policy), program, "{policy}");
        }
    }
}
