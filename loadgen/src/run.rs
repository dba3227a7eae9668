//! Executes `loadgen run`: prepares images, load and target from the flags, and then measures one run, a run for
//! each seed, or searches for the capacity.

use crate::capacity::{self, CapacityReport};
use crate::config::RunArgs;
use crate::config::output::OutputFiles;
use crate::connection_limit::ConnectionLimit;
use crate::display::{Display, DisplayMode, RunInfo};
use crate::exporter::Exporter;
use crate::images::{self, Folder};
use crate::machine::{Machine, ProcessorTime};
use crate::measure::{Runner, StopSignal};
use crate::output_file::OutputFile;
use crate::part::Part;
use crate::payload::{BodyEncoder, BodyFormat, Payload};
use crate::recording::RunRecording;
use crate::report::{RunReport, RunSetup};
use crate::request_log::RequestLog;
use crate::schedule::Schedule;
use crate::send::LoadPattern;
use crate::send_delay;
use crate::series::RunSeries;
use crate::target::{self, LoadTarget};
use crate::workers::client::Worker;
use crate::workers::coordinator::{self, DistributedLoad, DistributedRun};
use crate::workers::token::Token;
use anyhow::{Result, anyhow, ensure};
use std::io::Write;
use std::time::{Duration, SystemTime};
use workload::Workload;

/// Most bytes of the bodies of all images together. All of them are kept in memory.
const MAX_BODY_BYTES: usize = 8 << 30;

/// The result of `loadgen run`.
#[derive(Debug)]
pub enum RunResult {
    /// The report of a run, and the error if the file of `--log` could not be written, or a worker has failed.
    Run(Box<RunReport>, Result<()>),
    /// The reports of `--runs`, and for each run the error if its file of `--log` could not be written.
    Series(Box<RunSeries>, Vec<Result<()>>),
    /// The result of `--find-capacity`.
    Capacity(Box<CapacityReport>),
}

/// Makes the runs with these seeds, or the search, that the flags choose. Ends it early, with a partial result, when
/// `stop` resolves. Deletes the results of earlier runs in `files` once the flags are known to be good.
///
/// # Errors
/// If a flag is out of range, a file cannot be read or created, there are no images, or no server listens at the URL.
/// No answer of the server is an error.
pub async fn run(
    args: &RunArgs,
    seeds: &[u64],
    files: &mut OutputFiles,
    mut stop: StopSignal<'_>,
) -> Result<RunResult> {
    target::host_and_port(&args.target.url)?;
    let connections = args.target.connections()?;
    // Drawing images takes long. Wrong flags and a missing server are therefore reported before it.
    let has_schedule = !args.find_capacity && args.load.closed.is_none();
    let workload = has_schedule.then(|| args.load.workload()).transpose()?;
    let workers = workers(args)?;
    let encoder = args.target.body_encoder(args.images.body_format)?;
    files.clear()?;
    let exporter = exporter(args).await?;
    coordinator::check(&workers).await?;
    let target = LoadTarget::connect(&args.target).await?;
    let watch = args.watch.watch(&args.target.url, &args.target.resolve).await?;
    if let Some(note) = args.target.note() {
        warn(args, &note);
    }
    if let Some(limit) = args.target.connection_limit().filter(ConnectionLimit::is_low) {
        warn(args, &limit.to_string());
    }
    let bodies = bodies(args, &encoder, args.load.seed)?;
    if let Some(problem) = &bodies.label_problem {
        warn(args, problem);
    }
    let setup = setup(args, encoder.format(), &bodies);
    let request_ids = target.request_ids();
    let (part, start) = (Part::WHOLE, None);
    let payloads = bodies.payloads.into();
    let runner = Runner { target, payloads, request_ids, connections, part, start, watch, exporter };
    if args.find_capacity {
        let mut display = open_display(args);
        let capacity = capacity::find(args, setup, &runner, &mut display, &mut stop).await?;
        return Ok(RunResult::Capacity(Box::new(capacity)));
    }
    if !workers.is_empty() {
        return distribute(args, setup, workload, workers, &runner, &mut stop).await;
    }
    let mut logs = files.runs.iter_mut().map(|files| files.log.take());
    if seeds.len() > 1 {
        let runs = seeds.iter().copied().zip(logs);
        return measure_series(args, runs, setup, workload, &encoder, runner, &mut stop).await;
    }
    let log = logs.next().flatten();
    let (report, log_written) = measure(args, setup, workload, &runner, log, &mut stop).await?;
    Ok(RunResult::Run(Box::new(report), log_written))
}

