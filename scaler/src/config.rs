//! Flags → what the scaler runs with.

use crate::limits::Limits;
use crate::observe::{Observe, flags::Flags};
use crate::policy::Policy;
use crate::policy::law::{Frame, Law};
use crate::policy::slo::Objective;
use crate::target::deployment::Name;
use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use service::options::{Process, positive_duration};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// After the start, and after an outage of the metrics: never scale down for so long.
const SETTLE: Duration = Duration::from_secs(20);

/// Holds a latency objective on the fewest replicas.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  \
    scaler --dispatcher 127.0.0.1:5052 --target processes --list /run/roundhouse/replicas --max 4 --objective 500ms\n  \
    scaler --dispatcher dns:dispatcher:5052 --target deployment:default/replica --max 10 --dry-run\n  \
    scaler explain\n  \
    scaler simulate --workload workload.txt --policy slo,concurrency,cpu:70"
)]
pub struct Cli {
    /// Instead of scaling
    #[command(subcommand)]
    pub command: Option<Command>,
    /// To scale
    #[command(flatten)]
    pub args: Args,
}

/// What else the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Try laws on workloads in virtual time, and compare what they reach and cost
    Simulate(Box<crate::simulate::args::Args>),
    /// How a running scaler sees things now
    Status(crate::ask::Args),
    /// Why a running scaler did what it did
    Explain(crate::ask::ExplainArgs),
}

/// How to scale.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the dispatchers' metrics are read
    #[command(flatten)]
    pub source: Flags,
    /// What is scaled: processes on this machine, or deployment:NAMESPACE/NAME
    #[arg(long, env = "ROUNDHOUSE_TARGET", default_value_t = Target::Processes)]
    pub target: Target,
    /// The law: slo, latency-step, latency-ratio, queue[:INTERVAL], concurrency, cpu[:PERCENT], ray-serve or
    /// fixed:REPLICAS; the default needs to know the objective only
    #[arg(long, env = "ROUNDHOUSE_POLICY", default_value_t = Law::Slo)]
    pub policy: Law,
    /// Answers are to be there within this time
    #[arg(long, env = "ROUNDHOUSE_OBJECTIVE", default_value = "500ms", value_parser = positive_duration)]
    pub objective: Duration,
    /// For this share of requests (policy slo)
    #[arg(long, env = "ROUNDHOUSE_QUANTILE", default_value_t = 0.999)]
    pub quantile: f64,
    /// One fewer below this mean latency (policy latency-step); half the objective by default
    #[arg(long, env = "ROUNDHOUSE_LOWER_LATENCY", value_parser = humantime::parse_duration)]
    pub lower_latency: Option<Duration>,
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
    /// Address of /metrics, /status and /decisions; port 0 picks a free one and prints it
    #[arg(long, env = "ROUNDHOUSE_LISTEN", default_value = "127.0.0.1:5053")]
    pub listen: SocketAddr,
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
    /// How long a replica that is taken out goes on accepting (processes)
    #[arg(long, env = "ROUNDHOUSE_DRAIN_DELAY", default_value = "1500ms", value_parser = humantime::parse_duration)]
    pub drain_delay: Duration,
    /// After that, how long it may take to finish (processes)
    #[arg(long, env = "ROUNDHOUSE_GRACE", default_value = "10s", value_parser = humantime::parse_duration)]
    pub grace: Duration,
    /// Flags of every program
    #[command(flatten)]
    pub process: Process,
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
    /// Cores for each replica.
    pub cpu_share: Option<f64>,
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

/// Checked settings.
#[derive(Debug)]
pub struct Config {
    /// Where readings come from.
    pub source: Observe,
    /// The law, remembering nothing yet.
    pub policy: Policy,
    /// Bounds and patience.
    pub limits: Limits,
    /// Between two decisions.
    pub interval: Duration,
    /// Address of the admin paths.
    pub listen: SocketAddr,
    /// What is scaled.
    pub place: Place,
    /// Change nothing.
    pub is_dry_run: bool,
    /// Whether the parent's end is a reason to stop.
    pub exit_with_parent: bool,
}

