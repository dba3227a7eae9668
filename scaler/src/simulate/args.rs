//! Flags of `scaler simulate` → what is tried.

use super::plant::Settings;
use super::work::Work;
use crate::config::scaling::SETTLE;
use crate::limits::Limits;
use crate::policy::law::{Frame, Law};
use crate::policy::slo::Objective;
use anyhow::{Context, Result, ensure};
use service::admission::Order;
use service::arrivals::Process;
use service::options::positive_duration;
use service::shape::Shape;
use service::workload::Workload;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// More service times than this are not read.
const MAX_RECORDED: usize = 1_000_000;

/// Tries laws on workloads in virtual time. The plant is a dispatcher with its queue, admission and rotation, and
/// replicas that take time to start and to work.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    scaler simulate --workload workload.txt --policy slo,concurrency,cpu:70 --startup 3s --seeds 5\n  \
    scaler simulate --shape square:low=7,high=35,period=60,length=600 --html comparison.html\n  \
    scaler simulate --workload day.txt --policy slo --max 40 --slots 16 --batch 8 --batch-growth 0.1")]
pub struct Args {
    /// Requests per second, second by second: a file like loadgen's; may be repeated
    #[arg(long, value_name = "FILE")]
    pub workload: Vec<PathBuf>,
    /// A described workload: constant, ramp, step, spike, sine, square, sawtooth, on-off or markov, with
    /// low=,high=,period=,length=,seed= after a colon; may be repeated
    #[arg(long)]
    pub shape: Vec<Shape>,
    /// Multiplies all rates
    #[arg(long, default_value_t = 1.0)]
    pub rate_scale: f64,
    /// Laws, as for scaling
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "slo,concurrency,cpu:50,cpu:70,cpu:90,queue:5s,latency-step,latency-ratio,ray-serve"
    )]
    pub policy: Vec<Law>,
    /// Repetitions, each with other arrivals and service times
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub seeds: u64,
    /// The first of the repetitions' seeds
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(..1_000_000_000))]
    pub seed: u64,
    /// Asked for → ready
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    pub startup: Duration,
    /// Mean time that a replica takes for a request
    #[arg(long, default_value = "55ms", value_parser = positive_duration)]
    pub service: Duration,
    /// Its standard deviation ÷ mean; the distribution is log-normal
    #[arg(long, default_value_t = 0.2)]
    pub service_variation: f64,
    /// Service times to draw from instead: a file with one a line, in milliseconds
    #[arg(long, value_name = "FILE")]
    pub service_times: Option<PathBuf>,
    /// Requests that a replica holds at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub slots: u32,
    /// Passes that it makes at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub workers: u32,
    /// Requests that one pass takes at most
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: u32,
    /// What each further request of a pass adds to its time, as a part of what it would take alone: 1 on a processor, much
    /// less on a card
    #[arg(long, default_value_t = 1.0)]
    pub batch_growth: f64,
    /// Replicas at least
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub min: u32,
    /// Replicas at most
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max: u32,
    /// Replicas that can be placed
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub room: u32,
    /// Processors: more requests at once than that slow each other down
    #[arg(long, default_value_t = f64::INFINITY)]
    pub cores: f64,
    /// Answers are to be there within this time
    #[arg(long, default_value = "500ms", value_parser = positive_duration)]
    pub objective: Duration,
    /// For this share of requests (policy slo)
    #[arg(long, default_value_t = 0.999)]
    pub quantile: f64,
    /// Requests are given up after this time
    #[arg(long, default_value = "5s", value_parser = positive_duration)]
    pub deadline: Duration,
    /// Requests that may wait
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub queue_length: u32,
    /// Who goes first
    #[arg(long, value_enum, default_value_t = Order::LateLast)]
    pub order: Order,
    /// How arrivals are spread
    #[arg(long, value_enum, default_value_t = Process::Poisson)]
    pub arrivals: Process,
    /// Between two decisions of policy slo; the others have their own
    #[arg(long, default_value = "500ms", value_parser = positive_duration)]
    pub interval: Duration,
    /// Scale down only to the most that was wanted in this time (policy slo)
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    pub down_window: Duration,
    /// How old the figures are that laws see
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    pub staleness: Duration,
    /// The oracle, whose cost the others' are compared with, answers this share in time; 0 for no oracle
    #[arg(long, default_value_t = 0.999)]
    pub goal: f64,
    /// Write everything here as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a page with plots here
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// What is tried.
#[derive(Debug, Clone)]
pub struct Plan {
    /// By name.
    pub workloads: Vec<(String, Workload)>,
    /// In the order of their rows.
    pub laws: Vec<Law>,
    /// Of the repetitions.
    pub seeds: Range<u64>,
    /// What laws are told.
    pub frame: Frame,
    /// The limits of `slo`; the others have bounds only.
    pub limits: Limits,
    /// The system.
    pub plant: Settings,
    /// How arrivals are spread.
    pub process: Process,
    /// How old the figures are that laws see.
    pub staleness: Duration,
    /// The oracle's attainment; nothing for no oracle.
    pub goal: Option<f64>,
}

