//! The dispatcher's process: flags, telemetry, runtime.

use anyhow::Result;
use clap::Parser;
use dispatcher::config::{Args, Config};
use dispatcher::server;

fn main() -> Result<()> {
    let args = Args::parse();
    let metrics = service::telemetry::start(&args.process.log)?;
    let config = Config::try_from(args)?;
    service::descriptors::raise();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(server::run(config, metrics))
}
