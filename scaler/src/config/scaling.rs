//! Makes checked settings of the flags of one target.

use crate::advice::HPA_PERIOD;
use crate::control::{Actuation, ControlSettings};
use crate::headroom::HeadroomSize;
use crate::target::processes::ProcessesSpec;
use crate::target::scalable::ScalableSpec;
use anyhow::{Context, Result, bail, ensure};
use bytesize::ByteSize;
use cgroup::ResourceLimits;
use clap::ArgMatches;
use clap::parser::ValueSource;
use kubernetes::name::{self, ScalableName, ScalableType};
use law::table::{Law, Objective, Settings, Table};
use limits::{Guard, Limits};
use readings::ReadingSource;
use readings::flags::SourceFlags;
use service::options::positive_duration;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Time after the start, and after an outage of the metrics, in which no replica that serves or is starting is removed,
/// unless there are too many.
pub const SETTLE: Duration = Duration::from_secs(20);

/// A longer time without figures counts as an outage of the dispatchers' metrics: at least two scrapes have failed.
const OUTAGE: Duration = Duration::from_secs(2);

/// The smallest memory limit that is accepted. A replica needs more, so a smaller limit has the wrong unit.
const MIN_MEMORY: ByteSize = ByteSize::mib(16);

/// The lowest accepted value of `--pods-per-second`. A control plane that is slower hardly works.
pub const MIN_PODS_PER_SECOND: f64 = 0.1;