fn open_display(args: &RunArgs) -> Display {
    Display::open(DisplayMode::choose(args.output.quiet, args.output.no_tui))
}

/// Serves the metrics of `--metrics-listen`, and prints their address. `None` without that flag.
async fn exporter(args: &RunArgs) -> Result<Option<Exporter>> {
    let Some(address) = args.watch.metrics_listen else { return Ok(None) };
    let exporter = Exporter::new(args.objective, args.target.timeout, send_delay::late_after(args.objective));
    let bound = exporter.listen(address).await?;
    if !args.output.quiet {
        let _closed = writeln!(std::io::stderr(), "metrics     http://{bound}/metrics");
    }
    Ok(Some(exporter))
}

/// The bodies of the requests.
struct Bodies {
    payloads: Vec<Payload>,
    /// Number of files that are no images, or could not be read.
    skipped_images: usize,
    /// The reason why the labels of the folder are of no use.
    label_problem: Option<String>,
}

/// Makes the bodies of the requests. Images that are drawn and random numbers depend on the seed.
fn bodies(args: &RunArgs, encoder: &BodyEncoder, seed: u64) -> Result<Bodies> {
    let flags = &args.images;
    if let Some(payloads) = encoder.random(flags.generate as usize, seed) {
        return Ok(Bodies { payloads, skipped_images: 0, label_problem: None });
    }
    let Folder { images, skipped, label_problem } = match &flags.folder {
        Some(folder) => images::read_folder(folder, flags.label_source(), args.output.quiet)?,
        None => {
            let images = images::generate(flags.generate, seed, &flags.style.style(), args.output.quiet);
            Folder { images, skipped: 0, label_problem: None }
        }
    };
    let (mut payloads, mut bytes) = (Vec::new(), 0);
    for (index, image) in images.into_iter().enumerate() {
        let payload = encoder.encode(image, index);
        bytes += payload.body.len();
        ensure!(bytes <= MAX_BODY_BYTES, "the bodies of all images have more than 8 GiB; use fewer or smaller images");
        payloads.push(payload);
    }
    Ok(Bodies { payloads, skipped_images: skipped, label_problem })
}

/// Prints a warning to standard error unless `--quiet` is given, and ignores errors.
fn warn(args: &RunArgs, text: &str) {
    if !args.output.quiet {
        let _closed = writeln!(std::io::stderr(), "warning: {text}");
    }
}

/// The settings of the run, as the report shows them. The length is 0, since it is known only after the run.
fn setup(args: &RunArgs, body_format: BodyFormat, bodies: &Bodies) -> RunSetup {
    RunSetup {
        name: args.output.name.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        started_at: now(),
        url: args.target.url.to_string(),
        load: args.load.describe(),
        arrivals: args.load.closed.is_none().then_some(args.load.arrivals),
        seed: args.load.seed,
        images: bodies.payloads.len(),
        skipped_images: bodies.skipped_images,
        label_problem: bodies.label_problem.clone(),
        connection_limit: args.target.connection_limit(),
        body_format,
        objective_ms: args.objective.as_secs_f64() * 1e3,
        warmup_seconds: args.load.warmup.unwrap_or_default().as_secs_f64(),
        length_seconds: 0.0,
        machine: Machine::this(),
    }
}

/// The present time (RFC 3339).
fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// Measures a run with each of the seeds, one after another, and writes its log to the file beside the seed. A run begins
/// when all requests of the one before it have ended. Ends after the run that the user stopped.
async fn measure_series(
    args: &RunArgs,
    runs: impl Iterator<Item = (u64, Option<OutputFile>)>,
    setup: RunSetup,
    workload: Option<Workload>,
    encoder: &BodyEncoder,
    mut runner: Runner,
    stop: &mut StopSignal<'_>,
) -> Result<RunResult> {
    let (mut reports, mut logs_written) = (Vec::new(), Vec::new());
    for (seed, log) in runs {
        // Images that are drawn depend on the seed, so that a run of a series is the one that its seed gives alone.
        if seed != args.load.seed && args.images.folder.is_none() {
            runner.payloads = bodies(args, encoder, seed)?.payloads.into();
        }
        runner.request_ids = runner.target.request_ids();
        let setup = RunSetup { seed, started_at: now(), ..setup.clone() };
        let (report, log_written) = measure(args, setup, workload.clone(), &runner, log, stop).await?;
        logs_written.push(log_written);
        reports.push(report);
        if reports.last().is_some_and(|report| !report.is_complete) {
            break;
        }
    }
    Ok(RunResult::Series(Box::new(RunSeries::new(reports)), logs_written))
}

