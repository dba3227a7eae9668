//! loadgen's process: flags, runtime, signals, files, exit status.

use anyhow::{Context, Result};
use loadgen::config::output::Args as Output;
use loadgen::config::{Cli, Command, CompareArgs, RunArgs};
use loadgen::report::{self, Report, Written, csv, html, terminal};
use loadgen::run::{self, Found};
use loadgen::sample::Sample;
use loadgen::{compare, images, preview};
use std::io::Write;
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
        Command::Workload(args) => say(preview::show(&args)?),
        Command::Pictures(args) => {
            images::write(&args.folder, args.count, args.seed, &args.style.style())?;
            say(format!("{} pictures and labels.csv are in {}", args.count, args.folder.display()));
        }
        Command::Schema => say(report::schema().trim_end().to_owned()),
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
            let written = save(&report, &samples, &args.output);
            tell(&report, &args.output);
            written?;
            Ok(match (report.is_complete, report.has_held()) {
                (false, _) => ExitCode::from(STOPPED),
                (true, false) => ExitCode::from(BREACHED),
                (true, true) => ExitCode::SUCCESS,
            })
        }
        Found::Capacity(found) => {
            let text = terminal::capacity(&found);
            let status = match (found.is_complete, found.requests_per_second) {
                (false, _) => ExitCode::from(STOPPED),
                (true, Some(_)) if !found.is_limited_by_generator => ExitCode::SUCCESS,
                (true, _) => ExitCode::from(BREACHED),
            };
            let json = &args.output.json;
            let written =
                json.as_ref().map(|path| write(path, serde_json::to_string_pretty(&Written::Capacity(found))?));
            if !args.output.quiet {
                say(text);
            }
            written.transpose()?;
            Ok(status)
        }
    }
}

/// Writes every file that is asked for, as far as that can be done.
fn save(report: &Report, samples: &[Sample], output: &Output) -> Result<()> {
    let Output { json, csv, log, html, .. } = output;
    let done = [
        json.as_ref().map(|path| write(path, serde_json::to_string_pretty(report)?)),
        csv.as_ref().map(|path| csv::write_seconds(report, path)),
        log.as_ref().map(|path| csv::write_requests(samples, path)),
        html.as_ref().map(|path| write(path, html::page(report))),
    ];
    done.into_iter().flatten().collect()
}

/// Prints a report.
fn tell(report: &Report, output: &Output) {
    if output.table.is_some() {
        say(format!("{}\n", terminal::table(report)));
    }
    if !output.quiet {
        say(terminal::summary(report));
        if let Some(path) = &output.html {
            say(format!("report      {}", path.display()));
        }
    }
}

fn make_comparison(args: &CompareArgs) -> Result<()> {
    let comparison = compare::read(args)?;
    if let Some(path) = &args.html {
        write(path, html::comparison(&comparison))?;
    }
    say(if args.markdown { comparison.markdown() } else { comparison.text() });
    if let Some(path) = &args.html {
        say(format!("\ncomparison  {}", path.display()));
    }
    Ok(())
}

/// Prints lines. Whoever has closed the other end of a pipe has seen enough.
fn say(text: String) {
    drop(writeln!(std::io::stdout(), "{text}"));
}

fn write(path: &Path, text: String) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
