//! The flags that `lab simulate` and `lab backtest` share: the laws, the plant and the report.

use super::plant::disturbances::Disturbances;
use super::plant::settings::PlantSettings;
use super::time_distribution::TimeDistribution;
use crate::laws::LawChoice;
use admission::Order;
use anyhow::{Context, Result, ensure};
use law::table::{Objective, Settings as LawSettings};
use limits::{Guard, Limits};
use scaler::config::scaling::{MIN_PODS_PER_SECOND, SETTLE};
use scaler::control::OBSERVE;
use service::options::positive_duration;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use workload::Workload;
use workload::arrivals::ArrivalProcess;

/// The largest number of service times in a file.
const MAX_SERVICE_TIMES: usize = 1_000_000;

/// The least time between failures. Replicas that fail more often would hardly answer anything.
const MIN_MTBF: Duration = Duration::from_secs(1);

/// The flags of the laws, the plant and the report, before they are checked.
#[derive(Debug, Clone, clap::Args)]
pub struct Flags {
    /// Laws to compare, such as slo,concurrency,cpu:70; cpu may have the behavior of the HPA as a second parameter,
    /// such as cpu:70:behavior, cpu:70:up=0s:down=60s/tolerance=0, or
    /// cpu:70:up=30s/2@15s/50%@60s/min
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "slo,concurrency,cpu:50,cpu:70,cpu:90,queue:5s,latency-step,latency-ratio,ray-serve"
    )]
    pub policy: Vec<LawChoice>,
    /// Number of times that each law is simulated, each time with other arrivals and service times
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub seeds: u64,
    /// Seed of the first simulation of each law; the next simulations have the following seeds
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(..1_000_000_000))]
    pub seed: u64,
    /// Mean start-up time of a replica, from its creation until it is ready; by default 3s, and in a backtest the recorded
    /// time
    #[arg(long, value_parser = humantime::parse_duration)]
    pub startup: Option<Duration>,
    /// Number of replicas that are created per second, such as 20 for a control plane of Kubernetes; the law slo knows it,
    /// and slo-at-once does not; unlimited by default
    #[arg(long, default_value_t = f64::INFINITY)]
    pub pods_per_second: f64,
    /// Standard deviation ÷ mean of the start-up times, which are log-normal; by default all replicas take the same time
    #[arg(long, default_value_t = 0.0)]
    pub startup_variation: f64,
    /// Mean time between the failures of one ready replica; a replica that fails is replaced at once, and its requests
    /// are sent again; by default no replica fails
    #[arg(long, value_parser = humantime::parse_duration)]
    pub mtbf: Option<Duration>,
    /// Mean service time, that is the time that a replica takes for one request; by default 55ms, and in a backtest the
    /// recorded time
    #[arg(long, value_parser = positive_duration)]
    pub service: Option<Duration>,
    /// Standard deviation ÷ mean of the service times, which are log-normal; by default 0.2, and in a backtest the
    /// recorded value
    #[arg(long)]
    pub service_variation: Option<f64>,
    /// File from which the service times are drawn, instead of from a log-normal distribution; it has one time on each
    /// line, in milliseconds
    #[arg(long, value_name = "FILE")]
    pub service_times: Option<PathBuf>,
    /// Number of requests that a replica holds at once; by default 1, and in a backtest the recorded number
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub slots: Option<u32>,
    /// Number of forward passes that a replica computes at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub workers: u32,
    /// Largest number of requests in one forward pass
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: u32,
    /// Time that each further request adds to a forward pass, as a share of the request's own service time; about 1 on
    /// a CPU, and much less on a GPU
    #[arg(long, default_value_t = 1.0)]
    pub batch_growth: f64,
    /// Lowest number of replicas
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub min: u32,
    /// Highest number of replicas
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max: u32,
    /// Number of replicas that the cluster can place; replicas beyond that number never start
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub room: u32,
    /// Number of cores of the whole cluster; if more forward passes run at once, they slow each other down in
    /// proportion; unlimited by default
    #[arg(long, default_value_t = f64::INFINITY)]
    pub cores: f64,
    /// Number of dispatchers in front of the replicas; each request goes to one of them, and no dispatcher sees the
    /// requests of the others
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub dispatchers: u16,
    /// Latency objective: the time within which requests should be answered
    #[arg(long, default_value = "500ms", value_parser = positive_duration)]
    pub objective: Duration,
    /// Price of a late request for the law slo: with 0.99, as much as the work for 1 / (1 - 0.99) = 100 requests
    #[arg(long, default_value_t = 0.99)]
    pub quantile: f64,
    /// Time from the arrival of a request until it expires
    #[arg(long, default_value = "5s", value_parser = positive_duration)]
    pub deadline: Duration,
    /// Largest number of requests that may wait; further requests are refused
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub queue_length: u32,
    /// Order in which waiting requests are dispatched
    #[arg(long, value_enum, default_value_t = Order::LateLast)]
    pub order: Order,
    /// Arrival process: poisson, uniform, replayed (every second has exactly the number of requests that the workload
    /// gives), or gamma:CV, where CV is the coefficient of variation of the gaps; above 1, requests come in bursts
    #[arg(long, default_value_t = ArrivalProcess::Poisson)]
    pub arrivals: ArrivalProcess,
    /// Time between two decisions of the law slo; the other laws have intervals of their own
    #[arg(long, default_value = "500ms", value_parser = positive_duration)]
    pub interval: Duration,
    /// Stabilisation window of the law slo, which scales down only to the highest recommendation within this time
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    pub down_window: Duration,
    /// Age of the metrics on which laws decide, such as 15s if a Prometheus scrapes every 15s
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    pub staleness: Duration,
    /// Highest additional age of a reading; each reading is older by a random time from 0 to this one
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    pub jitter: Duration,
    /// Share of requests that the oracle answers within the objective; the oracle is a cheap plan that knows all
    /// arrivals, and the costs of laws are given as multiples of its cost; 0 leaves it out
    #[arg(long, default_value_t = 0.999)]
    pub goal: f64,
    /// File to which all results are written as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// File to which an HTML page with plots is written
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// The properties of the plant where no flag gives them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Defaults {
    /// The start-up time of a replica.
    pub startup: Duration,
    /// The mean service time.
    pub service: Duration,
    /// The standard deviation ÷ mean of the service times.
    pub service_variation: f64,
    /// The number of requests that a replica holds at once.
    pub slots: u32,
}

