//! The scaler's process.

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
    match command {
        None => server::run(args, &given, &laws::TABLE),
        Some(Command::Simulate(it)) => hand_over::to_lab("simulate", &it.arguments),
        Some(Command::Backtest(it)) => hand_over::to_lab("backtest", &it.arguments),
        Some(Command::Status(args)) => {
            println!("{}", runtime()?.block_on(status::status(&args))?);
            Ok(())
        }
        Some(Command::Explain(args)) => {
            println!("{}", runtime()?.block_on(status::explain(&args))?);
            Ok(())
        }
    }
}
