//! The scaler's process: flags, telemetry, runtime.

use anyhow::Result;
use clap::Parser;
use scaler::config::{Args, Config};
use scaler::server;

fn main() -> Result<()> {
    let args = Args::parse();
    let metrics = service::telemetry::start(&args.process.log)?;
    let config = Config::try_from(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(server::run(config, metrics))
}