/// The configuration of a comparison, after all checks.
#[derive(Debug, Clone)]
pub struct Config {
    /// The workloads with their names.
    pub workloads: Vec<(String, Workload)>,
    /// The laws, in the order of the report.
    pub laws: Vec<LawChoice>,
    /// The seeds. Each law is simulated once with each seed.
    pub seeds: Range<u64>,
    /// The settings that every law receives: objective, interval and bounds.
    pub law_settings: LawSettings,
    /// The limits of the law `slo`. The other laws have only the bounds of these limits.
    pub limits: Limits,
    /// The settings of the plant.
    pub plant: PlantSettings,
    /// The arrival process.
    pub process: ArrivalProcess,
    /// The age of the metrics on which laws decide.
    pub staleness: Duration,
    /// The highest age that a reading gets at random.
    pub jitter: Duration,
    /// The attainment that the oracle must reach, above 0 and at most 1; `None` for no oracle.
    pub goal: Option<f64>,
}

impl Flags {
    /// Checks the flags that can be checked before any file is read.
    ///
    /// # Errors
    /// If a flag is out of range, or two flags contradict each other.
    pub fn check(&self) -> Result<()> {
        let Self { min, max, quantile, goal, cores, batch_growth, service_variation, interval, .. } = *self;
        let Self { startup_variation, mtbf, jitter, pods_per_second, .. } = *self;
        ensure!(min <= max, "--min ({min}) must not exceed --max ({max})");
        ensure!(quantile > 0.0 && quantile < 1.0, "--quantile ({quantile}) must lie between 0 and 1, such as 0.99");
        ensure!((0.0..=1.0).contains(&goal), "--goal ({goal}) must lie from 0 to 1, such as 0.999");
        ensure!(cores > 0.0, "--cores ({cores}) must be more than 0");
        ensure!(
            pods_per_second >= MIN_PODS_PER_SECOND,
            "--pods-per-second ({pods_per_second}) must be at least {MIN_PODS_PER_SECOND}, such as 20"
        );
        if let Some(variation) = service_variation {
            ensure!((0.0..=10.0).contains(&variation), "--service-variation ({variation}) must lie from 0 to 10");
        }
        ensure!(
            (0.0..=10.0).contains(&startup_variation),
            "--startup-variation ({startup_variation}) must lie from 0 to 10"
        );
        if let Some(mtbf) = mtbf {
            ensure!(mtbf >= MIN_MTBF, "--mtbf ({mtbf:?}) must be at least {MIN_MTBF:?}");
        }
        ensure!((0.0..=1.0).contains(&batch_growth), "--batch-growth ({batch_growth}) must lie from 0 to 1");
        ensure!(interval >= Duration::from_millis(100), "--interval ({interval:?}) must be at least 100ms");
        let step = OBSERVE.min(interval);
        ensure!(
            jitter <= step,
            "--jitter ({jitter:?}) must not exceed the time between two readings ({step:?}); --staleness makes figures \
             older"
        );
        ensure!(
            min > 0 || self.policy.iter().all(LawChoice::starts_first_replica),
            "--min 0 needs --policy slo, since no other law can start the first replica; for other laws give --min 1"
        );
        Ok(())
    }

