//! The flags of everything that compares laws in virtual time: which laws, against what plant, reported how.

use super::plant::Settings;
use super::work::Work;
use crate::laws::Choice;
use admission::Order;
use anyhow::{Context, Result, ensure};
use law::limits::{Guard, Limits};
use law::table::{Objective, Settings as LawSettings};
use scaler::config::scaling::SETTLE;
use service::options::positive_duration;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use workload::Workload;
use workload::arrivals::Process;

/// More service times than this are not read.
const MAX_RECORDED: usize = 1_000_000;

/// As they were given.
#[derive(Debug, Clone, clap::Args)]
pub struct Flags {
    /// Laws, as for scaling; such as cpu:70:behavior, cpu:70:up=0s:down=60s, or cpu:70:up=30s/2@15s/50%@60s/min
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "slo,concurrency,cpu:50,cpu:70,cpu:90,queue:5s,latency-step,latency-ratio,ray-serve"
    )]
    pub policy: Vec<Choice>,
    /// Repetitions, each with other arrivals and service times
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub seeds: u64,
    /// The first of the repetitions' seeds
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(..1_000_000_000))]
    pub seed: u64,
    /// Asked for → ready; by default 3s, and in a backtest what was recorded
    #[arg(long, value_parser = humantime::parse_duration)]
    pub startup: Option<Duration>,
    /// Mean time that a replica takes for a request; by default 55ms, and in a backtest what was recorded
    #[arg(long, value_parser = positive_duration)]
    pub service: Option<Duration>,
    /// Its standard deviation ÷ mean; the distribution is log-normal; by default 0.2, and in a backtest what was
    /// recorded
    #[arg(long)]
    pub service_variation: Option<f64>,
    /// Service times to draw from instead: a file with one a line, in milliseconds
    #[arg(long, value_name = "FILE")]
    pub service_times: Option<PathBuf>,
    /// Requests that a replica holds at once; by default 1, and in a backtest what was recorded
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub slots: Option<u32>,
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
    /// How arrivals are spread: poisson, uniform, replayed (exactly as many in every second as the workload says), or
    /// gamma:CV with a coefficient of variation (above 1 in bunches)
    #[arg(long, default_value_t = Process::Poisson)]
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

/// What holds of the plant where no flag says otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Defaults {
    /// Asked for → ready.
    pub startup: Duration,
    /// Mean time of a request in a replica.
    pub service: Duration,
    /// Its standard deviation ÷ mean.
    pub service_variation: f64,
    /// Requests that a replica takes at once.
    pub slots: u32,
}

/// What is tried.
#[derive(Debug, Clone)]
pub struct Plan {
    /// By name.
    pub workloads: Vec<(String, Workload)>,
    /// In the order of their rows.
    pub laws: Vec<Choice>,
    /// Of the repetitions.
    pub seeds: Range<u64>,
    /// What laws are told.
    pub told: LawSettings,
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

impl Flags {
    /// What can be found wrong before anything is read.
    ///
    /// # Errors
    /// When a flag makes no sense.
    pub fn check(&self) -> Result<()> {
        let Self { min, max, quantile, goal, cores, service_variation, .. } = *self;
        ensure!(min <= max, "--min ({min}) must not exceed --max ({max})");
        ensure!(quantile > 0.0 && quantile < 1.0, "--quantile ({quantile}) must lie between 0 and 1, such as 0.999");
        ensure!((0.0..=1.0).contains(&goal), "--goal ({goal}) must lie between 0 and 1, such as 0.999");
        ensure!(cores > 0.0, "--cores ({cores}) must be more than 0");
        if let Some(variation) = service_variation {
            ensure!((0.0..=10.0).contains(&variation), "--service-variation ({variation}) must lie between 0 and 10");
        }
        ensure!(
            (0.0..=1.0).contains(&self.batch_growth),
            "--batch-growth ({}) must lie between 0 and 1",
            self.batch_growth
        );
        ensure!(self.interval >= Duration::from_millis(100), "--interval ({:?}) must be at least 100ms", self.interval);
        ensure!(
            min > 0 || self.policy.iter().all(Choice::is_slo),
            "--min 0 needs --policy slo: the other laws cannot start the first replica"
        );
        Ok(())
    }

    /// Everything that is to be tried on these workloads.
    ///
    /// # Errors
    /// When a flag makes no sense, or the service times cannot be read.
    pub fn plan(&self, workloads: Vec<(String, Workload)>, defaults: Defaults) -> Result<Plan> {
        self.check()?;
        let variation = self.service_variation.unwrap_or(defaults.service_variation);
        let work = match &self.service_times {
            Some(path) => recorded(path)?,
            None => Work::new(self.service.unwrap_or(defaults.service), variation),
        };
        let (slots, workers) = (self.slots.unwrap_or(defaults.slots), self.workers);
        ensure!(
            slots >= workers,
            "--slots ({slots}) must not be less than --workers ({workers}): some would never work"
        );
        let (min, max) = (self.min as usize, self.max as usize);
        Ok(Plan {
            workloads,
            laws: self.policy.clone(),
            seeds: self.seed..self.seed + self.seeds,
            told: LawSettings {
                objective: Objective { latency: self.objective, quantile: self.quantile },
                interval: self.interval,
                min,
                max,
            },
            limits: Limits {
                guard: Guard::On,
                settle: SETTLE,
                down_window: self.down_window,
                ..Limits::bounds(min, max)
            },
            plant: Settings {
                order: self.order,
                objective: self.objective,
                deadline: self.deadline,
                queue_length: self.queue_length as usize,
                slots: slots as usize,
                workers: workers as usize,
                batch: self.batch as usize,
                batch_growth: self.batch_growth,
                work,
                startup: self.startup.unwrap_or(defaults.startup),
                room: self.room as usize,
                cores: self.cores,
            },
            process: self.arrivals,
            staleness: self.staleness,
            goal: (self.goal > 0.0).then_some(self.goal),
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
