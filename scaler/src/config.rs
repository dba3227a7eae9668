//! Makes checked settings of the command line, or of a file with a section for each target.

mod file;
pub mod scaling;

use crate::control::{Actuation, ControlSettings};
use crate::{headroom, laws, status};
use anyhow::{Context, Result, bail, ensure};
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use law::table::Table;
use scaling::{Section, TargetSpec};
use service::options::ProcessFlags;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Holds a latency objective with the fewest replicas.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  \
    scaler --dispatcher 127.0.0.1:5052 --target processes --list /run/roundhouse/replicas --max 4 --objective 500ms\n  \
    scaler --dispatcher dns:dispatcher:5052 --target deployment:default/replica --max 10 --dry-run\n  \
    scaler --config scaler.toml\n  \
    scaler simulate --workload workload.txt --policy slo,concurrency,cpu:70\n  \
    scaler backtest --prometheus http://localhost:9090 --since 24h"
)]
pub struct Cli {
    /// The command to run instead of scaling
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The flags for scaling
    #[command(flatten)]
    pub args: Args,
}

/// The commands of the program, besides scaling.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Simulate laws on workloads in virtual time, and compare attainment and cost (needs the program lab)
    #[command(disable_help_flag = true)]
    Simulate(LabArgs),
    /// Simulate laws on the load that a Prometheus has recorded, and compare them with it (needs the program lab)
    #[command(disable_help_flag = true)]
    Backtest(LabArgs),
    /// Show the state of a running scaler
    Status(status::Args),
    /// Show the latest decisions of a running scaler with their reasons
    Explain(status::ExplainArgs),
}

/// Arguments for the program `lab`.
#[derive(Debug, clap::Args)]
pub struct LabArgs {
    /// Arguments for the program lab; see lab simulate --help and lab backtest --help
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<OsString>,
}

/// The flags for scaling.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// TOML file with a section for each target, to scale several targets; its keys are the flags of a target without
    /// their dashes
    #[arg(long, env = "ROUNDHOUSE_SCALER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address that serves /metrics, /status and /decisions; port 0 picks a free port, which is printed
    #[arg(long, env = "ROUNDHOUSE_LISTEN", default_value = "127.0.0.1:5053")]
    pub listen: SocketAddr,
    /// Address that answers KEDA over gRPC, such as [::]:5054, for ScaledObjects with a trigger of type external-push;
    /// needs a target with --advise
    #[arg(long, env = "ROUNDHOUSE_KEDA_LISTEN", value_name = "ADDRESS")]
    pub keda_listen: Option<SocketAddr>,
    /// Address that serves the recommendations of targets with --advise to an HPA: the API external.metrics.k8s.io, over
    /// TLS, such as [::]:5443
    #[arg(long, env = "ROUNDHOUSE_EXTERNAL_METRICS_LISTEN", value_name = "ADDRESS")]
    pub external_metrics_listen: Option<SocketAddr>,
    /// PEM file with the certificate chain of that address; by default the program makes a certificate that signs itself,
    /// for an APIService with insecureSkipTLSVerify. The program reads the file again when it changes
    #[arg(long, env = "ROUNDHOUSE_EXTERNAL_METRICS_CERTIFICATE", value_name = "FILE")]
    #[arg(requires_all = ["external_metrics_key", "external_metrics_listen"])]
    pub external_metrics_certificate: Option<PathBuf>,
    /// PEM file with the private key of that certificate; the program reads the file again when it changes
    #[arg(
        long,
        env = "ROUNDHOUSE_EXTERNAL_METRICS_KEY",
        value_name = "FILE",
        requires = "external_metrics_certificate"
    )]
    pub external_metrics_key: Option<PathBuf>,
    /// Flags that every program has
    #[command(flatten)]
    pub process: ProcessFlags,
    /// Flags of the target, if there is only one
    #[command(flatten)]
    pub section: Section,
}

