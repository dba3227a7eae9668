//! The program of a replica. It parses the flags, and serves or runs one of the other commands.

use anyhow::Result;
use clap::Parser;
use replica::command::{Command, Program};
use replica::config::{Args, Config};
use replica::{accuracy, fetch, quantise, server};
use service::telemetry::{self, latency_buckets};
use service::variables;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let main_entered = Instant::now();
    let Program { command, serve } = Program::parse();
    exit::report(match command {
        None => run_server(serve, main_entered),
        Some(Command::Quantize(args)) => quantise::run(args),
        Some(Command::Accuracy(args)) => accuracy::run(args),
        Some(Command::Fetch(args)) => fetch::run(args, &|name| std::env::var(name).ok()),
    })
}

fn run_server(args: Args, main_entered: Instant) -> Result<()> {
    let buckets = latency_buckets(None, args.request_limits.deadline);
    let metrics = telemetry::start(&args.process.log, &buckets)?;
    variables::warn_of_unknown();
    let config = Config::try_from(args)?;
    server::run(config, metrics, main_entered)?;
    // Returning would run libtorch's destructors. They take 100 ms, and the operating system frees the memory anyway.
    std::process::exit(0)
}
