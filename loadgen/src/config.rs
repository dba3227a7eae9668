//! The command line of loadgen. Each module below has one group of the flags of `loadgen run`.

pub mod images;
pub mod load;
pub mod output;
pub mod target;
pub mod watch;
pub mod workers;

use crate::condition::Condition;
use anyhow::Context;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Sends images to a server as a workload says, and reports the answers.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    /// The command to execute
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Parses the command line.
    ///
    /// # Errors
    /// If a flag is unknown, malformed or missing, if two flags exclude each other, or if the command line asks for
    /// help or the version.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let arguments: Vec<OsString> = arguments.into_iter().collect();
        let mut cli = Self::try_parse_from(&arguments)?;
        if let Command::Run(args) = &mut cli.command {
            args.arguments = arguments;
        }
        // clap does not require a flag that conflicts with a given flag. These rules hold for such flags, too, so they
        // are checked here.
        let error = match &cli.command {
            Command::Run(args) if args.target.conflict().is_some() => args.target.conflict(),
            Command::Run(args) if args.load.conflict().is_some() => args.load.conflict(),
            Command::Workload(args) if args.load.conflict().is_some() => args.load.conflict(),
            Command::Run(args) if args.find_capacity => None,
            Command::Run(args) if !args.slo.is_empty() => {
                Some("--slo is a flag of --find-capacity; without a search, use --threshold")
            }
            Command::Run(args) if !args.load.is_given() => Some(load::NO_LOAD),
            Command::Run(args) => args.workers.error(args.load.closed),
            Command::Workload(args) if args.load.closed.is_some() => {
                Some("--closed has no schedule to show; use --workload, --shape, --stages, or --rate with --duration")
            }
            Command::Workload(args) if !args.load.is_given() => Some(load::NO_LOAD),
            _ => None,
        };
        match error {
            Some(error) => Err(Self::command().error(ErrorKind::MissingRequiredArgument, format!("{error}\n"))),
            None => Ok(cli),
        }
    }
}

/// The commands of loadgen.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send a load to a dispatcher (or a replica), and report the answers
    Run(Box<RunArgs>),
    /// Send parts of the loads of `loadgen run --workers`, which coordinates several machines
    Worker(workers::WorkerArgs),
    /// Compare the reports of several runs
    Compare(CompareArgs),
    /// Show the length, the number of requests and the rates of a workload, without sending it
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
    loadgen run --rate 20 --duration 8h --scrape dns:dispatchers:5052 --scrape scaler:5053 --metrics-listen [::]:9100\n  \
    loadgen run --rate 20 --duration 5m --runs 5     the figures with their 95 % intervals\n  \
    loadgen run --closed 4 --duration 10s            the throughput with 4 requests in flight\n  \
    loadgen run --workers a:5060,b:5060 --rate 20000 --duration 60s      a load from two machines\n  \
    loadgen run --find-capacity --slo 'p95<500ms'    the highest rate that meets an objective\n\n\
    A condition (--slo, --threshold) is a name, one of < <= > >=, and a number, as in p99.9<1s or attainment>99.\n\
    The names are p50 p90 p95 p99 p99.9 max (latency; a failed request counts as infinitely slow), mean (latency of\n\
    the answered requests), attainment errors accuracy (per cent), goodput throughput (per second), replica-seconds,\n\
    and cost (replica-seconds for 1000 good answers). --slo takes percentiles, attainment and errors only.\n\n\
    Exit status: 0 if the run is complete and every threshold held; 99 if a threshold was breached, this machine\n\
    could not send on time, or no rate meets --slo; 130 if the run was stopped, and its report is partial; 1 if the\n\
    run could not be made; 2 if the flags are wrong.")]