    /// The configuration of a comparison on these workloads. `defaults` apply where a flag is not given.
    ///
    /// # Errors
    /// If a flag is out of range, two flags contradict each other, or the service times cannot be read.
    pub fn config(&self, workloads: Vec<(String, Workload)>, defaults: Defaults) -> Result<Config> {
        self.check()?;
        let (min, max) = (self.min as usize, self.max as usize);
        let bounds = Limits::bounds(min, max);
        Ok(Config {
            workloads,
            laws: self.policy.clone(),
            seeds: self.seed..self.seed + self.seeds,
            law_settings: LawSettings {
                objective: Objective { latency: self.objective, quantile: self.quantile },
                interval: self.interval,
                delay: Duration::ZERO,
                starts_per_second: self.pods_per_second,
                min,
                max,
            },
            limits: Limits { guard: Guard::On, settle: SETTLE, down_window: self.down_window, ..bounds },
            plant: self.plant(defaults)?,
            process: self.arrivals,
            staleness: self.staleness,
            jitter: self.jitter,
            goal: (self.goal > 0.0).then_some(self.goal),
        })
    }

    fn plant(&self, defaults: Defaults) -> Result<PlantSettings> {
        let variation = self.service_variation.unwrap_or(defaults.service_variation);
        let service_times = match &self.service_times {
            Some(path) => read_service_times(path)?,
            None => TimeDistribution::new(self.service.unwrap_or(defaults.service), variation),
        };
        let (slots, workers) = (self.slots.unwrap_or(defaults.slots), self.workers);
        ensure!(
            slots >= workers,
            "--slots ({slots}) must be at least --workers ({workers}), since a worker without a slot never computes"
        );
        Ok(PlantSettings {
            order: self.order,
            objective: self.objective,
            deadline: self.deadline,
            max_queue_length: self.queue_length as usize,
            slots: slots as usize,
            workers: workers as usize,
            max_batch: self.batch as usize,
            batch_growth: self.batch_growth,
            service_times,
            startup: self.startup.unwrap_or(defaults.startup),
            starts_per_second: self.pods_per_second,
            max_placed: self.room as usize,
            cores: self.cores,
            disturbances: Disturbances {
                startup_variation: self.startup_variation,
                mtbf: self.mtbf,
                dispatchers: usize::from(self.dispatchers),
            },
        })
    }
}

fn read_service_times(path: &Path) -> Result<TimeDistribution> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read service times {}", path.display()))?;
    let mut times = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let milliseconds = line.trim().parse::<f64>().ok().filter(|time| (0.001..=1e7).contains(time));
        let milliseconds = milliseconds.with_context(|| {
            let word: String = line.chars().take(40).collect();
            format!(
                "--service-times {}, line {}: {word:?} is no service time; write milliseconds from 0.001 to 10000000",
                path.display(),
                index + 1
            )
        })?;
        times.push(Duration::from_secs_f64(milliseconds / 1e3));
        ensure!(
            times.len() <= MAX_SERVICE_TIMES,
            "--service-times {} has more than {MAX_SERVICE_TIMES} service times; give a shorter file",
            path.display()
        );
    }
    ensure!(
        !times.is_empty(),
        "--service-times {} has no service times; write one on each line, in milliseconds",
        path.display()
    );
    Ok(TimeDistribution::Recorded(times))
}
