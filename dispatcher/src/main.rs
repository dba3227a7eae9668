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
    // One thread. With several, tasks pass requests from core to core, which costs more than all other work for a
    // request.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(server::run(config, metrics))
}
