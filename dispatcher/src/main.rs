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
    // One thread: what is handed from task to task then never crosses cores, which costs more than all that is done here.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(server::run(config, metrics))
}
