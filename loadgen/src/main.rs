//! loadgen's process: flags, runtime, signals, files, exit status.

use anyhow::{Context, Result};
use loadgen::config::output::Args as Output;
use loadgen::config::{Cli, Command, CompareArgs, RunArgs};
use loadgen::report::{self, Report, Written, csv, html, terminal};
use loadgen::run::{self, Found};
use loadgen::sample::Sample;
use loadgen::{compare, images, preview};
use std::path::Path;
use std::process::ExitCode;

/// A threshold was breached, or the generator could not keep to its schedule.
const BREACHED: u8 = 99;

/// Somebody stopped the run: 128 and the number of SIGINT, as shells have it.
const STOPPED: u8 = 130;

fn main() -> Result<ExitCode> {
    service::descriptors::raise();
    match Cli::read(std::env::args_os()).unwrap_or_else(|error| error.exit()).command {
        Command::Run(args) => return make_run(&args),
        Command::Compare(args) => make_comparison(&args)?,
        Command::Workload(args) => println!("{}", preview::show(&args)?),
        Command::Pictures(args) => {
            images::write(&args.folder, args.count, args.seed, &args.style.style())?;
            println!("{} pictures and labels.csv are in {}", args.count, args.folder.display());
        }
        Command::Schema => print!("{}", report::schema()),
    }
    Ok(ExitCode::SUCCESS)
}

fn make_run(args: &RunArgs) -> Result<ExitCode> {
    // The sender has a thread of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stop = async {
        // Without signals a run cannot be cut short, only killed.
        if service::shutdown::requested(false).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    match runtime.block_on(run::run(args, Box::pin(stop)))? {
        Found::Run(report, samples) => {
            tell(&report, &samples, &args.output)?;
            Ok(match (report.is_complete, report.has_held()) {
                (false, _) => ExitCode::from(STOPPED),
                (true, false) => ExitCode::from(BREACHED),
                (true, true) => ExitCode::SUCCESS,
            })
        }
        Found::Capacity(found) => {
            if !args.output.quiet {
                println!("{}", terminal::capacity(&found));
            }
            let status = match (found.is_complete, found.requests_per_second) {
                (false, _) => ExitCode::from(STOPPED),
                (true, None) => ExitCode::from(BREACHED),
                (true, Some(_)) => ExitCode::SUCCESS,
            };
            if let Some(path) = &args.output.json {
                write(path, serde_json::to_string_pretty(&Written::Capacity(found))?)?;
            }
            Ok(status)
        }
    }
}

/// Prints and writes a report.
fn tell(report: &Report, samples: &[Sample], output: &Output) -> Result<()> {
    if output.table.is_some() {
        println!("{}\n", terminal::table(report));
    }
    if !output.quiet {
        println!("{}", terminal::summary(report));
    }
    if let Some(path) = &output.json {
        write(path, serde_json::to_string_pretty(report)?)?;
    }
    if let Some(path) = &output.csv {
        csv::write_seconds(report, path)?;
    }
    if let Some(path) = &output.log {
        csv::write_requests(samples, path)?;
    }
    if let Some(path) = &output.html {
        write(path, html::page(report))?;
        if !output.quiet {
            println!("report      {}", path.display());
        }
    }
    Ok(())
}

fn make_comparison(args: &CompareArgs) -> Result<()> {
    let comparison = compare::read(args)?;
    println!("{}", if args.markdown { comparison.markdown() } else { comparison.text() });
    if let Some(path) = &args.html {
        write(path, html::comparison(&comparison))?;
        println!("\ncomparison  {}", path.display());
    }
    Ok(())
}

fn write(path: &Path, text: String) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
