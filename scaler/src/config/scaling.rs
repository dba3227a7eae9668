//! The flags of one target → its settings.

use crate::control;
use crate::observe::{self, Source};
use crate::target::{deployment, processes};
use anyhow::{Context, Result, ensure};
use bytesize::ByteSize;
use kubernetes::name::{self, Name};
use law::limits::{Guard, Limits};
use law::table::{Law, Objective, Settings, Table};
use service::options::positive_duration;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// After the start, and after an outage of the metrics, nothing is scaled down for this time.
pub const SETTLE: Duration = Duration::from_secs(20);

/// A longer time without figures is an outage of the dispatchers' metrics: two scrapes in a row have failed.
const OUTAGE: Duration = Duration::from_secs(2);

/// A smaller memory limit is a mistake in the unit: a replica's own code needs more.
const SMALLEST_MEMORY: ByteSize = ByteSize::mib(16);

/// The flags of one target, as they were given on the command line or in its section of a file.
#[derive(Debug, clap::Args)]
pub struct Section {
    /// Where the dispatchers' metrics are read
    #[command(flatten)]
    pub source: observe::flags::Flags,
    /// What is scaled: processes on this machine, or deployment:NAMESPACE/NAME
    #[arg(long, env = "ROUNDHOUSE_TARGET", default_value_t = Target::Processes)]
    pub target: Target,
    /// What the target's processes or pods are
    #[arg(long, env = "ROUNDHOUSE_ROLE", value_enum, default_value_t = Role::Replicas)]
    pub role: Role,
    /// The law; the default needs to know the objective only
    #[arg(long, env = "ROUNDHOUSE_POLICY", default_value = "slo")]
    pub policy: String,
    /// Requests are to be answered within this time
    #[arg(long, env = "ROUNDHOUSE_OBJECTIVE", default_value = "500ms", value_parser = positive_duration)]
    pub objective: Duration,
    /// Share of requests that are to be answered within the objective (policy slo)
    #[arg(long, env = "ROUNDHOUSE_QUANTILE", default_value_t = 0.999)]
    pub quantile: f64,
    /// Fewest replicas; with 0, the first request after two minutes of silence waits for a replica to start
    #[arg(long, env = "ROUNDHOUSE_MIN", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub min: u32,
    /// Most replicas
    #[arg(long, env = "ROUNDHOUSE_MAX", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max: u32,
    /// Time between two decisions
    #[arg(long, env = "ROUNDHOUSE_INTERVAL", default_value = "500ms", value_parser = humantime::parse_duration)]
    pub interval: Duration,
    /// Scale down only to the highest recommendation of this time; policy slo waits by itself
    #[arg(long, env = "ROUNDHOUSE_DOWN_WINDOW", default_value = "0s", value_parser = humantime::parse_duration)]
    pub down_window: Duration,
    /// Replicas that may be added in a minute
    #[arg(long, env = "ROUNDHOUSE_UP_RATE", value_parser = clap::value_parser!(u32).range(1..))]
    pub up_rate: Option<u32>,
    /// Replicas that may be removed in a minute
    #[arg(long, env = "ROUNDHOUSE_DOWN_RATE", value_parser = clap::value_parser!(u32).range(1..))]
    pub down_rate: Option<u32>,
    /// Decide and explain, but change nothing (deployments only)
    #[arg(long, env = "ROUNDHOUSE_DRY_RUN")]
    pub dry_run: bool,
    /// The Lease by which one of several scalers of a Deployment is chosen; in its namespace, roundhouse-scaler-NAME
    /// by default
    #[arg(long, env = "ROUNDHOUSE_LEASE")]
    pub lease: Option<String>,
    /// This scaler's name among others, such as its pod's; host name and process id by default
    #[arg(long, env = "ROUNDHOUSE_IDENTITY")]
    pub identity: Option<String>,
    /// The file in which ready replicas are published to the dispatcher (processes)
    #[arg(long, env = "ROUNDHOUSE_LIST")]
    pub list: Option<PathBuf>,
    /// The replica's program; the one beside this program by default (processes)
    #[arg(long, env = "ROUNDHOUSE_REPLICA")]
    pub replica: Option<PathBuf>,
    /// A flag for the replica's program, such as --replica-arg=--weights=resnet18.pth; may be repeated (processes)
    #[arg(long)]
    pub replica_arg: Vec<String>,
    /// Cores for each replica, where control groups are permitted (processes)
    #[arg(long, env = "ROUNDHOUSE_CPU_SHARE")]
    pub cpu_share: Option<f64>,
    /// Memory for each replica, such as 2GiB, where control groups are permitted; one that needs more is killed and
    /// replaced (processes)
    #[arg(long, env = "ROUNDHOUSE_MEMORY_LIMIT", value_name = "SIZE")]
    pub memory_limit: Option<ByteSize>,
    /// How long a replica that is taken out goes on accepting (processes)
    #[arg(long, env = "ROUNDHOUSE_DRAIN_DELAY", default_value = "1500ms", value_parser = humantime::parse_duration)]
    pub drain_delay: Duration,
    /// After that, how long it may take to finish (processes)
    #[arg(long, env = "ROUNDHOUSE_GRACE", default_value = "10s", value_parser = humantime::parse_duration)]
    pub grace: Duration,
}

/// What the processes or pods of a target are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// They work on what waits in the dispatchers' queues.
    Replicas,
    /// They are the dispatchers themselves, whose number has nothing to do with what waits for replicas.
    Dispatchers,
}

