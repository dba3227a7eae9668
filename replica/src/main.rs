//! The process of a replica: flags and telemetry.

use anyhow::Result;
use clap::Parser;
use replica::config::{Args, Config};
use replica::server;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    exit::report(run())
}

fn run() -> Result<()> {
    let main_entered = Instant::now();
    let args = Args::parse();
    let metrics = service::telemetry::start(&args.process.log)?;
    let config = Config::try_from(args)?;
    server::run(config, metrics, main_entered)?;
    // Skips libtorch's destructors, which take 100 ms and free only what the operating system frees anyway.
    std::process::exit(0)
}
