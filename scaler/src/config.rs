//! Flags → what the scaler runs with.

use crate::limits::Limits;
use crate::observe::{Observe, flags::Flags};
use crate::policy::{Policy, latency_step::LatencyStep, slo};
use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use service::options::{Process, positive_duration};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Holds a latency objective on the fewest replicas.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example:\n  dispatcher --replicas file:/run/roundhouse/replicas &\n  \
    scaler --dispatcher 127.0.0.1:5052 --target processes --list /run/roundhouse/replicas --max 4 --objective 500ms"
)]
pub struct Args {
    /// Where the dispatchers' metrics are read
    #[command(flatten)]
    pub source: Flags,
    /// What is scaled
    #[arg(long, env = "ROUNDHOUSE_TARGET", value_enum, default_value_t = Target::Processes)]
    pub target: Target,
    /// The law
    #[arg(long, env = "ROUNDHOUSE_POLICY", value_enum, default_value_t = Law::Slo)]
    pub policy: Law,
    /// Answers are to be there within this time
    #[arg(long, env = "ROUNDHOUSE_OBJECTIVE", default_value = "500ms", value_parser = positive_duration)]
    pub objective: Duration,
    /// For this share of requests (policy slo)
    #[arg(long, env = "ROUNDHOUSE_QUANTILE", default_value_t = 0.99)]
    pub quantile: f64,
    /// One fewer below this mean latency (policy latency-step); half the objective by default
    #[arg(long, env = "ROUNDHOUSE_LOWER_LATENCY", value_parser = humantime::parse_duration)]
    pub lower_latency: Option<Duration>,
    /// Replicas at least
    #[arg(long, env = "ROUNDHOUSE_MIN", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub min: u32,
    /// Replicas at most
    #[arg(long, env = "ROUNDHOUSE_MAX", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max: u32,
    /// Between two decisions
    #[arg(long, env = "ROUNDHOUSE_INTERVAL", default_value = "2s", value_parser = humantime::parse_duration)]
    pub interval: Duration,
    /// Scale down only to the most that was wanted in this time
    #[arg(long, env = "ROUNDHOUSE_DOWN_WINDOW", default_value = "20s", value_parser = humantime::parse_duration)]
    pub down_window: Duration,
    /// Address of /metrics and /status; port 0 picks a free one and prints it
    #[arg(long, env = "ROUNDHOUSE_LISTEN", default_value = "127.0.0.1:5053")]
    pub listen: SocketAddr,
    /// The file in which ready replicas are published to the dispatcher
    #[arg(long, env = "ROUNDHOUSE_LIST")]
    pub list: PathBuf,
    /// The replica's program; the one beside this program by default
    #[arg(long, env = "ROUNDHOUSE_REPLICA")]
    pub replica: Option<PathBuf>,
    /// A flag for the replica's program, such as --replica-arg=--weights=resnet18.pth; may be repeated
    #[arg(long)]
    pub replica_arg: Vec<String>,
    /// Cores for each replica, where control groups are permitted
    #[arg(long, env = "ROUNDHOUSE_CPU_SHARE")]
    pub cpu_share: Option<f64>,
    /// How long a replica that is taken out goes on accepting
    #[arg(long, env = "ROUNDHOUSE_DRAIN_DELAY", default_value = "1500ms", value_parser = humantime::parse_duration)]
    pub drain_delay: Duration,
    /// After that, how long it may take to finish
    #[arg(long, env = "ROUNDHOUSE_GRACE", default_value = "10s", value_parser = humantime::parse_duration)]
    pub grace: Duration,
    /// Flags of every program
    #[command(flatten)]
    pub process: Process,
}

/// `--target`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// Replicas as child processes on this machine
    Processes,
}

/// `--policy`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Law {
    /// The fewest replicas that hold the objective
    Slo,
    /// One more or one fewer every 30 s, by mean latency
    LatencyStep,
}

/// Checked settings.
#[derive(Debug)]
pub struct Config {
    /// What is observed, unread yet.
    pub source: Observe,
    /// The law, remembering nothing yet.
    pub policy: Policy,
    /// Bounds and patience.
    pub limits: Limits,
    /// Between two decisions.
    pub interval: Duration,
    /// Address of the admin paths.
    pub listen: SocketAddr,
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
        let scraped_every = args.source.prometheus_stale_after / 3;
        ensure!(
            args.source.prometheus.is_none() || scraped_every <= args.down_window,
            "--down-window ({:?}) must be at least a third of --prometheus-stale-after ({:?}), or figures come \
             too rarely to ever scale down",
            args.down_window,
            args.source.prometheus_stale_after
        );
        if let Some(share) = args.cpu_share {
            ensure!((0.05..=1024.0).contains(&share), "--cpu-share ({share}) must be at least 0.05 of a core");
        }
        let lower = args.lower_latency.unwrap_or(objective / 2);
        ensure!(lower < objective, "--lower-latency ({lower:?}) must be shorter than --objective ({objective:?})");
        let replica = match args.replica {
            Some(program) => program,
            None => std::env::current_exe().context("find this program's folder")?.with_file_name("replica"),
        };
        ensure!(
            replica.is_file(),
            "there is no replica program at {}; build it (cargo build --release) or name it with --replica",
            replica.display()
        );
        let most = max as usize;
        Ok(Self {
            source: args.source.try_into()?,
            policy: match args.policy {
                Law::Slo => Policy::Slo(slo::Slo::new(slo::Objective { latency: objective, quantile }, interval, most)),
                Law::LatencyStep => Policy::LatencyStep(LatencyStep::new(objective, lower)),
            },
            limits: Limits { min: min as usize, max: most, down_window: args.down_window },
            interval,
            listen: args.listen,
            list: args.list,
            replica,
            replica_arguments: args.replica_arg,
            cpu_share: args.cpu_share,
            drain_delay: args.drain_delay,
            grace: args.grace,
            exit_with_parent: args.process.exit_with_parent,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &[&str]) -> Result<Config, String> {
        let program = std::env::current_exe().expect("a test is a program");
        let replica = format!("--replica={}", program.display());
        let all = ["scaler", "--list=list", &replica].into_iter().chain(flags.iter().copied());
        let args = Args::try_parse_from(all).map_err(|error| error.to_string())?;
        Config::try_from(args).map_err(|error| error.to_string())
    }

    #[test]
    fn readings_come_from_dispatchers_or_from_prometheus() {
        for flags in
            [&[][..], &["--dispatcher=a:1"], &["--dispatcher=a:1", "--dispatcher=dns:b:2"], &["--dispatcher=a:1,b:2"]]
        {
            assert!(matches!(config(flags).expect("good").source, Observe::Dispatchers(_)), "{flags:?}");
        }
        let prometheus = ["--prometheus=http://a:9090", "--prometheus-selector=job=\"b\"", "--prometheus-query=up"];
        assert!(matches!(config(&prometheus).expect("good").source, Observe::Prometheus(_)));
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
            (&["--min=0"], "min"),
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
            (&["--prometheus=http://a", "--prometheus-stale-after=3m"], "--down-window (20s)"),
            (&["--prometheus=http://a", "--prometheus-token-file=no/such/token"], "no/such/token"),
        ] {
            let error = config(flags).expect_err("refused");
            assert!(error.contains(word), "{flags:?}: {error}");
        }
        let args = Args::try_parse_from(["scaler", "--list=x", "--replica=no/such/program"]).expect("parses");
        assert!(Config::try_from(args).expect_err("missing").to_string().contains("no/such/program"));
    }
}
