//! Flags → how one target is scaled.

use crate::laws::highest::Highest;
use crate::observe::{self, Observe};
use crate::target::cgroup;
use crate::target::deployment::Name;
use anyhow::{Context, Result, ensure};
use bytesize::ByteSize;
use law::limits::{Guard, Limits};
use law::table::{Kind, Law, Objective, Settings, Table};
use service::options::positive_duration;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// After the start, and after an outage of the metrics: never scale down for so long.
pub const SETTLE: Duration = Duration::from_secs(20);

/// Without figures for longer than this, dispatchers' metrics are out: a scrape that fails, and the next one as well.
const OUTAGE: Duration = Duration::from_secs(2);

/// Less is a mistake in the unit: a replica's own code needs more.
const SMALLEST_MEMORY: ByteSize = ByteSize::mib(16);

/// Flags of one target, as they were given on the command line or in its section of a file.
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
    /// The law; the default needs to know the objective only. Of several laws, the highest recommendation counts
    #[arg(long, env = "ROUNDHOUSE_POLICY", value_delimiter = ',', default_value = "slo")]
    pub policy: Vec<String>,
    /// Answers are to be there within this time
    #[arg(long, env = "ROUNDHOUSE_OBJECTIVE", default_value = "500ms", value_parser = positive_duration)]
    pub objective: Duration,
    /// For this share of requests (policy slo)
    #[arg(long, env = "ROUNDHOUSE_QUANTILE", default_value_t = 0.999)]
    pub quantile: f64,
    /// Replicas at least; with 0, the first request after two minutes of silence waits for a replica to start
    #[arg(long, env = "ROUNDHOUSE_MIN", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub min: u32,
    /// Replicas at most
    #[arg(long, env = "ROUNDHOUSE_MAX", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max: u32,
    /// Between two decisions
    #[arg(long, env = "ROUNDHOUSE_INTERVAL", default_value = "500ms", value_parser = humantime::parse_duration)]
    pub interval: Duration,
    /// Scale down only to the most that was wanted in this time; the default law has a patience of its own
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

/// `--role`
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// They work on what waits in the dispatchers' queues.
    Replicas,
    /// They are the dispatchers themselves, whose number has nothing to do with what waits for replicas.
    Dispatchers,
}

/// `--target`
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
                text.parse().map(Self::Deployment).map_err(|error: crate::target::deployment::Error| error.to_string())
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

/// How replicas are run on this machine.
#[derive(Debug)]
pub struct Local {
    /// The discovery file.
    pub list: PathBuf,
    /// The replica's program.
    pub replica: PathBuf,
    /// Its flags.
    pub replica_arguments: Vec<String>,
    /// What each of them may use.
    pub limits: cgroup::Limits,
    /// Taken out → no longer accepting.
    pub drain_delay: Duration,
    /// No longer accepting → killed.
    pub grace: Duration,
}

/// A Deployment, and who scales it.
#[derive(Debug)]
pub struct Remote {
    /// The Deployment.
    pub name: Name,
    /// The Lease's name.
    pub lease: String,
    /// This scaler's.
    pub identity: String,
}

/// Where replicas run.
#[derive(Debug)]
pub enum Place {
    /// On this machine.
    Local(Local),
    /// On a cluster.
    Remote(Remote),
}

/// Checked settings of one target.
#[derive(Debug)]
pub struct Scaling {
    /// Its section's name, or the target itself; a label of the metrics.
    pub name: String,
    /// Where readings come from.
    pub source: Observe,
    /// The law, remembering nothing yet.
    pub law: Box<dyn Law>,
    /// Bounds and patience.
    pub limits: Limits,
    /// Between two decisions.
    pub interval: Duration,
    /// What is scaled.
    pub place: Place,
    /// What its processes or pods are.
    pub role: Role,
    /// Change nothing.
    pub is_dry_run: bool,
}

