//! Flags and files → what the scaler runs with.

pub mod file;
pub mod scaling;

use crate::laws;
use anyhow::{Context, Result, bail, ensure};
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use law::table::Table;
use scaling::{Place, Scaling, Section};
use service::options::Process;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Holds a latency objective on the fewest replicas.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  \
    scaler --dispatcher 127.0.0.1:5052 --target processes --list /run/roundhouse/replicas --max 4 --objective 500ms\n  \
    scaler --dispatcher dns:dispatcher:5052 --target deployment:default/replica --max 10 --dry-run\n  \
    scaler --config scaler.toml\n  \
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
    /// Try laws on workloads in virtual time, and compare what they reach and cost (by the program lab)
    #[command(disable_help_flag = true)]
    Simulate(HandOver),
    /// Try laws on what a Prometheus has recorded, and compare them with what happened (by the program lab)
    #[command(disable_help_flag = true)]
    Backtest(HandOver),
    /// How a running scaler sees things now
    Status(crate::status::Args),
    /// Why a running scaler did what it did
    Explain(crate::status::ExplainArgs),
}

/// Arguments for another program.
#[derive(Debug, clap::Args)]
pub struct HandOver {
    /// See lab simulate --help, lab backtest --help
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<OsString>,
}

/// How to scale.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Scale several targets: a TOML file with a section for each, whose keys are the flags of a target without their
    /// dashes
    #[arg(long, env = "ROUNDHOUSE_SCALER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address of /metrics, /status and /decisions; port 0 picks a free one and prints it
    #[arg(long, env = "ROUNDHOUSE_LISTEN", default_value = "127.0.0.1:5053")]
    pub listen: SocketAddr,
    /// Flags of every program
    #[command(flatten)]
    pub process: Process,
    /// Of the only target
    #[command(flatten)]
    pub section: Section,
}

/// Checked settings.
#[derive(Debug)]
pub struct Config {
    /// Address of the admin paths.
    pub listen: SocketAddr,
    /// Whether the parent's end is a reason to stop.
    pub exit_with_parent: bool,
    /// One for each target, at least one.
    pub scalings: Vec<Scaling>,
}

impl Cli {
    /// Reads the command line, and tells which flags were typed.
    ///
    /// # Errors
    /// When it makes no sense, or asks for help.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<(Self, ArgMatches), clap::Error> {
        let matches = list_laws(Self::command(), &laws::TABLE).try_get_matches_from(arguments)?;
        Ok((Self::from_arg_matches(&matches)?, matches))
    }
}

/// Names the laws of a table in the help of `--policy`.
pub fn list_laws(command: clap::Command, laws: &Table) -> clap::Command {
    command.mut_arg("policy", |argument| {
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        argument.help(format!("{help}: {}", laws.names()))
    })
}

impl Config {
    /// Checks everything. `given` tells which flags were typed.
    ///
    /// # Errors
    /// When a flag or the file makes no sense.
    pub fn new(args: Args, given: &ArgMatches, laws: &Table) -> Result<Self> {
        let Args { config, listen, process, section } = args;
        let scalings = match config {
            None => {
                let name = section.target.to_string();
                vec![section.check(name, laws)?]
            }
            Some(file) => {
                if let Some(flag) = typed(given) {
                    bail!("--{flag} is one target's: beside --config it belongs into a section of {}", file.display());
                }
                read(&file, laws).with_context(|| format!("read {}", file.display()))?
            }
        };
        Ok(Self { listen, exit_with_parent: process.exit_with_parent, scalings })
    }
}

/// A flag of a target that was typed.
fn typed(given: &ArgMatches) -> Option<String> {
    let flags = <Section as clap::Args>::augment_args(clap::Command::new(""));
    let mut names = flags.get_arguments().map(|flag| (flag.get_id(), flag.get_long()));
    let (id, long) = names.find(|(id, _)| given.value_source(id.as_str()) == Some(ValueSource::CommandLine))?;
    Some(long.unwrap_or(id.as_str()).to_owned())
}

/// The targets of a file, no two of them the same.
fn read(file: &Path, laws: &Table) -> Result<Vec<Scaling>> {
    let mut scalings = Vec::new();
    let mut scaled = BTreeSet::new();
    for (name, flags) in file::sections(&file::read(file)?)? {
        let scaling = check(&name, &flags, laws).with_context(|| format!("section [{name}]"))?;
        let target = match &scaling.place {
            Place::Local(local) => local.list.display().to_string(),
            Place::Remote(remote) => remote.name.to_string(),
        };
        ensure!(scaled.insert(target.clone()), "section [{name}]: another section scales {target} too");
        scalings.push(scaling);
    }
    Ok(scalings)
}

