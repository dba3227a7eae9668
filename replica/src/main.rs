//! The program of a replica. It parses the flags, starts telemetry and runs the server.

use anyhow::Result;
use clap::Parser;
use replica::config::{Args, Config};
use replica::server;
use service::telemetry::{self, latency_buckets};
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    exit::report(run())
}

fn run() -> Result<()> {
    let main_entered = Instant::now();
    let args = Args::parse();
    let buckets = latency_buckets(None, args.request_limits.deadline);
    let metrics = telemetry::start(&args.process.log, &buckets)?;
    let config = Config::try_from(args)?;
    server::run(config, metrics, main_entered)?;
    // Returning would run libtorch's destructors. They take 100 ms, and the operating system frees the memory anyway.
    std::process::exit(0)
}
