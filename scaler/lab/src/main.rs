//! The lab's process.

use anyhow::Result;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use lab::{backtest, laws, simulate};
use scaler::{config, server};

/// Tries scaling laws.
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
    /// Try laws on workloads in virtual time, and compare what they reach and cost
    Simulate(Box<simulate::args::Args>),
    /// Try laws on what a Prometheus has recorded, and compare them with what happened
    Backtest(Box<backtest::args::Args>),
    /// Scale a live system, as the scaler does, with any law
    Run(Box<config::Args>),
}

fn main() -> Result<()> {
    let command = Cli::command().mut_subcommand("run", |run| config::list_laws(run, &laws::LIVE));
    let matches = command.get_matches();
    match Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()).command {
        Command::Simulate(args) => simulate::run(&args),
        Command::Backtest(args) => backtest::run(&args),
        Command::Run(args) => {
            let given = matches.subcommand_matches("run").expect("that command was given");
            server::run(*args, given, &laws::LIVE)
        }
    }
}