/// Measures one run of `workload`, or of the closed load of the flags if `workload` is `None`.
async fn measure(
    args: &RunArgs,
    mut setup: RunSetup,
    workload: Option<Workload>,
    runner: &Runner,
    log: Option<OutputFile>,
    stop: &mut StopSignal<'_>,
) -> Result<(RunReport, Result<()>)> {
    let mut display = open_display(args);
    let warmup = args.load.warmup.unwrap_or_default();
    let (load, length) = load(args, workload, setup.seed);
    let create_log = |file| RequestLog::create(file, runner.request_ids.clone(), runner.payloads.clone());
    let log = log.map(create_log).transpose()?;
    let mut recording =
        RunRecording::new(args.objective, length.saturating_sub(warmup), args.output.table, log, args.target.timeout);
    let seed = if args.runs > 1 { format!(", seed {}", setup.seed) } else { String::new() };
    let info = RunInfo { title: format!("{}{seed} to {}", setup.load, setup.url), length, objective: args.objective };
    let started = ProcessorTime::now();
    let measurement = runner.measure(load, warmup, &info, &mut recording, &mut display, stop).await?;
    // Closes the screen now, because computing the report of a long run takes a while.
    drop(display);
    setup.length_seconds = measurement.length.as_secs_f64();
    let steal = started.zip(ProcessorTime::now()).map(|(started, ended)| ended.stolen_since(started));
    let log_written = recording.finish_log();
    let slowest = recording.slowest.requests(&runner.request_ids, |image| &runner.payloads[image].name);
    let report = RunReport { steal, ..RunReport::new(setup, measurement, recording, slowest, &args.threshold) };
    Ok((report, log_written))
}

/// The load that the flags choose with this seed, and its length with the warm-up: `workload`, or the closed load of the
/// flags if `workload` is `None`.
pub(crate) fn load(args: &RunArgs, workload: Option<Workload>, seed: u64) -> (LoadPattern, Duration) {
    let warmup = args.load.warmup.unwrap_or_default();
    match workload {
        Some(workload) => {
            let schedule = Schedule { workload, arrivals: args.load.arrivals, seed, warmup };
            let length = schedule.length();
            (LoadPattern::Open(schedule), length)
        }
        None => {
            let length = warmup + args.load.duration.unwrap_or_default();
            (LoadPattern::Closed(args.load.closed.unwrap_or_default() as usize, length), length)
        }
    }
}

/// The workers that the flags name.
fn workers(args: &RunArgs) -> Result<Vec<Worker>> {
    let token = args.workers.workers_token_file.as_deref().map(Token::read).transpose()?;
    let worker = |address: &String| Worker { address: address.clone(), token: token.clone() };
    Ok(args.workers.workers.iter().map(worker).collect())
}

/// Has workers send one run of `workload`, or of the closed load of the flags if `workload` is `None`.
async fn distribute(
    args: &RunArgs,
    mut setup: RunSetup,
    workload: Option<Workload>,
    workers: Vec<Worker>,
    runner: &Runner,
    stop: &mut StopSignal<'_>,
) -> Result<RunResult> {
    let mut display = open_display(args);
    let warmup = args.load.warmup.unwrap_or_default();
    let (_, length) = load(args, workload.clone(), setup.seed);
    let (objective, table) = (args.objective, args.output.table);
    let mut recording = RunRecording::new(objective, length.saturating_sub(warmup), table, None, args.target.timeout);
    let title = format!("{} from {} workers to {}", setup.load, workers.len(), setup.url);
    let info = RunInfo { title, length, objective };
    let (arguments, workload) = (&args.arguments[..], workload.as_ref());
    let load = DistributedLoad { workers, arguments, runner, workload, warmup, info };
    let run = load.measure(&mut recording, &mut display, stop).await?;
    drop(display);
    let DistributedRun { measurement, slowest, workers, failure } = run;
    setup.length_seconds = measurement.length.as_secs_f64();
    let report = RunReport::new(setup, measurement, recording, slowest, &args.threshold).with_workers(workers);
    let failed = |failure| anyhow!("the report is partial, since the figures of a worker are missing: {failure}");
    Ok(RunResult::Run(Box::new(report), failure.map_or(Ok(()), |failure| Err(failed(failure)))))
}