impl Args {
    /// Checks the flags and reads the files.
    ///
    /// # Errors
    /// When one makes no sense.
    pub fn plan(&self) -> Result<Plan> {
        let Self { min, max, quantile, goal, cores, service_variation, .. } = *self;
        ensure!(min <= max, "--min ({min}) must not exceed --max ({max})");
        ensure!(quantile > 0.0 && quantile < 1.0, "--quantile ({quantile}) must lie between 0 and 1, such as 0.999");
        ensure!((0.0..=1.0).contains(&goal), "--goal ({goal}) must lie between 0 and 1, such as 0.999");
        ensure!(
            self.rate_scale > 0.0 && self.rate_scale <= 1e6,
            "--rate-scale ({}) must be a positive number",
            self.rate_scale
        );
        ensure!(cores > 0.0, "--cores ({cores}) must be more than 0");
        ensure!(
            (0.0..=10.0).contains(&service_variation),
            "--service-variation ({service_variation}) must lie between 0 and 10"
        );
        ensure!(
            (0.0..=1.0).contains(&self.batch_growth),
            "--batch-growth ({}) must lie between 0 and 1",
            self.batch_growth
        );
        ensure!(
            self.slots >= self.workers,
            "--slots ({}) must not be less than --workers ({}): some would never work",
            self.slots,
            self.workers
        );
        ensure!(self.interval >= Duration::from_millis(100), "--interval ({:?}) must be at least 100ms", self.interval);
        ensure!(
            !(self.workload.is_empty() && self.shape.is_empty()),
            "say what arrives: --workload FILE or --shape SHAPE"
        );
        ensure!(
            min > 0 || self.policy.iter().all(|&law| law == Law::Slo),
            "--min 0 needs --policy slo: the other laws cannot start the first replica"
        );
        let mut workloads: Vec<(String, Workload)> = Vec::new();
        for path in &self.workload {
            let text = std::fs::read_to_string(path).with_context(|| format!("read workload {}", path.display()))?;
            let workload = text.parse().with_context(|| format!("read workload {}", path.display()))?;
            workloads.push((path.display().to_string(), workload));
        }
        workloads.extend(self.shape.iter().map(|shape| (shape.to_string(), shape.workload())));
        let scaled = |(name, workload): (String, Workload)| (name, workload.scaled(self.rate_scale));
        let workloads = workloads.into_iter().map(scaled).collect();
        let work = match &self.service_times {
            Some(path) => recorded(path)?,
            None => Work::new(self.service, service_variation),
        };
        let (min, max, slots) = (min as usize, max as usize, self.slots as usize);
        Ok(Plan {
            workloads,
            laws: self.policy.clone(),
            seeds: self.seed..self.seed + self.seeds,
            frame: Frame {
                objective: Objective { latency: self.objective, quantile },
                lower_latency: self.objective / 2,
                interval: self.interval,
                min,
                max,
            },
            limits: Limits {
                is_careful: true,
                settle: SETTLE,
                down_window: self.down_window,
                ..Limits::bounds(min, max)
            },
            plant: Settings {
                order: self.order,
                objective: self.objective,
                deadline: self.deadline,
                queue_length: self.queue_length as usize,
                slots,
                workers: self.workers as usize,
                batch: self.batch as usize,
                batch_growth: self.batch_growth,
                work,
                startup: self.startup,
                room: self.room as usize,
                cores,
            },
            process: self.arrivals,
            staleness: self.staleness,
            goal: (goal > 0.0).then_some(goal),
        })
    }
}