impl TryFrom<Args> for Config {
    type Error = anyhow::Error;

    fn try_from(args: Args) -> Result<Self> {
        let Args { quantile, min, max, objective, interval, .. } = args;
        ensure!(min <= max, "--min ({min}) must not exceed --max ({max})");
        ensure!(quantile > 0.0 && quantile < 1.0, "--quantile ({quantile}) must lie between 0 and 1, such as 0.99");
        ensure!(interval >= Duration::from_millis(100), "--interval ({interval:?}) must be at least 100ms");
        ensure!(
            min > 0 || args.policy == Law::Slo,
            "--min 0 needs --policy slo: {} cannot start the first replica",
            args.policy
        );
        if let Some(share) = args.cpu_share {
            ensure!((0.05..=1024.0).contains(&share), "--cpu-share ({share}) must be at least 0.05 of a core");
        }
        let lower = args.lower_latency.unwrap_or(objective / 2);
        ensure!(lower < objective, "--lower-latency ({lower:?}) must be shorter than --objective ({objective:?})");
        let stale_after = args.source.prometheus.is_some().then_some(args.source.prometheus_stale_after);
        let unlimited = |rate: Option<u32>| rate.map_or(usize::MAX, |rate| rate as usize);
        let (min, max) = (min as usize, max as usize);
        let policy = args.policy.policy(&Frame {
            objective: Objective { latency: objective, quantile },
            lower_latency: lower,
            interval,
            min,
            max,
            cpu_request: args.cpu_share.unwrap_or(1.0),
        });
        let limits = Limits {
            min,
            max,
            down_window: args.down_window,
            // Figures that come seldom are no outage.
            settle: stale_after.map_or(SETTLE, |stale| SETTLE.max(stale)),
            up_rate: unlimited(args.up_rate),
            down_rate: unlimited(args.down_rate),
            is_careful: true,
        };
        let place = match args.target {
            Target::Deployment(name) => Place::Remote(Remote {
                lease: args.lease.unwrap_or_else(|| format!("roundhouse-scaler-{}", name.name)),
                identity: args.identity.unwrap_or_else(identity),
                name,
            }),
            Target::Processes => {
                ensure!(
                    !args.dry_run,
                    "--dry-run needs replicas that run without it: --target deployment:NAMESPACE/NAME"
                );
                let replica = match args.replica {
                    Some(program) => program,
                    None => std::env::current_exe().context("find this program's folder")?.with_file_name("replica"),
                };
                ensure!(
                    replica.is_file(),
                    "there is no replica program at {}; build it (cargo build --release) or name it with --replica",
                    replica.display()
                );
                Place::Local(Local {
                    list: args.list.context("--list FILE is missing: where ready replicas are published")?,
                    replica,
                    replica_arguments: args.replica_arg,
                    cpu_share: args.cpu_share,
                    drain_delay: args.drain_delay,
                    grace: args.grace,
                })
            }
        };
        Ok(Self {
            source: args.source.try_into()?,
            policy,
            limits,
            interval,
            listen: args.listen,
            place,
            is_dry_run: args.dry_run,
            exit_with_parent: args.process.exit_with_parent,
        })
    }
}