impl Section {
    /// Checks them all.
    ///
    /// # Errors
    /// When one makes no sense, or something that it names is not there.
    pub fn check(self, name: String, laws: &Table) -> Result<Scaling> {
        let Self { quantile, min, max, objective, interval, role, .. } = self;
        ensure!(min <= max, "--min ({min}) must not exceed --max ({max})");
        ensure!(quantile > 0.0 && quantile < 1.0, "--quantile ({quantile}) must lie between 0 and 1, such as 0.99");
        ensure!(interval >= Duration::from_millis(100), "--interval ({interval:?}) must be at least 100ms");
        let objective_of_laws = Objective { latency: objective, quantile };
        let settings = Settings { objective: objective_of_laws, interval, min: min as usize, max: max as usize };
        let made: Vec<(Kind, Box<dyn Law>)> =
            self.policy.iter().map(|law| laws.make(law, &settings)).collect::<Result<_, _>>().context("--policy")?;
        ensure!(
            min > 0 || matches!(&made[..], [(only, _)] if only.wakes),
            "--min 0 needs --policy slo: no other law can start the first replica"
        );
        if let Some(share) = self.cpu_share {
            ensure!((0.05..=1024.0).contains(&share), "--cpu-share ({share}) must be at least 0.05 of a core");
        }
        if let Some(limit) = self.memory_limit {
            ensure!(
                limit >= SMALLEST_MEMORY,
                "--memory-limit ({limit}) must be at least {SMALLEST_MEMORY}: no replica could start"
            );
        }
        let stale_after = self.source.access.prometheus.is_some().then_some(self.source.prometheus_stale_after);
        let unlimited = |rate: Option<u32>| rate.map_or(usize::MAX, |rate| rate as usize);
        let (min, max) = (min as usize, max as usize);
        for (kind, _) in &made {
            ensure!(
                role == Role::Replicas || kind.scales_dispatchers,
                "--policy {} is for replicas: requests do not wait for dispatchers; use rate:REQUESTS",
                kind.name
            );
        }
        let limits = Limits {
            min,
            max,
            down_window: self.down_window,
            // Figures that come seldom are no outage.
            outage: stale_after.unwrap_or(OUTAGE),
            settle: stale_after.map_or(SETTLE, |stale| SETTLE.max(stale)),
            up_rate: unlimited(self.up_rate),
            down_rate: unlimited(self.down_rate),
            guard: Guard::On,
        };
        ensure!(
            role == Role::Replicas || self.target != Target::Processes,
            "--role dispatchers needs --target deployment:NAMESPACE/NAME: only replicas are run as processes"
        );
        let place = match self.target {
            Target::Deployment(name) => Place::Remote(Remote {
                lease: self.lease.unwrap_or_else(|| format!("roundhouse-scaler-{}", name.name)),
                identity: self.identity.unwrap_or_else(identity),
                name,
            }),
            Target::Processes => {
                ensure!(
                    !self.dry_run,
                    "--dry-run needs replicas that run without it: --target deployment:NAMESPACE/NAME"
                );
                let replica = match self.replica {
                    Some(program) => program,
                    None => std::env::current_exe().context("find this program's folder")?.with_file_name("replica"),
                };
                ensure!(
                    replica.is_file(),
                    "there is no replica program at {}; build it (cargo build --release) or name it with --replica",
                    replica.display()
                );
                Place::Local(Local {
                    list: self.list.context("--list FILE is missing: where ready replicas are published")?,
                    replica,
                    replica_arguments: self.replica_arg,
                    limits: cgroup::Limits { cores: self.cpu_share, memory: self.memory_limit },
                    drain_delay: self.drain_delay,
                    grace: self.grace,
                })
            }
        };
        Ok(Scaling {
            name,
            source: self.source.try_into()?,
            law: combined(made),
            limits,
            interval,
            place,
            role,
            is_dry_run: self.dry_run,
        })
    }
}

/// The only law, or all laws together.
fn combined(mut made: Vec<(Kind, Box<dyn Law>)>) -> Box<dyn Law> {
    if made.len() == 1 { made.remove(0).1 } else { Box::new(Highest::new(made.into_iter().map(|(_, law)| law))) }
}

/// Host name and process id.
fn identity() -> String {
    format!("{}-{}", rustix::system::uname().nodename().to_string_lossy(), std::process::id())
}
