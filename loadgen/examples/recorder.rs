//! A server that answers at once and writes down when each request arrived: what a load generator is measured against.

#[path = "../tests/common/recorder.rs"]
#[allow(unreachable_pub, reason = "tests share it")]
mod recorder;

use anyhow::{Context, Result};
use clap::Parser;
use recorder::Arrivals;
use std::io::{BufWriter, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

/// Answers every POST and notes its time. Ends when standard input closes.
#[derive(Debug, Parser)]
struct Args {
    /// At the end, write the arrivals here: nanoseconds since the first, one a line
    #[arg(long)]
    log: Option<PathBuf>,
    /// Stand still so long after the first request
    #[arg(long, requires = "stall_for", value_parser = humantime::parse_duration)]
    stall_after: Option<Duration>,
    /// For so long
    #[arg(long, requires = "stall_after", value_parser = humantime::parse_duration)]
    stall_for: Option<Duration>,
    /// Take a whole core, so that nobody pays for waking this
    #[arg(long)]
    never_sleep: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    service::descriptors::raise();
    let arrivals = Arrivals::default();
    let served = arrivals.clone();
    let stall = args.stall_after.zip(args.stall_for);
    std::thread::spawn(move || {
        recorder::serve(&served, stall, args.never_sleep, |address| println!("listening on http://{address}"))
    });
    // Whoever started this holds the other end.
    std::io::stdin().read_to_end(&mut Vec::new()).context("wait for the end of standard input")?;
    if let Some(path) = args.log {
        let write = || -> std::io::Result<()> {
            let mut file = BufWriter::new(std::fs::File::create(&path)?);
            for time in arrivals.times() {
                writeln!(file, "{}", time.as_nanos())?;
            }
            file.flush()
        };
        write().with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