/// Host name and process id.
fn identity() -> String {
    format!("{}-{}", rustix::system::uname().nodename().to_string_lossy(), std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &[&str]) -> Result<Config, String> {
        let program = std::env::current_exe().expect("a test is a program");
        let replica = format!("--replica={}", program.display());
        let all = ["scaler", "--list=list", &replica].into_iter().chain(flags.iter().copied());
        let cli = Cli::try_parse_from(all).map_err(|error| error.to_string())?;
        Config::try_from(cli.args).map_err(|error| error.to_string())
    }

    #[test]
    fn readings_come_from_dispatchers_or_from_prometheus() {
        for flags in
            [&[][..], &["--dispatcher=a:1"], &["--dispatcher=a:1", "--dispatcher=dns:b:2"], &["--dispatcher=a:1,b:2"]]
        {
            assert!(matches!(config(flags).expect("good").source, Observe::Dispatchers(_)), "{flags:?}");
        }
        let prometheus = ["--prometheus=http://a:9090", "--prometheus-selector=job=\"b\"", "--prometheus-query=up"];
        let config = config(&prometheus).expect("good");
        assert!(matches!(config.source, Observe::Prometheus(_)));
        assert_eq!(config.limits.settle, Duration::from_secs(45));
    }

    #[test]
    fn a_deployment_needs_neither_list_nor_replica() {
        let cli = Cli::try_parse_from(["scaler", "--target=deployment:shop/replica", "--dry-run"]).expect("parses");
        let Place::Remote(remote) = Config::try_from(cli.args).expect("good").place else { panic!("a Deployment") };
        assert_eq!(
            (remote.name.to_string().as_str(), remote.lease.as_str()),
            ("deployment shop/replica", "roundhouse-scaler-replica")
        );
        assert!(remote.identity.ends_with(&format!("-{}", std::process::id())));
    }

    #[test]
    fn bad_flags_are_named() {
        assert!(config(&[]).is_ok());
        for (flags, word) in [
            (&["--min=3", "--max=2"][..], "--min (3)"),
            (&["--quantile=1"], "--quantile"),
            (&["--quantile=NaN"], "--quantile"),
            (&["--objective=0s"], "--objective"),
            (&["--interval=1ms"], "--interval"),
            (&["--cpu-share=0"], "--cpu-share"),
            (&["--cpu-share=NaN"], "--cpu-share"),
            (&["--lower-latency=1s"], "--lower-latency"),
            (&["--policy=magic"], "magic"),
            (&["--policy=cpu:0"], "cpu:0"),
            (&["--min=0", "--policy=concurrency"], "--min 0 needs --policy slo"),
            (&["--max=0"], "max"),
            (&["--up-rate=0"], "up-rate"),
            (&["--target=pods"], "\"pods\" is no target"),
            (&["--target=deployment:replica"], "deployment:NAMESPACE/NAME"),
            (&["--dry-run"], "--dry-run needs"),
            (&["--dispatcher=nowhere"], "\"nowhere\" is neither HOST:PORT"),
            (&["--dispatcher=http://a:1"], "HOST:PORT"),
            (&["--dispatcher=dns:a:b"], "dns:NAME:PORT"),
            (&["--dispatcher=a:1", "--dispatcher=a:1"], "--dispatcher a:1 is given twice"),
            (&["--prometheus=a:9090"], "neither http nor https"),
            (&["--prometheus=http://a:99999"], "port"),
            (&["--prometheus=http://a", "--dispatcher=a:1"], "cannot be used with"),
            (&["--prometheus-query=up"], "--prometheus <URL>"),
            (&["--prometheus=http://a", "--prometheus-selector={a=\"b\"}"], "braces"),
            (&["--prometheus=http://a", "--prometheus-query= "], "--prometheus-query is empty"),
            (&["--prometheus=http://a", "--prometheus-stale-after=0s"], "--prometheus-stale-after"),
            (&["--prometheus=http://a", "--prometheus-token-file=no/such/token"], "no/such/token"),
        ] {
            let error = config(flags).expect_err("refused");
            assert!(error.contains(word), "{flags:?}: {error}");
        }
        let of =
            |flags: &[&str]| Config::try_from(Cli::try_parse_from(flags).expect("parses").args).expect_err("missing");
        assert!(of(&["scaler", "--list=x", "--replica=no/such/program"]).to_string().contains("no/such/program"));
        let program = std::env::current_exe().expect("a test is a program");
        let replica = format!("--replica={}", program.display());
        assert!(of(&["scaler", &replica]).to_string().contains("--list FILE is missing"));
    }
}
