//! Flags → what loadgen does.

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use hyper::Uri;
use service::arrivals::Process;
use service::workload::Workload;
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

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Load a dispatcher (or a replica) and report
    Run(Box<RunArgs>),
    /// Write generated, labelled pictures to a folder
    Pictures(PicturesArgs),
}

/// Flags of `loadgen run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  loadgen run --workload workload.txt --rate-scale 0.5 --html report.html\n  \
    loadgen run --rate 20 --duration 30s --pictures photos/\n  \
    loadgen run --closed 4 --duration 10s        how much it can take\n\n\
    Exit status: 0 when the run was made, whatever its figures; 1 when it could not be; 2 for bad flags.")]
pub struct RunArgs {
    /// Where pictures are posted
    #[arg(long, default_value = "http://127.0.0.1:5052/predict")]
    pub url: Uri,
    /// File of requests per second, one whole number for each second, separated by white space; # starts a comment
    #[arg(long, conflicts_with_all = ["rate", "closed"])]
    pub workload: Option<PathBuf>,
    /// Constant requests per second
    #[arg(long, conflicts_with = "closed", requires = "duration")]
    pub rate: Option<f64>,
    /// Keep this many requests on their way instead of following a schedule
    #[arg(long, requires = "duration", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub closed: Option<u32>,
    /// Multiplies every rate of the workload
    #[arg(long, default_value_t = 1.0)]
    pub rate_scale: f64,
    /// Stop the schedule after this time
    #[arg(long, value_parser = humantime::parse_duration)]
    pub duration: Option<Duration>,
    /// How arrivals are spread within a second
    #[arg(long, value_enum, default_value_t = Process::Poisson)]
    pub arrivals: Process,
    /// Seed of arrivals and generated pictures
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Folder of pictures, at any depth; without it, generated labelled ones
    #[arg(long)]
    pub pictures: Option<PathBuf>,
    /// How many pictures to generate
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub generate: u64,
    /// Answers are to be there within this time
    #[arg(long, default_value = "500ms", value_parser = humantime::parse_duration)]
    pub objective: Duration,
    /// Give up on an answer after this time
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// Budget told to the server with each request (x-request-timeout-ms)
    #[arg(long, value_parser = humantime::parse_duration)]
    pub budget: Option<Duration>,
    /// Print a row for every so many seconds of the run
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub table: Option<u32>,
    /// Write the results as JSON
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Write the results as one HTML page with plots
    #[arg(long)]
    pub html: Option<PathBuf>,
    /// Print no progress
    #[arg(long, short)]
    pub quiet: bool,
}

/// Flags of `loadgen pictures`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  loadgen pictures pictures/ --count 24 --seed 7")]
pub struct PicturesArgs {
    /// Folder to write; labels.csv is put beside the pictures
    pub folder: PathBuf,
    /// How many
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=99_999))]
    pub count: u64,
    /// Which series
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// What load to make.
#[derive(Debug, Clone, PartialEq)]
pub enum Load {
    /// A schedule, whatever the server does.
    Open(Workload, Process),
    /// So many on their way, for so long.
    Closed(usize, Duration),
}

impl RunArgs {
    /// The load that the flags describe.
    ///
    /// # Errors
    /// When the workload cannot be read or a number makes no sense.
    pub fn load(&self) -> Result<Load> {
        ensure!(
            self.rate_scale.is_finite() && self.rate_scale > 0.0 && self.rate_scale <= 1e6,
            "--rate-scale ({}) must be a positive number",
            self.rate_scale
        );
        ensure!(!self.objective.is_zero(), "--objective must be longer than 0s");
        ensure!(self.url.scheme_str() == Some("http"), "--url ({}) must start with http://", self.url);
        ensure!(self.url.host().is_some(), "--url ({}) names no host", self.url);
        if let (Some(concurrency), Some(duration)) = (self.closed, self.duration) {
            return Ok(Load::Closed(concurrency as usize, duration));
        }
        let workload = match (&self.workload, self.rate) {
            (Some(path), _) => {
                let text =
                    std::fs::read_to_string(path).with_context(|| format!("read workload {}", path.display()))?;
                text.parse::<Workload>().with_context(|| format!("read workload {}", path.display()))?
            }
            (None, Some(rate)) => {
                ensure!(rate.is_finite() && rate > 0.0 && rate <= 1e6, "--rate ({rate}) must be a positive number");
                Workload::constant(rate, self.duration.unwrap_or_default())
            }
            (None, None) => anyhow::bail!("say what to send: --workload FILE, --rate R or --closed N"),
        };
        let workload = workload.scaled(self.rate_scale);
        let workload = match self.duration {
            Some(duration) => workload.first(duration),
            None => workload,
        };
        ensure!(
            workload.total() <= 1e7,
            "{:.0} requests are more than one run can hold (10 million)",
            workload.total()
        );
        Ok(Load::Open(workload, self.arrivals))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(flags: &[&str]) -> Result<Load, String> {
        let all = ["loadgen", "run"].iter().chain(flags);
        let cli = Cli::try_parse_from(all).map_err(|error| error.to_string())?;
        let Command::Run(args) = cli.command else { return Err("another command".into()) };
        args.load().map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn bad_flags_are_named() {
        assert_eq!(
            load(&["--rate=2", "--duration=1500ms", "--arrivals=uniform"]),
            Ok(Load::Open(Workload { per_second: vec![2.0, 2.0] }, Process::Uniform))
        );
        for (flags, word) in [
            (&[][..], "--workload"),
            (&["--rate=2"], "--duration"),
            (&["--rate=-1", "--duration=1s"], "--rate (-1)"),
            (&["--rate=NaN", "--duration=1s"], "--rate (NaN)"),
            (&["--rate=1", "--duration=1s", "--rate-scale=0"], "--rate-scale"),
            (&["--rate=1", "--duration=1s", "--url=ftp://x/"], "--url"),
            (&["--rate=1", "--closed=1", "--duration=1s"], "--closed"),
            (&["--workload=no/such/file"], "no/such/file"),
            (&["--rate=1000000", "--duration=1h"], "10 million"),
        ] {
            let error = load(flags).expect_err("refused");
            assert!(error.contains(word), "{flags:?}: {error}");
        }
    }
}