/// Checked settings.
#[derive(Debug)]
pub struct Config {
    /// The address that serves the admin paths.
    pub listen: SocketAddr,
    /// The address that answers KEDA; `None` if KEDA is not answered.
    pub keda_listen: Option<SocketAddr>,
    /// The address that serves recommendations to an HPA; `None` if there is none.
    pub external_metrics: Option<ExternalMetricsConfig>,
    /// Whether the program stops when its parent process ends.
    pub exit_with_parent: bool,
    /// The targets and the settings of their control loops; at least one target.
    pub targets: Vec<(ControlSettings, TargetSpec)>,
}

/// The server of the API external.metrics.k8s.io.
#[derive(Debug)]
pub struct ExternalMetricsConfig {
    /// The address that serves the API.
    pub listen: SocketAddr,
    /// The files with the certificate chain and its key; `None` for a certificate that signs itself.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

impl Cli {
    /// Parses the command line. The matches tell flags that were typed from flags that have their default.
    ///
    /// # Errors
    /// If a flag or its value is invalid, or the user asks for help or the version.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<(Self, ArgMatches), clap::Error> {
        let matches = list_laws(Self::command(), &laws::TABLE).try_get_matches_from(arguments)?;
        Ok((Self::from_arg_matches(&matches)?, matches))
    }
}

/// Appends the names of the laws to the help of `--policy`.
pub fn list_laws(command: clap::Command, laws: &Table) -> clap::Command {
    command.mut_arg("policy", |argument| {
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        argument.help(format!("{help}: {}", laws.names()))
    })
}

impl Config {
    /// Checks all flags, or the file of `--config`. `given` are the matches of [`Cli::read`].
    ///
    /// # Errors
    /// If a flag is out of range or contradicts another flag, or the file cannot be read or has such a flag.
    pub fn new(args: Args, given: &ArgMatches, laws: &Table) -> Result<Self> {
        let Args { config, listen, keda_listen, process, section, .. } = args;
        let certificate = args.external_metrics_certificate.zip(args.external_metrics_key);
        let external_metrics = args.external_metrics_listen.map(|listen| ExternalMetricsConfig { listen, certificate });
        let targets = match config {
            None => {
                let name = section.target.to_string();
                vec![section.without_variables_of_others(given).check(name, laws)?]
            }
            Some(file) => {
                if let Some(flag) = typed_flag(given) {
                    bail!("--{flag} belongs to one target: with --config, put it into a section of {}", file.display());
                }
                read(&file, laws).with_context(|| format!("read {}", file.display()))?
            }
        };
        let is_advised = targets.iter().any(|(settings, _)| settings.actuation == Actuation::Advice);
        ensure!(
            keda_listen.is_none() || is_advised,
            "--keda-listen needs a target with --advise: KEDA scales only what this scaler leaves alone"
        );
        ensure!(
            external_metrics.is_none() || is_advised,
            "--external-metrics-listen needs a target with --advise: there is no recommendation for an HPA otherwise"
        );
        let exit_with_parent = process.exit_with_parent;
        Ok(Self { listen, keda_listen, external_metrics, exit_with_parent, targets })
    }
}

/// A flag of a target that was typed on the command line; `None` if there is none.
fn typed_flag(given: &ArgMatches) -> Option<String> {
    let flags = <Section as clap::Args>::augment_args(clap::Command::new(""));
    let mut names = flags.get_arguments().map(|flag| (flag.get_id(), flag.get_long()));
    let (id, long) = names.find(|(id, _)| given.value_source(id.as_str()) == Some(ValueSource::CommandLine))?;
    Some(long.unwrap_or(id.as_str()).to_owned())
}

/// Reads the targets of a file. Refuses two sections with one target, since each would undo the other's changes.
fn read(file: &Path, laws: &Table) -> Result<Vec<(ControlSettings, TargetSpec)>> {
    let mut targets = Vec::new();
    let mut scaled = BTreeSet::new();
    for (name, flags) in file::sections(&file::read(file)?)? {
        let (settings, target) = check(&name, &flags, laws).with_context(|| format!("section [{name}]"))?;
        let own = match &target {
            TargetSpec::Processes(spec, _) => vec![spec.list.display().to_string()],
            TargetSpec::Scalable(spec, _) => {
                let placeholders = settings.headroom.map(|_| headroom::spec(spec).name.to_string());
                [spec.name.to_string()].into_iter().chain(placeholders).collect()
            }
        };
        for scaled_name in own {
            ensure!(
                scaled.insert(scaled_name.clone()),
                "section [{name}]: another section scales {scaled_name}; delete one"
            );
        }
        targets.push((settings, target));
    }
    Ok(targets)
}