/// What is scaled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Replicas as child processes on this machine.
    Processes,
    /// Pods of a Deployment.
    Deployment(Name),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "processes" => Ok(Self::Processes),
            _ if text.starts_with("deployment:") => {
                text.parse().map(Self::Deployment).map_err(|error: name::Error| error.to_string())
            }
            _ => Err(format!("{text:?} is no target; write processes or deployment:NAMESPACE/NAME")),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Processes => write!(f, "processes"),
            Self::Deployment(Name { namespace, name }) => write!(f, "deployment:{namespace}/{name}"),
        }
    }
}

/// Where the target is.
#[derive(Debug)]
pub enum Place {
    /// On this machine, with the limits of each replica.
    Local(processes::Spec, cgroup::Limits),
    /// On a cluster, with the name of the Lease.
    Remote(deployment::Spec, String),
}

/// The settings that laws receive.
///
/// # Errors
/// When a figure makes no sense; the error names its flag.
pub fn settings(objective: Duration, quantile: f64, interval: Duration, min: u32, max: u32) -> Result<Settings> {
    ensure!(min <= max, "--min ({min}) must not exceed --max ({max})");
    ensure!(quantile > 0.0 && quantile < 1.0, "--quantile ({quantile}) must lie between 0 and 1, such as 0.99");
    ensure!(interval >= Duration::from_millis(100), "--interval ({interval:?}) must be at least 100ms");
    let objective = Objective { latency: objective, quantile };
    Ok(Settings { objective, interval, min: min as usize, max: max as usize })
}

impl Section {
    /// Checks all flags of the target `name`.
    ///
    /// # Errors
    /// When a flag makes no sense, or something that it names is not there.
    pub fn check(self, name: String, laws: &Table) -> Result<(control::Spec, Place)> {
        let settings = settings(self.objective, self.quantile, self.interval, self.min, self.max)?;
        let law = self.law(laws, &settings)?;
        let (limits, interval, role, is_dry_run) = (self.limits(&settings), self.interval, self.role, self.dry_run);
        let (source, place) = self.source_and_place()?;
        Ok((control::Spec { name, role, source, law, limits, interval, is_dry_run }, place))
    }

    fn law(&self, laws: &Table, settings: &Settings) -> Result<Box<dyn Law>> {
        let (kind, law) = laws.make(&self.policy, settings).context("--policy")?;
        ensure!(
            self.role == Role::Replicas || kind.scales_dispatchers,
            "--policy {} is for replicas: requests do not wait for dispatchers; use rate:REQUESTS",
            kind.name
        );
        ensure!(self.min > 0 || kind.wakes, "--min 0 needs --policy slo: no other law can start the first replica");
        Ok(law)
    }

    fn limits(&self, &Settings { min, max, .. }: &Settings) -> Limits {
        // Figures that come seldom are no outage.
        let prometheus = &self.source.access.prometheus;
        let stale_after = prometheus.as_ref().map(|_| self.source.prometheus_stale_after);
        let rate = |rate: Option<u32>| rate.map_or(usize::MAX, |rate| rate as usize);
        Limits {
            min,
            max,
            down_window: self.down_window,
            outage: stale_after.unwrap_or(OUTAGE),
            settle: stale_after.map_or(SETTLE, |stale| SETTLE.max(stale)),
            up_rate: rate(self.up_rate),
            down_rate: rate(self.down_rate),
            guard: Guard::On,
        }
    }

    fn source_and_place(self) -> Result<(Source, Place)> {
        let limits = self.replica_limits()?;
        ensure!(
            self.role == Role::Replicas || self.target != Target::Processes,
            "--role dispatchers needs --target deployment:NAMESPACE/NAME: only replicas are run as processes"
        );
        let place = match self.target {
            Target::Deployment(name) => {
                let lease = self.lease.unwrap_or_else(|| format!("roundhouse-scaler-{}", name.name));
                Place::Remote(deployment::Spec { name, identity: self.identity.unwrap_or_else(identity) }, lease)
            }
            Target::Processes => {
                ensure!(
                    !self.dry_run,
                    "--dry-run needs replicas that run without it: --target deployment:NAMESPACE/NAME"
                );
                let beside =
                    || Ok(std::env::current_exe().context("find this program's folder")?.with_file_name("replica"));
                let program = self.replica.map_or_else(beside, anyhow::Ok)?;
                ensure!(
                    program.is_file(),
                    "there is no replica program at {}; build it (cargo build --release) or name it with --replica",
                    program.display()
                );
                let spec = processes::Spec {
                    program,
                    arguments: self.replica_arg,
                    list: self.list.context("--list FILE is missing: where ready replicas are published")?,
                    controller: None,
                    drain_delay: self.drain_delay,
                    grace: self.grace,
                };
                Place::Local(spec, limits)
            }
        };
        Ok((self.source.try_into()?, place))
    }

    fn replica_limits(&self) -> Result<cgroup::Limits> {
        let (cores, memory) = (self.cpu_share, self.memory_limit);
        let (share, limit) = (cores.unwrap_or(1.0), memory.unwrap_or(SMALLEST_MEMORY));
        ensure!((0.05..=1024.0).contains(&share), "--cpu-share ({share}) must be at least 0.05 of a core");
        ensure!(
            limit >= SMALLEST_MEMORY,
            "--memory-limit ({limit}) must be at least {SMALLEST_MEMORY}: no replica could start"
        );
        Ok(cgroup::Limits { cores, memory })
    }
}

/// Host name and process id.
fn identity() -> String {
    format!("{}-{}", rustix::system::uname().nodename().to_string_lossy(), std::process::id())
}
