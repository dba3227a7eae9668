//! The scaler's process: flags, telemetry, runtime.

use anyhow::Result;
use scaler::config::{Cli, Command, Config};
use scaler::{ask, backtest, server, simulate};

fn main() -> Result<()> {
    let (Cli { command, args }, given) = Cli::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    match command {
        None => {
            let metrics = service::telemetry::start(&args.process.log)?;
            let config = Config::new(args, &given)?;
            runtime()?.block_on(server::run(config, metrics))
        }
        Some(Command::Simulate(args)) => simulate::run(&args),
        Some(Command::Backtest(args)) => {
            let history = runtime()?.block_on(backtest::read(&args))?;
            backtest::replay(&args, &history)
        }
        Some(Command::Status(args)) => {
            println!("{}", runtime()?.block_on(ask::status(&args))?);
            Ok(())
        }
        Some(Command::Explain(args)) => {
            println!("{}", runtime()?.block_on(ask::explain(&args))?);
            Ok(())
        }
    }
}