pub struct RunArgs {
    /// The server, and how requests are sent to it
    #[command(flatten)]
    pub target: target::Args,
    /// The times at which requests are sent
    #[command(flatten)]
    pub load: load::Args,
    /// The programs whose metrics are read, and the metrics of loadgen
    #[command(flatten)]
    pub watch: watch::Args,
    /// The images that requests carry
    #[command(flatten)]
    pub images: images::Args,
    /// The results that are printed and written
    #[command(flatten)]
    pub output: output::Args,
    /// The workers that send the load
    #[command(flatten)]
    pub workers: workers::Args,
    /// The whole command line, which workers get.
    #[arg(skip)]
    pub arguments: Vec<OsString>,
    /// The objective: the time within which requests should be answered
    #[arg(long, default_value = "500ms", value_parser = positive)]
    pub objective: Duration,
    /// Exit with status 99 unless this condition holds for the run, such as 'p95<500ms'; can be given several times
    #[arg(long, value_name = "CONDITION")]
    pub threshold: Vec<Condition>,
    /// Search for the highest steady rate at which --slo holds: double the rate until --slo fails, then bisect; at each
    /// rate, --slo must hold in three windows. Two more searches near the result give its 95 % interval
    #[arg(
        long,
        requires = "slo",
        conflicts_with_all = [
            "workload", "shape", "stages", "closed", "duration", "threshold", "repeat", "rate_scale", "time_scale",
            "warmup", "html", "csv", "log", "junit", "markdown", "table", "scrape", "scaler", "scaler_target", "runs"
        ]
    )]
    pub find_capacity: bool,
    /// Number of runs, one after another: with --seed and the seeds that follow it. The results are the mean of each
    /// figure with its 95 % interval. --html, --csv and --log write a file for each run, with -seed-SEED in its name
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: u32,
    /// Condition that must hold at the rate that --find-capacity finds, such as 'p95<500ms'; can be given several times
    #[arg(long, value_name = "CONDITION")]
    pub slo: Vec<Condition>,
    /// Least length of each of the three windows of --find-capacity; a window is longer where --slo needs more requests: p95
    /// needs 200, p99 needs 1000
    #[arg(long, default_value = "5s", requires = "find_capacity", value_parser = positive)]
    pub window: Duration,
    /// Greatest length of a window of --find-capacity; the result says so if the window then has fewer requests than --slo
    /// needs
    #[arg(long, default_value = "60s", requires = "find_capacity", value_parser = positive)]
    pub max_window: Duration,
    /// Greatest length of the whole search of --find-capacity, which then ends with what is known
    #[arg(long, default_value = "30m", requires = "find_capacity", value_parser = positive)]
    pub max_duration: Duration,
}

impl RunArgs {
    /// The seed of each run of `--runs`.
    ///
    /// # Errors
    /// If the last seed would be too large.
    pub fn seeds(&self) -> anyhow::Result<Vec<u64>> {
        let (first, runs) = (self.load.seed, u64::from(self.runs));
        let last = first.checked_add(runs - 1).with_context(|| {
            format!("--seed ({first}) is too large for --runs ({runs}): each run needs the next seed; lower --seed")
        })?;
        Ok((first..=last).collect())
    }

    /// The files that the flags name for reading, each with its flag. No result may overwrite them.
    pub fn inputs(&self) -> Vec<(&'static str, &Path)> {
        let target = &self.target;
        let inputs = [
            ("--workload", &self.load.workload),
            ("--body-template", &target.body_template),
            ("--bearer-token-file", &target.bearer_token_file),
            ("--ca", &target.ca),
            ("--client-cert", &target.client_cert),
            ("--client-key", &target.client_key),
        ];
        inputs.into_iter().filter_map(|(flag, path)| Some((flag, path.as_deref()?))).collect()
    }
}

/// Flags of `loadgen compare`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  loadgen compare slo.json cpu-50.json cpu-70.json --html comparison.html\n\n\
    The name of a run is the value of `loadgen run --name`, or else the name of its file without the extension.\n\
    Runs of one name with different seeds, such as those of one file of `loadgen run --runs`, count as one, with the\n\
    mean and the 95 % interval of each figure. One group is called ahead of another only if the interval of their\n\
    difference says so.")]
pub struct CompareArgs {
    /// Files that `loadgen run --json` wrote
    #[arg(required = true, num_args = 1..)]
    pub reports: Vec<PathBuf>,
    /// Percentage of requests that must be answered within the objective
    #[arg(long, default_value_t = 99.0, value_parser = percent)]
    pub goal: f64,
    /// Write the comparison to this file, as one HTML page with plots
    #[arg(long)]
    pub html: Option<PathBuf>,
    /// Write the figures, the verdicts and the conclusion to this file as JSON. For this flag and --html, - is standard
    /// output; the table then goes to standard error
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Print the table in Markdown
    #[arg(long)]
    pub markdown: bool,
}

/// Flags of `loadgen workload`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  loadgen workload --workload workload.txt --rate-scale 0.5 --plot\n  \
    loadgen workload --shape sine:low=5,high=40,period=60,length=300 --plot\n  \
    loadgen workload --stages 30s:10,1m30s:50,30s:0 --plot")]
pub struct WorkloadArgs {
    /// The times at which requests are sent
    #[command(flatten)]
    pub load: load::Args,
    /// Also draw a plot of the workload
    #[arg(long)]
    pub plot: bool,
}

/// Parses a duration in humantime's notation, longer than zero and at most a week.
fn positive(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("must be longer than 0s".into()),
        Ok(duration) if duration > Duration::from_secs(7 * 24 * 3600) => Err("must not be longer than a week".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write a duration like 500ms or 30s")),
    }
}

/// Parses a percentage, 0 to 100.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=100.0).contains(number));
    number.ok_or_else(|| "must be a number between 0 and 100".into())
}