/// The unchecked flags of one target, from the command line or from a section of a file.
#[derive(Debug, clap::Args)]
pub struct Section {
    /// Source of the dispatchers' metrics
    #[command(flatten)]
    pub source: SourceFlags,
    /// Target to scale: processes (on this machine), deployment:NAMESPACE/NAME, statefulset:NAMESPACE/NAME,
    /// rollout:NAMESPACE/NAME (Argo Rollouts), or scale:GROUP/VERSION/PLURAL:NAMESPACE/NAME for any other type that has the
    /// subresource scale
    #[arg(long, env = "ROUNDHOUSE_TARGET", default_value_t = TargetFlag::Processes)]
    pub target: TargetFlag,
    /// Kind of the target's processes or pods
    #[arg(long, env = "ROUNDHOUSE_ROLE", value_enum, default_value_t = Role::Replicas)]
    pub role: Role,
    /// Law that recommends the number of replicas
    #[arg(long, env = "ROUNDHOUSE_POLICY", default_value = "slo")]
    pub policy: String,
    /// Time within which requests should be answered
    #[arg(long, env = "ROUNDHOUSE_OBJECTIVE", default_value = "500ms", value_parser = positive_duration)]
    pub objective: Duration,
    /// Price of a late request (policy slo): with 0.99, as much as the work for 1 / (1 - 0.99) = 100 requests; a higher
    /// value makes fewer requests late and needs more replicas
    #[arg(long, env = "ROUNDHOUSE_QUANTILE", default_value_t = 0.99)]
    pub quantile: f64,
    /// Fewest replicas; with 0, a request that comes after two minutes without requests waits for a replica to start
    #[arg(long, env = "ROUNDHOUSE_MIN", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub min: u32,
    /// Most replicas
    #[arg(long, env = "ROUNDHOUSE_MAX", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max: u32,
    /// Time between two decisions
    #[arg(long, env = "ROUNDHOUSE_INTERVAL", default_value = "500ms", value_parser = humantime::parse_duration)]
    pub interval: Duration,
    /// Stabilisation window: scale down only to the highest recommendation in this time; policy slo needs none
    #[arg(long, env = "ROUNDHOUSE_DOWN_WINDOW", default_value = "0s", value_parser = humantime::parse_duration)]
    pub down_window: Duration,
    /// Number of replicas that may be added in a minute; unlimited by default
    #[arg(long, env = "ROUNDHOUSE_UP_RATE", value_parser = clap::value_parser!(u32).range(1..))]
    pub up_rate: Option<u32>,
    /// Number of replicas that may be removed in a minute; unlimited by default
    #[arg(long, env = "ROUNDHOUSE_DOWN_RATE", value_parser = clap::value_parser!(u32).range(1..))]
    pub down_rate: Option<u32>,
    /// Number of pods that the control plane creates and binds per second (policy slo): each further replica of a scale-up is
    /// planned for so much later. 20 is that of a Kubernetes with default settings (not with --target processes)
    #[arg(long, env = "ROUNDHOUSE_PODS_PER_SECOND", default_value_t = 20.0, value_name = "NUMBER")]
    pub pods_per_second: f64,
    /// Decide and explain, but change nothing (not with --target processes)
    #[arg(long, env = "ROUNDHOUSE_DRY_RUN")]
    pub dry_run: bool,
    /// Advise an HPA or a ScaledObject of KEDA, which scales the target: serve the recommendation as a metric, and change
    /// nothing (not with --target processes, --dry-run, --headroom and --deletion-cost)
    #[arg(long, env = "ROUNDHOUSE_ADVISE")]
    pub advise: bool,
    /// Let unready pods and then the newest ones be deleted first when replicas are removed, by the annotation
    /// controller.kubernetes.io/pod-deletion-cost (Kubernetes 1.22 and later; not with statefulset:). The scaler must be
    /// permitted to patch pods
    #[arg(long, env = "ROUNDHOUSE_DELETION_COST")]
    pub deletion_cost: bool,
    /// Placeholders that keep room for new replicas: their number, auto for the replicas that the law would add within
    /// the time that a node takes, or none. They are the pods of the Deployment headroom in the target's namespace, which
    /// has a low priority (k8s/components/headroom). The environment variable is for targets of the role replicas only
    #[arg(long, env = "ROUNDHOUSE_HEADROOM", value_name = "N|auto|none")]
    pub headroom: Option<HeadroomSize>,
    /// Name of the Lease by which one of several scalers of a target becomes the leader, in the target's namespace;
    /// by default roundhouse-scaler-NAME for a Deployment, and roundhouse-scaler-PLURAL-NAME for others
    #[arg(long, env = "ROUNDHOUSE_LEASE")]
    pub lease: Option<String>,
    /// Unique name of this scaler among several scalers, such as its pod's name; host name and process id by default
    #[arg(long, env = "ROUNDHOUSE_IDENTITY")]
    pub identity: Option<String>,
    /// File in which ready replicas are published to the dispatcher (processes)
    #[arg(long, env = "ROUNDHOUSE_LIST")]
    pub list: Option<PathBuf>,
    /// Program of a replica; by default the program replica in the folder of this program (processes)
    #[arg(long, env = "ROUNDHOUSE_REPLICA")]
    pub replica: Option<PathBuf>,
    /// Flag for the replica's program, such as --replica-arg=--weights=resnet18.pth; may be repeated (processes)
    #[arg(long)]
    pub replica_arg: Vec<String>,
    /// Cores for each replica, where control groups are permitted (processes)
    #[arg(long, env = "ROUNDHOUSE_CPU_SHARE")]
    pub cpu_share: Option<f64>,
    /// Memory for each replica, such as 2GiB, where control groups are permitted; a replica that needs more is killed
    /// and replaced (processes)
    #[arg(long, env = "ROUNDHOUSE_MEMORY_LIMIT", value_name = "SIZE")]
    pub memory_limit: Option<ByteSize>,
    /// Time in which a replica still accepts requests after it was told to stop (processes)
    #[arg(long, env = "ROUNDHOUSE_DRAIN_DELAY", default_value = "1500ms", value_parser = humantime::parse_duration)]
    pub drain_delay: Duration,
    /// Time after the drain delay in which a replica may finish its requests before it is killed (processes)
    #[arg(long, env = "ROUNDHOUSE_GRACE", default_value = "10s", value_parser = humantime::parse_duration)]
    pub grace: Duration,
}

/// The kind of a target's processes or pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Replicas, which answer the requests that wait in the dispatchers
    Replicas,
    /// Dispatchers, whose number does not depend on the requests that wait for replicas
    Dispatchers,
}

/// The value of `--target`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetFlag {
    /// Replicas that run as child processes on this machine.
    Processes,
    /// The pods of an object that can be scaled.
    Scalable(ScalableName),
}

impl FromStr for TargetFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "processes" => Ok(Self::Processes),
            _ if text.contains(':') => text.parse().map(Self::Scalable).map_err(|error: name::Error| error.to_string()),
            _ => Err(format!(
                "{text:?} is no target; write processes, deployment:NAMESPACE/NAME, statefulset:NAMESPACE/NAME, \
                 rollout:NAMESPACE/NAME or scale:GROUP/VERSION/PLURAL:NAMESPACE/NAME"
            )),
        }
    }
}

