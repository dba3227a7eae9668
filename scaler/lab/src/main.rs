//! The program `lab`: parses the command line and runs one of the commands.

use anyhow::Result;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use lab::{backtest, laws, sharing, simulate};
use scaler::{config, server};
use std::process::ExitCode;

const RUN_EXAMPLES: &str = "Examples:\n  \
    lab run --dispatcher 127.0.0.1:5052 --target processes --list /run/roundhouse/replicas --policy concurrency\n  \
    lab run --dispatcher dns:dispatcher:5052 --target deployment:default/replica --max 10 --policy queue:5s --dry-run";

/// Compares scaling laws.
#[derive(Debug, Parser)]
#[command(
    name = "lab",
    version,
    after_help = "Examples:\n  \
    lab simulate --workload workload.txt --policy slo,concurrency,cpu:70\n  \
    lab backtest --prometheus http://localhost:9090 --since 24h\n  \
    lab run --dispatcher 127.0.0.1:5052 --list /run/roundhouse/replicas --policy concurrency"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compare the attainment and the cost of laws on given workloads, in virtual time
    Simulate(Box<simulate::args::Args>),
    /// Compare laws with each other and with what happened, on the load that a Prometheus has recorded
    Backtest(Box<backtest::args::Args>),
    /// Compare protocols by which several dispatchers share the same replicas, in virtual time
    Sharing(Box<sharing::Args>),
    /// Scale a live system with any law but cpu, as the program scaler does with its own laws
    Run(Box<config::Args>),
}

fn main() -> ExitCode {
    exit::report(run())
}

fn run() -> Result<()> {
    let describe_run = |run| config::list_laws(run, &laws::LIVE).after_help(RUN_EXAMPLES);
    let matches = Cli::command().mut_subcommand("run", describe_run).get_matches();
    match Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()).command {
        Command::Simulate(args) => simulate::run(&args),
        Command::Backtest(args) => backtest::run(&args),
        Command::Sharing(args) => {
            sharing::run(&args);
            Ok(())
        }
        Command::Run(args) => {
            let given = matches.subcommand_matches("run").expect("clap has parsed the subcommand run");
            server::run(*args, given, &laws::LIVE)
        }
    }
}
