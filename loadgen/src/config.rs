//! Flags → what loadgen does.

pub mod load;
pub mod output;
pub mod pictures;
pub mod target;

use crate::condition::Condition;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Sends pictures as a workload says, and reports what came back.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads the command line.
    ///
    /// # Errors
    /// When it makes no sense, or asks for help.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let cli = Self::try_parse_from(arguments)?;
        // clap does not ask for what another flag that is there excludes.
        let wrong = match &cli.command {
            Command::Run(args) if args.find_capacity => None,
            Command::Run(args) if !args.slo.is_empty() => {
                Some("--slo is for --find-capacity; --threshold judges a run")
            }
            Command::Run(args) if !args.load.is_given() => Some(load::NOTHING),
            Command::Workload(args) if args.load.closed.is_some() => {
                Some("--closed has no schedule that could be shown")
            }
            Command::Workload(args) if !args.load.is_given() => Some(load::NOTHING),
            _ => None,
        };
        match wrong {
            Some(wrong) => Err(Self::command().error(ErrorKind::MissingRequiredArgument, format!("{wrong}\n"))),
            None => Ok(cli),
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Load a dispatcher (or a replica) and report
    Run(Box<RunArgs>),
    /// Put the reports of several runs side by side
    Compare(CompareArgs),
    /// Show what a workload is, before it is used
    Workload(WorkloadArgs),
    /// Write generated, labelled pictures to a folder
    Pictures(pictures::WriteArgs),
    /// Print the JSON schema of what --json writes
    Schema,
}

/// Flags of `loadgen run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    loadgen run --workload workload.txt --rate-scale 0.5 --html report.html\n  \
    loadgen run --shape spike:low=5,high=60,period=20,length=120 --threshold 'attainment>99'\n  \
    loadgen run --rate 20 --duration 30s --pictures photos/ --log requests.csv.gz\n  \
    loadgen run --closed 4 --duration 10s        how much it can take at once\n  \
    loadgen run --find-capacity --slo 'p95<500ms'    how much it can take within an objective\n\n\
    Conditions (--slo, --threshold): NAME, one of < <= > >=, and a number, as in p99.9<1s, attainment>99, goodput>20.\n\
    Names: p50 p90 p95 p99 p99.9 max (a failed request counts as one that takes forever), mean (of the answered),\n\
    attainment errors accuracy (per cent), goodput throughput (per second), replica-seconds cost (for 1000 good\n\
    answers). --slo takes percentiles, attainment and errors.\n\n\
    Exit status: 0 when the run was made; 99 when a threshold was breached, this machine could not send on time, or no\n\
    rate meets --slo; 130 when it was interrupted, and its report is partial; 1 when it could not be made; 2 for bad flags.")]
pub struct RunArgs {
    /// Whom
    #[command(flatten)]
    pub target: target::Args,
    /// When
    #[command(flatten)]
    pub load: load::Args,
    /// What
    #[command(flatten)]
    pub pictures: pictures::Args,
    /// And then
    #[command(flatten)]
    pub output: output::Args,
    /// Answers are to be there within this time
    #[arg(long, default_value = "500ms", value_parser = positive)]
    pub objective: Duration,
    /// Exit with 99 unless this holds in the end, such as 'p95<500ms'; can be given several times
    #[arg(long, value_name = "CONDITION")]
    pub threshold: Vec<Condition>,
    /// Look for the highest steady rate at which --slo holds: doubling, then bisection, three windows at each rate
    #[arg(
        long,
        requires = "slo",
        conflicts_with_all = [
            "workload", "shape", "closed", "duration", "threshold", "repeat", "rate_scale", "time_scale", "warmup", "html",
            "csv", "log", "table", "scaler"
        ]
    )]
    pub find_capacity: bool,
    /// What is to hold at that rate, such as 'p95<500ms'; can be given several times
    #[arg(long, value_name = "CONDITION")]
    pub slo: Vec<Condition>,
    /// Length of each of the three windows of --find-capacity
    #[arg(long, default_value = "5s", requires = "find_capacity", value_parser = positive)]
    pub window: Duration,
}

/// Flags of `loadgen compare`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  loadgen compare slo.json cpu-50.json cpu-70.json --html comparison.html\n\n\
    A run is called what `loadgen run --name` said, or else what its file is called.")]
pub struct CompareArgs {
    /// What `loadgen run --json` wrote
    #[arg(required = true, num_args = 1..)]
    pub reports: Vec<PathBuf>,
    /// Per cent of requests answered within the objective that are enough
    #[arg(long, default_value_t = 99.0, value_parser = percent)]
    pub goal: f64,
    /// Write the comparison as one HTML page with plots
    #[arg(long)]
    pub html: Option<PathBuf>,
    /// Print the table in Markdown
    #[arg(long)]
    pub markdown: bool,
}

/// Flags of `loadgen workload`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  loadgen workload --workload workload.txt --rate-scale 0.5 --plot\n  \
    loadgen workload --shape sine:low=5,high=40,period=60,length=300 --plot")]
pub struct WorkloadArgs {
    /// When
    #[command(flatten)]
    pub load: load::Args,
    /// Draw it
    #[arg(long)]
    pub plot: bool,
}

fn positive(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("must be longer than 0s".into()),
        Ok(duration) if duration > Duration::from_secs(7 * 24 * 3600) => Err("must not be longer than a week".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write it like 500ms or 30s")),
    }
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=100.0).contains(number));
    number.ok_or_else(|| "must lie between 0 and 100".into())
}