impl TargetFlag {
    /// Whether the pods may belong to ReplicaSets, which choose the pods that they delete.
    fn may_have_replica_sets(&self) -> bool {
        matches!(self, Self::Scalable(name) if name.type_ != ScalableType::StatefulSet)
    }
}

impl fmt::Display for TargetFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Processes => write!(f, "processes"),
            Self::Scalable(name) => write!(f, "{}", name.flag()),
        }
    }
}

/// The checked settings of a target.
#[derive(Debug)]
pub enum TargetSpec {
    /// Child processes on this machine, with the limits of each process.
    Processes(ProcessesSpec, ResourceLimits),
    /// An object of Kubernetes that can be scaled, with the name of the Lease.
    Scalable(ScalableSpec, String),
}

/// Makes the settings that laws receive.
///
/// # Errors
/// If a value is out of range. The message names its flag.
pub fn settings(objective: Duration, quantile: f64, interval: Duration, min: u32, max: u32) -> Result<Settings> {
    ensure!(min <= max, "--min ({min}) must not exceed --max ({max})");
    ensure!(quantile > 0.0 && quantile < 1.0, "--quantile ({quantile}) must lie between 0 and 1, such as 0.99");
    ensure!(interval >= Duration::from_millis(100), "--interval ({interval:?}) must be at least 100ms");
    let objective = Objective { latency: objective, quantile };
    Ok(Settings {
        objective,
        interval,
        delay: Duration::ZERO,
        starts_per_second: f64::INFINITY,
        min: min as usize,
        max: max as usize,
    })
}

impl Section {
    /// This section without the environment variables that cannot be meant for it: all sections of a file share them.
    /// `given` tells where each value comes from.
    #[must_use]
    pub fn without_variables_of_others(self, given: &ArgMatches) -> Self {
        let is_shared = |flag| given.value_source(flag) == Some(ValueSource::EnvVariable);
        let is_of_others = self.role == Role::Dispatchers && is_shared("headroom");
        let deletion_cost = self.deletion_cost && (self.target.may_have_replica_sets() || !is_shared("deletion_cost"));
        Self { headroom: self.headroom.filter(|_| !is_of_others), deletion_cost, ..self }
    }

    /// Checks all flags. `name` is the target's name in metrics and messages.
    ///
    /// # Errors
    /// If a flag is out of range or contradicts another flag, or if a file that it names is missing.
    pub fn check(self, name: String, laws: &Table) -> Result<(ControlSettings, TargetSpec)> {
        let mut settings = settings(self.objective, self.quantile, self.interval, self.min, self.max)?;
        if self.advise {
            settings.delay = HPA_PERIOD;
        }
        ensure!(
            self.pods_per_second >= MIN_PODS_PER_SECOND,
            "--pods-per-second ({}) must be at least {MIN_PODS_PER_SECOND}, such as 20",
            self.pods_per_second
        );
        if self.target != TargetFlag::Processes {
            settings.starts_per_second = self.pods_per_second;
        }
        let law = self.law(laws, &settings)?;
        let (limits, interval, role, actuation) = (self.limits(&settings), self.interval, self.role, self.actuation());
        let headroom = self.headroom.filter(|size| *size != HeadroomSize::Off);
        // Not by clap, which would count a variable with the value false, and --headroom none, as conflicts.
        let conflicts =
            [(self.dry_run, "--dry-run"), (headroom.is_some(), "--headroom"), (self.deletion_cost, "--deletion-cost")];
        if let Some((_, flag)) = conflicts.into_iter().find(|&(is_given, _)| self.advise && is_given) {
            bail!(
                "--advise cannot be used with {flag}: it lets the scaler advise, and write nothing; remove one of the two"
            );
        }
        ensure!(
            headroom.is_none() || matches!(self.target, TargetFlag::Scalable(_)),
            "--headroom needs a target on Kubernetes: processes on this machine have no nodes to wait for"
        );
        ensure!(
            headroom != Some(HeadroomSize::Auto) || self.policy == "slo",
            "--headroom auto needs --policy slo, since no other law plans ahead; give a number of placeholders"
        );
        ensure!(
            !self.deletion_cost || self.target.may_have_replica_sets(),
            "--deletion-cost needs a target whose pods belong to ReplicaSets, such as deployment:NAMESPACE/NAME"
        );
        let (source, target) = self.source_and_target()?;
        Ok((ControlSettings { name, role, source, law, limits, interval, actuation, headroom }, target))
    }

