//! `cargo xtask experiment`: one workload and seed against each scaling law in turn, each with a dispatcher, a scaler and
//! replicas of its own, and then the comparison.

use crate::stack::{Setup, Stack};
use crate::steal::Watch;
use crate::{build, loadgen, paths};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// For the machine to settle after a law's processes have ended.
const PAUSE: Duration = Duration::from_secs(2);

/// Flags of `experiment`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  cargo xtask experiment --policy slo,cpu:70 --workload requests.txt --rate-scale 0.5"
)]
pub struct Options {
    /// Scaling laws, as the scaler's --policy has them
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "slo,latency-step,latency-ratio,queue,concurrency,cpu:50,cpu:70,cpu:90"
    )]
    policy: Vec<String>,
    /// Requests per second, second by second; if not given, one that is scaled to what a replica can do here
    #[arg(long, value_name = "FILE")]
    workload: Option<PathBuf>,
    /// Multiplies its rates; if not given, rates are per cent of what one replica can do here
    #[arg(long)]
    rate_scale: Option<f64>,
    /// Multiplies its length
    #[arg(long, default_value_t = 1.0)]
    time_scale: f64,
    /// Of the arrivals
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Replicas at most
    #[arg(long, default_value_t = 3)]
    max: u32,
    /// Cores for each replica, where permitted; if not given, what two cores have for that many
    #[arg(long)]
    cpu_share: Option<f64>,
    /// Where to write the comparison
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Runs everything; takes the workload's length for each law.
///
/// # Errors
/// When something does not start or answer.
pub fn run(options: &Options) -> Result<()> {
    build::programs()?;
    let folder = paths::output("experiment");
    let share = format!("--cpu-share={}", options.cpu_share.unwrap_or_else(|| 1.8 / f64::from(options.max)));
    let workload = options.workload.clone().unwrap_or_else(|| paths::root().join("loadgen/workloads/experiment.txt"));
    let scale = match options.rate_scale {
        Some(scale) => scale,
        None => {
            let stack = start(&folder, &["--max=1", &share])?;
            println!("cpu share   {}", stack.share);
            let capacity = loadgen::capacity(&url(&stack), &folder)?;
            println!("capacity    {capacity:.1} pictures/s of one replica");
            (capacity * 10.0).round() / 1e3
        }
    };
    let mut reports = Vec::new();
    for (index, policy) in options.policy.iter().enumerate() {
        println!("\n== {policy} ({} of {})", index + 1, options.policy.len());
        std::thread::sleep(PAUSE);
        let stack = start(&folder, &[&format!("--policy={policy}"), &format!("--max={}", options.max), &share])?;
        let json = folder.join(format!("{}.json", policy.replace([':', '/'], "-")));
        let flags = [
            url(&stack),
            format!("--workload={}", workload.display()),
            format!("--rate-scale={scale}"),
            format!("--time-scale={}", options.time_scale),
            format!("--seed={}", options.seed),
            format!("--scaler={}", stack.scaler.address),
            format!("--name={policy}"),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let watch = Watch::start();
        loadgen::run(&flags, &json)?;
        let stolen = watch.finish();
        if stolen.is_notable() {
            println!("{stolen}");
        }
        reports.push(json);
    }
    println!();
    compare(&reports, options.html.as_deref().unwrap_or(&folder.join("comparison.html")))
}

/// A dispatcher, a scaler with these flags, and its first replica.
fn start(folder: &Path, flags: &[&str]) -> Result<Stack> {
    let scaler = flags.iter().map(|&flag| flag.to_owned()).collect();
    Stack::start(Setup { listen: "127.0.0.1:0", folder: folder.to_owned(), scaler })
}

fn url(stack: &Stack) -> String {
    format!("--url=http://{}/predict", stack.dispatcher.address)
}

fn compare(reports: &[PathBuf], html: &Path) -> Result<()> {
    let mut command = Command::new(paths::program("loadgen"));
    command.arg("compare").args(reports).arg(format!("--html={}", html.display()));
    let status = command.status().context("run loadgen compare")?;
    ensure!(status.success(), "loadgen compare failed ({status})");
    Ok(())
}
