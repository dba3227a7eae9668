//! The program `loadgen`: starts the runtime, handles signals, prints results, writes files and chooses the exit
//! status.

use anyhow::{Context, Result};
use loadgen::capacity::CapacityReport;
use loadgen::config::output::Args as Output;
use loadgen::config::{Cli, Command, CompareArgs, RunArgs};
use loadgen::report::{self, JsonReport, RunReport, csv, html, terminal};
use loadgen::run::{self, RunResult};
use loadgen::sample::Sample;
use loadgen::series::RunSeries;
use loadgen::{compare as comparison, images, preview};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// Exit status if a threshold was breached, no rate meets `--slo`, or loadgen could not keep to its schedule.
const BREACHED: u8 = 99;

/// Exit status if the user stopped the run: 128 plus the number of SIGINT, as shells report it.
const STOPPED: u8 = 130;

fn main() -> ExitCode {
    exit::report(execute())
}

fn execute() -> Result<ExitCode> {
    service::descriptors::raise();
    match Cli::read(std::env::args_os()).unwrap_or_else(|error| error.exit()).command {
        Command::Run(args) => return run(&args),
        Command::Compare(args) => compare(&args)?,
        Command::Workload(args) => print(&preview::show(&args)?),
        Command::Pictures(args) => {
            images::write_folder(&args.folder, args.count, args.seed, &args.style.style())?;
            print(&format!("{} images and labels.csv are in {}", args.count, args.folder.display()));
        }
        Command::Schema => print(report::schema().trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Executes `loadgen run`: makes the run or the search, writes its files and prints its summary.
fn run(args: &RunArgs) -> Result<ExitCode> {
    // One thread is enough here: requests are sent from another thread.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("create a runtime; raise the limit of open files (ulimit -n)")?;
    let exit_with_parent = false;
    let stop = async {
        // An error means that signals cannot be handled. The run is still possible, but Ctrl-C ends it without a
        // report.
        if service::shutdown::requested(exit_with_parent).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    match runtime.block_on(run::run(args, Box::pin(stop)))? {
        RunResult::Run(report, samples) => finish_run(&report, &samples, &args.output),
        RunResult::Series(series, samples) => finish_series(*series, &samples, &args.output),
        RunResult::Capacity(capacity) => finish_search(capacity, &args.output),
    }
}

/// Writes and prints a report. The report is printed even if a file cannot be written.
fn finish_run(report: &RunReport, samples: &[Sample], output: &Output) -> Result<ExitCode> {
    let written = write_files(report, samples, output);
    print_report(report, output);
    written?;
    Ok(match (report.is_complete, report.has_held()) {
        (false, _) => ExitCode::from(STOPPED),
        (true, false) => ExitCode::from(BREACHED),
        (true, true) => ExitCode::SUCCESS,
    })
}

/// Writes and prints the reports of `--runs`. They are printed even if a file cannot be written.
fn finish_series(series: RunSeries, samples: &[Vec<Sample>], output: &Output) -> Result<ExitCode> {
    let of_runs = series.runs.iter().zip(samples).map(|(report, samples)| {
        let output = Output { json: None, ..output.of_run(report.setup.seed) };
        write_files(report, samples, &output)
    });
    let mut written: Vec<Result<()>> = of_runs.collect();
    if output.table.is_some() {
        for report in &series.runs {
            print(&format!("seed {}\n{}\n", report.setup.seed, terminal::table(report)));
        }
    }
    if !output.quiet {
        print(&series.text());
    }
    let status = match (series.is_complete(), series.has_held()) {
        (false, _) => ExitCode::from(STOPPED),
        (true, false) => ExitCode::from(BREACHED),
        (true, true) => ExitCode::SUCCESS,
    };
    if let Some(path) = &output.json {
        let text = serde_json::to_string_pretty(&JsonReport::Series(Box::new(series)));
        written.push(text.map_err(Into::into).and_then(|text| write(path, text)));
    }
    written.into_iter().collect::<Result<()>>()?;
    Ok(status)
}

/// Writes and prints the result of `--find-capacity`. The result is printed even if the file cannot be written.
fn finish_search(capacity: Box<CapacityReport>, output: &Output) -> Result<ExitCode> {
    let text = terminal::capacity(&capacity);
    let status = match (capacity.is_complete, capacity.requests_per_second) {
        (false, _) => ExitCode::from(STOPPED),
        (true, Some(_)) if !capacity.is_limited_by_generator => ExitCode::SUCCESS,
        (true, _) => ExitCode::from(BREACHED),
    };
    let written = match &output.json {
        Some(path) => write(path, serde_json::to_string_pretty(&JsonReport::Capacity(capacity))?),
        None => Ok(()),
    };
    if !output.quiet {
        print(&text);
    }
    written?;
    Ok(status)
}

/// Writes every file that the flags ask for. If one cannot be written, the others are written nevertheless.
fn write_files(report: &RunReport, samples: &[Sample], output: &Output) -> Result<()> {
    let Output { json, csv, log, html, .. } = output;
    let written = [
        json.as_ref().map(|path| write(path, serde_json::to_string_pretty(report)?)),
        csv.as_ref().map(|path| csv::write_seconds(report, path)),
        log.as_ref().map(|path| csv::write_requests(samples, path)),
        html.as_ref().map(|path| write(path, html::page(report))),
    ];
    written.into_iter().flatten().collect()
}

/// Prints the table if `--table` is given, and the summary unless `--quiet` is given.
fn print_report(report: &RunReport, output: &Output) {
    if output.table.is_some() {
        print(&format!("{}\n", terminal::table(report)));
    }
    if !output.quiet {
        print(&terminal::summary(report));
        if let Some(path) = &output.html {
            print(&format!("report      {}", path.display()));
        }
    }
}

/// Executes `loadgen compare`: prints the comparison, and writes its page.
fn compare(args: &CompareArgs) -> Result<()> {
    let comparison = comparison::read(args)?;
    if let Some(path) = &args.html {
        write(path, html::comparison(&comparison))?;
    }
    if let Some(path) = &args.json {
        write(path, serde_json::to_string_pretty(&comparison.report())?)?;
    }
    print(&if args.markdown { comparison.markdown() } else { comparison.text() });
    if let Some(path) = &args.html {
        print(&format!("\ncomparison  {}", path.display()));
    }
    Ok(())
}

/// Prints lines to standard output, and ignores errors. `println!` would panic after the reader of a pipe, such as
/// `head`, has closed it.
fn print(text: &str) {
    let _closed = writeln!(std::io::stdout(), "{text}");
}

fn write(path: &Path, text: String) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