fn recorded(path: &Path) -> Result<Work> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read service times {}", path.display()))?;
    let mut times = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let milliseconds = line.trim().parse::<f64>().ok().filter(|time| (0.001..=1e7).contains(time));
        let milliseconds = milliseconds.with_context(|| {
            let word: String = line.chars().take(40).collect();
            format!("{}, line {}: {word:?} is no time in milliseconds, 0.001 to 10000000", path.display(), index + 1)
        })?;
        times.push(Duration::from_secs_f64(milliseconds / 1e3));
        ensure!(times.len() <= MAX_RECORDED, "{} has more than {MAX_RECORDED} lines", path.display());
    }
    ensure!(!times.is_empty(), "{} has no service times; write one a line, in milliseconds", path.display());
    Ok(Work::Recorded(times))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn plan(flags: &[&str]) -> Result<Plan, String> {
        let cli = Cli::try_parse_from(["simulate"].iter().chain(flags)).map_err(|error| error.to_string())?;
        cli.args.plan().map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn bad_flags_and_files_are_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path.display().to_string()
        };
        let (workload, times) = (file("workload", "5 x"), file("times", "50\n\n60.5\n"));
        assert!(matches!(
            plan(&["--shape=constant", &format!("--service-times={times}")]).expect("good").plant.work,
            Work::Recorded(times) if times.len() == 2
        ));
        let (bad_times, no_times) = (file("bad", "50\n-1\n"), file("none", "\n"));
        for (flags, word) in [
            (&[][..], "--workload FILE or --shape"),
            (&["--workload=no/such/file"], "no/such/file"),
            (&[&format!("--workload={workload}")], "line 1, column 3"),
            (&["--shape=circle"], "no such shape"),
            (&["--shape=constant", "--policy=magic"], "magic"),
            (&["--shape=constant", "--min=7"], "--min (7)"),
            (&["--shape=constant", "--min=0"], "--min 0 needs"),
            (&["--shape=constant", "--seeds=0"], "seeds"),
            (&["--shape=constant", "--cores=0"], "--cores (0)"),
            (&["--shape=constant", "--cores=NaN"], "--cores"),
            (&["--shape=constant", "--goal=2"], "--goal (2)"),
            (&["--shape=constant", "--quantile=1"], "--quantile"),
            (&["--shape=constant", "--interval=1ms"], "--interval"),
            (&["--shape=constant", "--rate-scale=NaN"], "--rate-scale (NaN)"),
            (&["--shape=constant", "--workers=2"], "--slots (1)"),
            (&["--shape=constant", "--batch-growth=NaN"], "--batch-growth (NaN)"),
            (&["--shape=constant", "--service=0s"], "service"),
            (&["--shape=constant", "--service-variation=-1"], "service-variation"),
            (&["--shape=constant", &format!("--service-times={bad_times}")], "line 2: \"-1\""),
            (&["--shape=constant", &format!("--service-times={no_times}")], "has no service times"),
        ] {
            let error = plan(flags).expect_err("refused");
            assert!(error.contains(word), "{flags:?}: {error}");
        }
    }
}
