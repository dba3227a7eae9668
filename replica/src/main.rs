//! A replica's process: flags, telemetry, runtime.

use anyhow::Result;
use clap::Parser;
use replica::config::{Args, Config};
use replica::server;
use std::time::Instant;

fn main() -> Result<()> {
    let main_entered = Instant::now();
    let args = Args::parse();
    let metrics = service::telemetry::start(&args.process.log)?;
    let config = Config::try_from(args)?;
    // Only sockets live here; decoding and inference have threads of their own, and so has the parsing of tensors: one, so
    // that what long bodies take besides themselves is there once.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().thread_name("parse").max_blocking_threads(1).build()?;
    runtime.block_on(server::run(config, metrics, main_entered))?;
    // Leaves without libtorch's destructors, which take 100 ms and undo nothing that the system does not.
    std::process::exit(0)
}
