//! The dispatcher's program: parses the flags, starts logs and metrics, and runs the server.

use anyhow::Result;
use clap::Parser;
use dispatcher::config::{Args, Config};
use dispatcher::server;
use service::telemetry::{self, latency_buckets};
use service::variables;
use std::process::ExitCode;

fn main() -> ExitCode {
    exit::report(run())
}

fn run() -> Result<()> {
    let args = Args::parse();
    // An upload takes --body-timeout at most, and everything else --deadline.
    let longest = args.request_limits.deadline.max(args.request_limits.body_timeout);
    let buckets = latency_buckets(Some(args.objective), longest);
    let metrics = telemetry::start(&args.process.log, &buckets)?;
    variables::warn_of_unknown();
    let config = Config::try_from(args)?;
    service::descriptors::raise();
    server::run(config, metrics)
}
