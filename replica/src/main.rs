//! The process of a replica: flags, telemetry and the runtime.

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
    // The runtime's own thread serves sockets only; decoding and inference have named threads. Tensors are parsed on
    // one blocking thread: with several, the memory that parsing a long body takes would be needed several times.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().thread_name("parse").max_blocking_threads(1).build()?;
    runtime.block_on(server::run(config, metrics, main_entered))?;
    // Skips libtorch's destructors, which take 100 ms and free only what the operating system frees anyway.
    std::process::exit(0)
}