fn check(name: &str, flags: &[String], laws: &Table) -> Result<(ControlSettings, TargetSpec)> {
    let command = clap::Command::new("section").no_binary_name(true).disable_help_flag(true);
    let matches = <Section as clap::Args>::augment_args(command).try_get_matches_from(flags);
    // clap's usage text is about a command line, and would mislead a user who has written a file.
    let cause = |error: clap::Error| {
        let text = error.to_string();
        let cause = text.split("\n\nUsage").next().unwrap_or_default();
        anyhow::Error::msg(cause.trim_start_matches("error: ").trim().to_owned())
    };
    let matches = matches.map_err(cause)?;
    let section = Section::from_arg_matches(&matches).map_err(cause)?;
    section.without_variables_of_others(&matches).check(name.into(), laws)
}

#[cfg(test)]
mod tests {
    use super::*;
    use readings::ReadingSource;
    use std::time::Duration;

    fn config(flags: &[&str]) -> Result<Config, String> {
        let all = ["scaler"].iter().chain(flags).map(OsString::from);
        let (cli, given) = Cli::read(all).map_err(|error| error.to_string())?;
        Config::new(cli.args, &given, &laws::TABLE).map_err(|error| format!("{error:#}"))
    }

    fn replica() -> String {
        format!("--replica={}", std::env::current_exe().expect("a test is a program").display())
    }

    /// The settings for a target of processes, made of the required flags and `flags`.
    fn processes(flags: &[&str]) -> Result<ControlSettings, String> {
        let mut config = config(&[&["--list=list", &replica()], flags].concat())?;
        Ok(config.targets.remove(0).0)
    }

    #[test]
    fn the_other_programs_know_the_environment_variables() {
        let missing = service::variables::missing(&Cli::command());
        assert!(missing.is_empty(), "add {missing:?} to service::variables");
    }

    #[test]
    fn readings_come_from_dispatchers_or_from_prometheus() {
        for flags in
            [&[][..], &["--dispatcher=a:1"], &["--dispatcher=a:1", "--dispatcher=dns:b:2"], &["--dispatcher=a:1,b:2"]]
        {
            assert!(matches!(processes(flags).expect("good").source, ReadingSource::Dispatchers(_)), "{flags:?}");
        }
        let prometheus = ["--prometheus=http://a:9090", "--prometheus-selector=job=\"b\"", "--prometheus-query=up"];
        let ControlSettings { source, limits, .. } = processes(&prometheus).expect("good");
        assert!(matches!(source, ReadingSource::Prometheus(_)));
        assert_eq!([limits.outage, limits.settle], [Duration::from_secs(45); 2]);
    }

    #[test]
    fn a_deployment_needs_neither_list_nor_replica() {
        let mut config = config(&["--target=deployment:shop/replica", "--dry-run"]).expect("good");
        let (control, TargetSpec::Scalable(spec, lease)) = config.targets.remove(0) else { panic!("a Deployment") };
        assert_eq!((control.name.as_str(), lease.as_str()), ("deployment:shop/replica", "roundhouse-scaler-replica"));
        assert_eq!(spec.name.to_string(), "deployment shop/replica");
        assert!(spec.identity.ends_with(&format!("-{}", std::process::id())));
    }

    #[test]
    fn no_headroom_needs_neither_placeholders_nor_a_law_that_plans() {
        for target in ["processes", "deployment:shop/a"] {
            let flags = [&format!("--target={target}"), "--headroom=none", "--policy=rate:5"];
            assert_eq!(processes(&flags).expect("good").headroom, None, "{target}");
        }
    }

    #[test]
    fn pods_are_added_at_a_limited_rate_and_processes_at_once() {
        let rate = |flags: &[&str]| {
            let law = format!("{:?}", processes(flags).expect("good").law);
            let (_, rest) = law.split_once("starts_per_second: ").expect("the law has its settings");
            rest.split_once(',').expect("there are more settings").0.to_owned()
        };
        let deployment = "--target=deployment:shop/a";
        assert_eq!(rate(&[]), "inf");
        assert_eq!(rate(&["--pods-per-second=5"]), "inf");
        assert_eq!(rate(&[deployment]), "20.0");
        assert_eq!(rate(&[deployment, "--pods-per-second=75"]), "75.0");
        assert_eq!(rate(&[deployment, "--pods-per-second=inf"]), "inf");
    }