fn check(name: &str, flags: &[String], laws: &Table) -> Result<Scaling> {
    let command = clap::Command::new("section").no_binary_name(true).disable_help_flag(true);
    let matches = <Section as clap::Args>::augment_args(command).try_get_matches_from(flags);
    // What comes after the cause tells of a command line, which a file is not.
    let short = |error: clap::Error| {
        let text = error.to_string();
        let cause = text.split("\n\nUsage").next().unwrap_or_default();
        anyhow::Error::msg(cause.trim_start_matches("error: ").trim().to_owned())
    };
    Section::from_arg_matches(&matches.map_err(short)?).map_err(short)?.check(name.into(), laws)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Observe;
    use std::time::Duration;

    fn config(flags: &[&str]) -> Result<Config, String> {
        let all = ["scaler"].iter().chain(flags).map(OsString::from);
        let (cli, given) = Cli::read(all).map_err(|error| error.to_string())?;
        Config::new(cli.args, &given, &laws::TABLE).map_err(|error| format!("{error:#}"))
    }

    fn replica() -> String {
        format!("--replica={}", std::env::current_exe().expect("a test is a program").display())
    }

    /// Of processes.
    fn config_of_one(flags: &[&str]) -> Result<Scaling, String> {
        let mut config = config(&[&["--list=list", &replica()], flags].concat())?;
        Ok(config.scalings.remove(0))
    }

    #[test]
    fn readings_come_from_dispatchers_or_from_prometheus() {
        for flags in
            [&[][..], &["--dispatcher=a:1"], &["--dispatcher=a:1", "--dispatcher=dns:b:2"], &["--dispatcher=a:1,b:2"]]
        {
            assert!(matches!(config_of_one(flags).expect("good").source, Observe::Dispatchers(_)), "{flags:?}");
        }
        let prometheus = ["--prometheus=http://a:9090", "--prometheus-selector=job=\"b\"", "--prometheus-query=up"];
        let scaling = config_of_one(&prometheus).expect("good");
        assert!(matches!(scaling.source, Observe::Prometheus(_)));
        assert_eq!([scaling.limits.outage, scaling.limits.settle], [Duration::from_secs(45); 2]);
    }

    #[test]
    fn a_deployment_needs_neither_list_nor_replica() {
        let mut config = config(&["--target=deployment:shop/replica", "--dry-run"]).expect("good");
        let Scaling { name, place: Place::Remote(remote), .. } = config.scalings.remove(0) else {
            panic!("a Deployment")
        };
        assert_eq!(name, "deployment:shop/replica");
        assert_eq!(
            (remote.name.to_string().as_str(), remote.lease.as_str()),
            ("deployment shop/replica", "roundhouse-scaler-replica")
        );
        assert!(remote.identity.ends_with(&format!("-{}", std::process::id())));
    }

    #[test]
    fn bad_flags_are_named() {
        assert!(config_of_one(&[]).is_ok());
        for (flags, word) in [
            (&["--min=3", "--max=2"][..], "--min (3)"),
            (&["--quantile=1"], "--quantile"),
            (&["--quantile=NaN"], "--quantile"),
            (&["--objective=0s"], "--objective"),
            (&["--interval=1ms"], "--interval"),
            (&["--cpu-share=0"], "--cpu-share"),
            (&["--cpu-share=NaN"], "--cpu-share"),
            (&["--memory-limit=512"], "at least 16.0 MiB"),
            (&["--memory-limit=-1GiB"], "--memory-limit"),
            (&["--memory-limit=much"], "--memory-limit"),
            (&["--policy=magic"], "magic"),
            (&["--policy=rate:0"], "rate:0"),
            (&["--policy=concurrency"], "lab run"),
            (&["--min=0", "--policy=rate:5"], "--min 0 needs --policy slo"),
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
            let error = config_of_one(flags).expect_err("refused");
            assert!(error.contains(word), "{flags:?}: {error}");
        }
        let error = config(&["--list=x", "--replica=no/such/program"]).expect_err("refused");
        assert!(error.contains("no/such/program"), "{error}");
        let error = config(&[&replica()]).expect_err("refused");
        assert!(error.contains("--list FILE is missing"), "{error}");
    }

    /// The configuration that this file makes, beside some flags.
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
                    policy = [\"rate:500\", \"rate:600\"]\nmin = 2\n";
        let config = config_of_file(text, &["--listen=127.0.0.1:1"]).expect("good");
        let found: Vec<_> =
            config.scalings.iter().map(|one| (one.name.as_str(), one.limits.min, one.limits.max)).collect();
        assert_eq!(found, [("front", 2, 4), ("replica", 1, 6)]);
        assert!(format!("{:?}", config.scalings[0].law).starts_with("Highest"));
        assert_eq!(config.listen.port(), 1);
    }

    #[test]
    fn bad_files_are_named_down_to_the_section() {
        let good = "target = \"deployment:shop/replica\"\n";
        for (text, flags, words) in [
            (format!("[a]\n{good}maxx = 5"), &[][..], ["section [a]", "--maxx"]),
            (format!("[a]\n{good}max = \"five\""), &[], ["section [a]", "five"]),
            (format!("[a]\n{good}min = 7"), &[], ["section [a]", "--min (7)"]),
            (format!("[a]\n{good}listen = \"127.0.0.1:1\""), &[], ["section [a]", "--listen"]),
            (format!("[a]\n{good}help = true"), &[], ["section [a]", "--help"]),
            (format!("[a]\n{good}[b]\n{good}"), &[], ["section [b]", "another section scales deployment shop/replica"]),
            (format!("[a]\n{good}role = \"dispatchers\""), &[], ["section [a]", "--policy slo is for replicas"]),
            (
                "[a]\nrole = \"dispatchers\"\npolicy = \"rate:9\"".into(),
                &[],
                ["section [a]", "--role dispatchers needs"],
            ),
            (format!("[a]\n{good}"), &["--max=5"], ["--max is one target's", "scaler.toml"]),
            (String::new(), &[], ["scaler.toml", "no section"]),
        ] {
            let error = config_of_file(&text, flags).expect_err("refused");
            assert!(words.iter().all(|word| error.contains(word)), "{text:?}: {error}");
            assert!(!error.contains("Usage"), "{error}");
        }
        assert!(config(&["--config=no/such/file"]).expect_err("refused").contains("no/such/file"));
    }
}
