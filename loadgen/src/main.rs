//! The program `loadgen`: starts the runtime, handles signals, prints results, writes files and chooses the exit
//! status.

use anyhow::{Result, ensure};
use loadgen::capacity::CapacityReport;
use loadgen::config::output::{Args as Output, OutputFiles, RunFiles};
use loadgen::config::workers::WorkerArgs;
use loadgen::config::{Cli, Command, CompareArgs, RunArgs};
use loadgen::output_file::{self, OutputFile};
use loadgen::report::{self, JsonReport, RunReport, csv, html, junit, markdown, terminal};
use loadgen::run::{self, RunResult};
use loadgen::runtime;
use loadgen::series::RunSeries;
use loadgen::workers::server;
use loadgen::{compare as comparison, images, preview};
use std::io::Write;
use std::path::PathBuf;
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
        Command::Worker(args) => return worker(&args),
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

/// Resolves when a signal asks to stop.
async fn stopped() {
    let exit_with_parent = false;
    // An error means that signals cannot be handled. A run is still possible, but Ctrl-C ends it without a report.
    if service::shutdown::requested(exit_with_parent).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Executes `loadgen worker`, until a signal ends it.
fn worker(args: &WorkerArgs) -> Result<ExitCode> {
    runtime::new()?.block_on(server::serve(args, stopped()))?;
    Ok(ExitCode::SUCCESS)
}

/// Executes `loadgen run`: makes the run or the search, writes its files and prints its summary.
fn run(args: &RunArgs) -> Result<ExitCode> {
    let seeds = args.seeds()?;
    let mut files = args.output.open_files(&seeds, &args.inputs())?;
    let summary_stream = SummaryStream::choose(&files, &args.output);
    match runtime::run(runtime::new()?, run::run(args, &seeds, &mut files, Box::pin(stopped())))? {
        RunResult::Run(report, log_written) => finish_run(&report, log_written, files, summary_stream, &args.output),
        RunResult::Series(series, logs_written) => {
            finish_series(*series, logs_written, files, summary_stream, &args.output)
        }
        RunResult::Capacity(capacity) => finish_search(capacity, files, summary_stream),
    }
}

/// Writes and prints a report. The report is printed even if a file cannot be written. `log_written` tells whether the
/// file of `--log` could be.
fn finish_run(
    report: &RunReport,
    log_written: Result<()>,
    files: OutputFiles,
    summary_stream: SummaryStream,
    output: &Output,
) -> Result<ExitCode> {
    let OutputFiles { json, runs } = files;
    let written = runs.into_iter().flat_map(|files| write_files(report, files));
    let json = json.map(|file| save(file, &serde_json::to_string_pretty(report)?));
    let written = all(written.chain([log_written]).chain(json));
    summary_stream.print(&run_text(report, output));
    written?;
    Ok(match (report.is_complete, report.has_held()) {
        (false, _) => ExitCode::from(STOPPED),
        (true, false) => ExitCode::from(BREACHED),
        (true, true) => ExitCode::SUCCESS,
    })
}

/// Writes and prints the reports of `--runs`. They are printed even if a file cannot be written.
fn finish_series(
    series: RunSeries,
    logs_written: Vec<Result<()>>,
    files: OutputFiles,
    summary_stream: SummaryStream,
    output: &Output,
) -> Result<ExitCode> {
    let OutputFiles { json, runs } = files;
    let written = series.runs.iter().zip(runs).flat_map(|(report, files)| write_files(report, files));
    let mut written: Vec<Result<()>> = written.chain(logs_written).collect();
    if output.table.is_some() {
        for report in &series.runs {
            summary_stream.print(&format!("seed {}\n{}\n", report.setup.seed, terminal::table(report)));
        }
    }
    summary_stream.print(&series.text());
    let status = match (series.is_complete(), series.has_held()) {
        (false, _) => ExitCode::from(STOPPED),
        (true, false) => ExitCode::from(BREACHED),
        (true, true) => ExitCode::SUCCESS,
    };
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(&JsonReport::Series(Box::new(series)));
        written.push(text.map_err(Into::into).and_then(|text| save(file, &text)));
    }
    all(written)?;
    Ok(status)
}

