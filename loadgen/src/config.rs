//! The command line. The modules below it hold the flags of `loadgen run` by their subject.

pub mod images;
pub mod load;
pub mod output;
pub mod target;

use crate::condition::Condition;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Sends images as a workload says, and reports the answers.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    /// The command
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Parses the command line.
    ///
    /// # Errors
    /// When the command line makes no sense, or asks for help or the version.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let cli = Self::try_parse_from(arguments)?;
        // Rules that clap cannot express: it does not ask for a flag that conflicts with another flag that is given.
        let error = match &cli.command {
            Command::Run(args) if args.find_capacity => None,
            Command::Run(args) if !args.slo.is_empty() => {
                Some("--slo is a flag of --find-capacity; use --threshold for a run")
            }
            Command::Run(args) if !args.load.is_given() => Some(load::NO_LOAD),
            Command::Workload(args) if args.load.closed.is_some() => Some("--closed has no schedule to show"),
            Command::Workload(args) if !args.load.is_given() => Some(load::NO_LOAD),
            _ => None,
        };
        match error {
            Some(error) => Err(Self::command().error(ErrorKind::MissingRequiredArgument, format!("{error}\n"))),
            None => Ok(cli),
        }
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send a load to a dispatcher (or a replica), and report the answers
    Run(Box<RunArgs>),
    /// Compare the reports of several runs
    Compare(CompareArgs),
    /// Show a workload before it is used
    Workload(WorkloadArgs),
    /// Write generated, labelled images to a folder
    Pictures(images::WriteArgs),
    /// Print the JSON schema of the files that --json writes
    Schema,
}

/// Flags of `loadgen run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    loadgen run --workload workload.txt --rate-scale 0.5 --html report.html\n  \
    loadgen run --shape spike:low=5,high=60,period=20,length=120 --threshold 'attainment>99'\n  \
    loadgen run --rate 20 --duration 30s --pictures photos/ --log requests.csv.gz\n  \
    loadgen run --closed 4 --duration 10s            the throughput with 4 requests in flight\n  \
    loadgen run --find-capacity --slo 'p95<500ms'    the highest rate that meets an objective\n\n\
    Conditions (--slo, --threshold): NAME, one of < <= > >=, and a number, as in p99.9<1s, attainment>99, goodput>20.\n\
    Names: p50 p90 p95 p99 p99.9 max (a failed request counts as infinitely slow), mean (of the answered requests),\n\
    attainment errors accuracy (per cent), goodput throughput (per second), replica-seconds cost (for 1000 good\n\
    answers). --slo takes percentiles, attainment and errors.\n\n\
    Exit status: 0 if the run was made and every threshold held; 99 if a threshold was breached, this machine could\n\
    not send on time, or no rate meets --slo; 130 if the run was interrupted, and its report is partial; 1 if the run\n\
    could not be made; 2 if the flags are wrong.")]
pub struct RunArgs {
    /// The server, and how requests are sent to it
    #[command(flatten)]
    pub target: target::Args,
    /// The times at which requests are sent
    #[command(flatten)]
    pub load: load::Args,
    /// The images that requests carry
    #[command(flatten)]
    pub images: images::Args,
    /// The results that are printed and written
    #[command(flatten)]
    pub output: output::Args,
    /// The objective: the time within which requests should be answered
    #[arg(long, default_value = "500ms", value_parser = positive)]
    pub objective: Duration,
    /// Exit with status 99 unless this condition holds for the run, such as 'p95<500ms'; can be given several times
    #[arg(long, value_name = "CONDITION")]
    pub threshold: Vec<Condition>,
    /// Search for the highest steady rate at which --slo holds: doubling, then bisection, three windows at each rate
    #[arg(
        long,
        requires = "slo",
        conflicts_with_all = [
            "workload", "shape", "closed", "duration", "threshold", "repeat", "rate_scale", "time_scale", "warmup",
            "html", "csv", "log", "table", "scaler"
        ]
    )]
    pub find_capacity: bool,
    /// Condition that must hold at that rate, such as 'p95<500ms'; can be given several times
    #[arg(long, value_name = "CONDITION")]
    pub slo: Vec<Condition>,
    /// Length of each of the three windows of --find-capacity
    #[arg(long, default_value = "5s", requires = "find_capacity", value_parser = positive)]
    pub window: Duration,
}

/// Flags of `loadgen compare`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  loadgen compare slo.json cpu-50.json cpu-70.json --html comparison.html\n\n\
    The name of a run is that of `loadgen run --name`, or else that of its file.")]
pub struct CompareArgs {
    /// Files that `loadgen run --json` wrote
    #[arg(required = true, num_args = 1..)]
    pub reports: Vec<PathBuf>,
    /// Percentage of requests that must be answered within the objective
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
    /// The times at which requests are sent
    #[command(flatten)]
    pub load: load::Args,
    /// Also draw the workload
    #[arg(long)]
    pub plot: bool,
}

/// Parses a duration in humantime's notation, longer than zero and at most a week.
fn positive(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("must be longer than 0s".into()),
        Ok(duration) if duration > Duration::from_secs(7 * 24 * 3600) => Err("must not be longer than a week".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write it like 500ms or 30s")),
    }
}

/// Parses a percentage.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=100.0).contains(number));
    number.ok_or_else(|| "must lie between 0 and 100".into())
}