    fn actuation(&self) -> Actuation {
        match (self.advise, self.dry_run) {
            (true, _) => Actuation::Advice,
            (false, true) => Actuation::DryRun,
            (false, false) => Actuation::Direct,
        }
    }

    fn law(&self, laws: &Table, settings: &Settings) -> Result<Box<dyn Law>> {
        let (kind, law) = laws.make(&self.policy, settings).context("--policy")?;
        ensure!(
            self.role == Role::Replicas || kind.scales_dispatchers,
            "--policy {} cannot scale dispatchers, since no requests wait for them; give --policy rate:REQUESTS",
            kind.name
        );
        ensure!(self.min > 0 || kind.wakes, "--min 0 needs --policy slo: no other law can start the first replica");
        Ok(law)
    }

    fn limits(&self, &Settings { min, max, .. }: &Settings) -> Limits {
        // A Prometheus has new figures once in a scrape interval only, and the time in between must not be an outage.
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

    fn source_and_target(self) -> Result<(ReadingSource, TargetSpec)> {
        let limits = self.replica_limits()?;
        ensure!(
            self.role == Role::Replicas || self.target != TargetFlag::Processes,
            "--role dispatchers needs --target deployment:NAMESPACE/NAME: only replicas are run as processes"
        );
        let target = match self.target {
            TargetFlag::Scalable(name) => {
                let lease = self.lease.unwrap_or_else(|| lease(&name));
                let identity = self.identity.unwrap_or_else(identity);
                let (has_deletion_costs, is_advised) = (self.deletion_cost, self.advise);
                TargetSpec::Scalable(ScalableSpec { name, identity, has_deletion_costs, is_advised }, lease)
            }
            TargetFlag::Processes => {
                ensure!(
                    !self.advise,
                    "--advise needs a target on Kubernetes: no other autoscaler starts processes on this machine"
                );
                ensure!(
                    !self.dry_run,
                    "--dry-run cannot start the replicas of --target processes; give --target deployment:NAMESPACE/NAME"
                );
                let beside =
                    || Ok(std::env::current_exe().context("find this program's folder")?.with_file_name("replica"));
                let program = self.replica.map_or_else(beside, anyhow::Ok)?;
                ensure!(
                    program.is_file(),
                    "there is no replica program at {}; build it (cargo build --release) or name it with --replica",
                    program.display()
                );
                let spec = ProcessesSpec {
                    program,
                    arguments: self.replica_arg,
                    list: self.list.context("--list FILE is missing; name the file for the ready replicas")?,
                    controller: None,
                    drain_delay: self.drain_delay,
                    grace: self.grace,
                };
                TargetSpec::Processes(spec, limits)
            }
        };
        Ok((self.source.try_into()?, target))
    }

    fn replica_limits(&self) -> Result<ResourceLimits> {
        let (cores, memory) = (self.cpu_share, self.memory_limit);
        let (share, limit) = (cores.unwrap_or(1.0), memory.unwrap_or(MIN_MEMORY));
        ensure!((0.05..=1024.0).contains(&share), "--cpu-share ({share}) must lie between 0.05 and 1024 cores");
        ensure!(limit >= MIN_MEMORY, "--memory-limit ({limit}) must be at least {MIN_MEMORY}, which a replica needs");
        Ok(ResourceLimits { cores, memory })
    }
}

/// The default of `--lease`. Objects of several types may have one name, and each needs a leader of its own.
fn lease(name: &ScalableName) -> String {
    match &name.type_ {
        ScalableType::Deployment => format!("roundhouse-scaler-{}", name.name),
        other => format!("roundhouse-scaler-{}-{}", other.path().2, name.name),
    }
}

/// The default of `--identity`: the host name and the process id.
fn identity() -> String {
    format!("{}-{}", rustix::system::uname().nodename().to_string_lossy(), std::process::id())
}
