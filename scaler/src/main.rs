//! The program `scaler`: the command line selects scaling, or another command.

use anyhow::Result;
use scaler::config::{Cli, Command};
use scaler::{hand_over, laws, server, status};
use std::process::ExitCode;

fn main() -> ExitCode {
    exit::report(run())
}

fn run() -> Result<()> {
    let (Cli { command, args }, given) = Cli::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answer = match command {
        None => return server::run(args, &given, &laws::TABLE),
        Some(Command::Simulate(args)) => return hand_over::to_lab("simulate", &args.arguments),
        Some(Command::Backtest(args)) => return hand_over::to_lab("backtest", &args.arguments),
        Some(Command::Status(args)) => runtime()?.block_on(status::status(&args))?,
        Some(Command::Explain(args)) => runtime()?.block_on(status::explain(&args))?,
    };
    println!("{answer}");
    Ok(())
}