    #[test]
    fn targets_of_one_name_have_leases_of_their_own() {
        let mut leases = std::collections::BTreeSet::new();
        for target in
            ["deployment:shop/a", "statefulset:shop/a", "rollout:shop/a", "scale:example.com/v1/widgets:shop/a"]
        {
            let mut config = config(&[&format!("--target={target}")]).expect("good");
            let (control, TargetSpec::Scalable(spec, lease)) = config.targets.remove(0) else { panic!("an object") };
            assert_eq!((control.name.as_str(), spec.name.flag().as_str()), (target, target));
            assert!(leases.insert(lease.clone()), "{lease}");
        }
    }

    #[test]
    fn an_error_names_the_invalid_flag() {
        assert!(processes(&[]).is_ok());
        for flag in ["--quantile=1", "--quantile=NaN", "--objective=0s", "--interval=1ms", "--max=0", "--up-rate=0"]
            .into_iter()
            .chain(["--cpu-share=0", "--cpu-share=NaN", "--memory-limit=-1GiB", "--memory-limit=much"])
        {
            let (name, _) = flag.split_once('=').expect("a value");
            let error = processes(&[flag]).expect_err("refused");
            assert!(error.contains(name), "{flag}: {error}");
        }
        for (flags, word) in [
            (&["--min=3", "--max=2"][..], "--min (3)"),
            (&["--memory-limit=512"], "at least 16.0 MiB"),
            (&["--pods-per-second=0"], "--pods-per-second (0) must be at least 0.1"),
            (&["--pods-per-second=-20"], "--pods-per-second"),
            (&["--pods-per-second=NaN"], "--pods-per-second (NaN)"),
            (&["--pods-per-second=many"], "--pods-per-second"),
            (&["--policy=magic"], "magic"),
            (&["--policy=rate:0"], "rate:0"),
            (&["--policy=rate:NaN"], "rate:NaN"),
            (&["--policy=slo:1"], "slo:1"),
            (&["--policy=concurrency"], "lab run"),
            (&["--min=0", "--policy=rate:5"], "--min 0 needs --policy slo"),
            (&["--target=pods"], "\"pods\" is no target"),
            (&["--target=pods"], "statefulset:NAMESPACE/NAME, rollout:NAMESPACE/NAME or scale:GROUP/VERSION/PLURAL:"),
            (&["--target=deployment:replica"], "deployment:NAMESPACE/NAME"),
            (&["--target=scale:widgets:shop/a"], "GROUP/VERSION/PLURAL"),
            (&["--deletion-cost"], "--deletion-cost needs a target whose pods belong to ReplicaSets"),
            (&["--deletion-cost", "--target=statefulset:shop/a"], "--deletion-cost needs a target whose pods"),
            (&["--headroom=2"], "--headroom needs a target on Kubernetes"),
            (&["--advise"], "--advise needs a target on Kubernetes"),
            (&["--keda-listen=127.0.0.1:0"], "--keda-listen needs a target with --advise"),
            (&["--keda-listen=127.0.0.1:0", "--target=deployment:shop/a", "--dry-run"], "needs a target with --advise"),
            (&["--keda-listen=5054", "--target=deployment:shop/a", "--advise"], "--keda-listen <ADDRESS>"),
            (&["--external-metrics-listen=127.0.0.1:1"], "--external-metrics-listen needs a target with --advise"),
            (&["--external-metrics-listen=5443"], "--external-metrics-listen <ADDRESS>"),
            (&["--external-metrics-certificate=a", "--external-metrics-key=b"], "--external-metrics-listen <ADDRESS>"),
            (
                &["--external-metrics-listen=[::]:1", "--external-metrics-certificate=a"],
                "--external-metrics-key <FILE>",
            ),
            (&["--external-metrics-key=b"], "--external-metrics-certificate <FILE>"),
            (&["--advise", "--dry-run", "--target=deployment:shop/a"], "--advise cannot be used with --dry-run"),
            (&["--advise", "--headroom=2", "--target=deployment:shop/a"], "--advise cannot be used with --headroom"),
            (
                &["--advise", "--deletion-cost", "--target=deployment:shop/a"],
                "--advise cannot be used with --deletion-cost",
            ),
            (
                &["--headroom=0", "--target=deployment:shop/a"],
                "\"0\" is neither auto, none nor a number from 1 to 1000",
            ),
            (
                &["--headroom=auto", "--policy=rate:5", "--target=deployment:shop/a"],
                "--headroom auto needs --policy slo",
            ),
            (&["--target=statefulset:Shop/a"], "\"Shop\" cannot be a namespace"),
            (&["--dry-run"], "--dry-run cannot start"),
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
            let error = processes(flags).expect_err("refused");
            assert!(error.contains(word), "{flags:?}: {error}");
        }
        for (flag, word) in [("--replica=no/such/program", "no/such/program"), (&replica(), "--list FILE is missing")] {
            let error = config(&[flag]).expect_err("refused");
            assert!(error.contains(word), "{error}");
        }
    }