/// Writes and prints the result of `--find-capacity`. The result is printed even if the file cannot be written.
fn finish_search(capacity: Box<CapacityReport>, files: OutputFiles, summary_stream: SummaryStream) -> Result<ExitCode> {
    let text = terminal::capacity(&capacity);
    let status = match (capacity.is_complete, capacity.requests_per_second) {
        (false, _) => ExitCode::from(STOPPED),
        (true, Some(_)) if !capacity.is_limited_by_generator => ExitCode::SUCCESS,
        (true, _) => ExitCode::from(BREACHED),
    };
    let json = serde_json::to_string_pretty(&JsonReport::Capacity(capacity))?;
    let written = files.json.map_or(Ok(()), |file| save(file, &json));
    summary_stream.print(&text);
    written?;
    Ok(status)
}

/// Writes the files of one run, but that of `--log`, which is written while the run lasts. If some cannot be written, the
/// others are written nevertheless.
fn write_files(report: &RunReport, files: RunFiles) -> impl Iterator<Item = Result<()>> {
    let RunFiles { html, csv, log: _, junit, markdown } = files;
    let written = [
        html.map(|file| save(file, &html::page(report))),
        csv.map(|file| file.save(|out| csv::write_seconds(report, out))),
        junit.map(|file| save(file, &junit::document(report))),
        markdown.map(|file| save(file, &markdown::summary(report))),
    ];
    written.into_iter().flatten()
}

/// One error with the messages of all errors.
fn all(written: impl IntoIterator<Item = Result<()>>) -> Result<()> {
    let messages = written.into_iter().filter_map(Result::err).map(|error| format!("{error:#}"));
    let messages: Vec<String> = messages.collect();
    ensure!(messages.is_empty(), "{}", messages.join("; "));
    Ok(())
}

/// Writes a text, which ends with a line break, to the file.
fn save(file: OutputFile, text: &str) -> Result<()> {
    file.save(|out| Ok(writeln!(out, "{}", text.trim_end())?))
}

/// The table if `--table` is given, the summary, and the place of the page with plots.
fn run_text(report: &RunReport, output: &Output) -> String {
    let table = output.table.map(|_| format!("{}\n\n", terminal::table(report))).unwrap_or_default();
    let page = output.html.as_ref().filter(|path| path.as_os_str() != output_file::STDOUT);
    let page = page.map(|path| format!("\nreport      {}", path.display())).unwrap_or_default();
    format!("{table}{}{page}", terminal::summary(report))
}

/// The stream for the results in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SummaryStream {
    Stdout,
    /// A file of results goes to standard output, and another program reads it.
    Stderr,
    /// Nothing is printed, because of `--quiet`.
    Nowhere,
}

impl SummaryStream {
    fn choose(files: &OutputFiles, output: &Output) -> Self {
        match (output.quiet, files.use_stdout()) {
            (true, _) => Self::Nowhere,
            (false, true) => Self::Stderr,
            (false, false) => Self::Stdout,
        }
    }

    fn print(self, text: &str) {
        match self {
            Self::Stdout => print(text),
            Self::Stderr => {
                let _closed = writeln!(std::io::stderr(), "{text}");
            }
            Self::Nowhere => {}
        }
    }
}

/// Executes `loadgen compare`: prints the comparison, and writes its page.
fn compare(args: &CompareArgs) -> Result<()> {
    let comparison = comparison::read(args)?;
    let open = |path: &Option<PathBuf>| path.as_deref().map(OutputFile::open).transpose();
    let (html, json) = (open(&args.html)?, open(&args.json)?);
    let files = || html.iter().chain(&json);
    ensure!(
        files().filter(|file| file.is_stdout()).count() < 2,
        "--html and --json both name standard output; give one of them a file"
    );
    let uses_stdout = files().any(OutputFile::is_stdout);
    let summary_stream = if uses_stdout { SummaryStream::Stderr } else { SummaryStream::Stdout };
    let page = html.as_ref().filter(|file| !file.is_stdout()).map(OutputFile::name);
    let write = |file: OutputFile, text: &str| file.clear().and_then(|()| save(file, text));
    if let Some(file) = html {
        write(file, &html::comparison(&comparison))?;
    }
    if let Some(file) = json {
        write(file, &serde_json::to_string_pretty(&comparison.report())?)?;
    }
    summary_stream.print(&if args.markdown { comparison.markdown() } else { comparison.text() });
    if let Some(page) = page {
        summary_stream.print(&format!("\ncomparison  {page}"));
    }
    Ok(())
}

/// Prints lines to standard output, and ignores errors. `println!` would panic after the reader of a pipe, such as
/// `head`, has closed it.
fn print(text: &str) {
    let _closed = writeln!(std::io::stdout(), "{text}");
}