    /// The settings made of a file with `text` and of `flags` on the command line.
    fn config_of_file(text: &str, flags: &[&str]) -> Result<Config, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("scaler.toml");
        std::fs::write(&file, text).expect("written");
        let file = format!("--config={}", file.display());
        config(&[&[file.as_str()], flags].concat())
    }

    #[test]
    fn a_file_has_a_section_for_each_target() {
        let text = "[replica]\ntarget = \"deployment:shop/replica\"\nmax = 6\n\
                    [front]\ntarget = \"deployment:shop/dispatcher\"\nrole = \"dispatchers\"\n\
                    policy = \"rate:500\"\nmin = 2\n";
        let config = config_of_file(text, &["--listen=127.0.0.1:1"]).expect("good");
        let found: Vec<_> =
            config.targets.iter().map(|(one, _)| (one.name.as_str(), one.limits.min, one.limits.max)).collect();
        assert_eq!(found, [("front", 2, 4), ("replica", 1, 6)]);
        assert!(format!("{:?}", config.targets[0].0.law).starts_with("Rate"));
        assert_eq!(config.listen.port(), 1);
    }

    #[test]
    fn an_error_names_the_file_and_its_section() {
        let good = "target = \"deployment:shop/replica\"\n";
        for (text, flags, words) in [
            (format!("[a]\n{good}maxx = 5"), &[][..], ["section [a]", "--maxx"]),
            (format!("[a]\n{good}max = \"five\""), &[], ["section [a]", "five"]),
            (format!("[a]\n{good}min = 7"), &[], ["section [a]", "--min (7)"]),
            (format!("[a]\n{good}listen = \"127.0.0.1:1\""), &[], ["section [a]", "--listen"]),
            (format!("[a]\n{good}help = true"), &[], ["section [a]", "--help"]),
            (format!("[a]\n{good}[b]\n{good}"), &[], ["section [b]", "another section scales deployment shop/replica"]),
            (
                format!("[a]\n{good}headroom = 2\n[b]\ntarget = \"deployment:shop/b\"\nheadroom = 2"),
                &[],
                ["section [b]", "another section scales deployment shop/headroom"],
            ),
            (format!("[a]\n{good}role = \"dispatchers\""), &[], ["section [a]", "--policy slo cannot scale"]),
            ("[a]\nrole = \"dispatchers\"\npolicy = \"rate:9\"".into(), &[], ["[a]", "--role dispatchers needs"]),
            (format!("[a]\n{good}"), &["--max=5"], ["--max belongs to one target", "scaler.toml"]),
            (String::new(), &[], ["scaler.toml", "no section"]),
        ] {
            let error = config_of_file(&text, flags).expect_err("refused");
            assert!(words.iter().all(|word| error.contains(word)), "{text:?}: {error}");
            assert!(!error.contains("Usage"), "{error}");
        }
        assert!(config(&["--config=no/such/file"]).expect_err("refused").contains("no/such/file"));
    }
}
