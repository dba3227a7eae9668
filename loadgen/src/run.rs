//! Executes `loadgen run`: prepares images, load and target from the flags, and then measures one run or searches for
//! the capacity.

use crate::capacity::{self, CapacityReport};
use crate::config::RunArgs;
use crate::config::output::OutputFiles;
use crate::connection_limit::ConnectionLimit;
use crate::display::{Display, DisplayMode, RunInfo};
use crate::exporter::Exporter;
use crate::images::{self, Folder};
use crate::measure::{Runner, StopSignal};
use crate::output_file::OutputFile;
use crate::payload::{BodyEncoder, BodyFormat, Payload};
use crate::recording::RunRecording;
use crate::report::{RunReport, RunSetup};
use crate::request_log::RequestLog;
use crate::schedule::Schedule;
use crate::send::LoadPattern;
use crate::send_delay;
use crate::target::{self, LoadTarget};
use anyhow::{Result, ensure};
use std::io::Write;
use std::time::{Duration, SystemTime};
use workload::Workload;

/// Most bytes of the bodies of all images together. All of them are kept in memory.
const MAX_BODY_BYTES: usize = 8 << 30;

/// The result of `loadgen run`.
#[derive(Debug)]
pub enum RunResult {
    /// The report of a run, and the error if the file of `--log` could not be written.
    Run(Box<RunReport>, Result<()>),
    /// The result of `--find-capacity`.
    Capacity(Box<CapacityReport>),
}

/// Makes the run or the search that the flags choose. Ends it early, with a partial result, when `stop` resolves. Deletes
/// the results of earlier runs in `files` once the flags are known to be good.
///
/// # Errors
/// If a flag is out of range, a file cannot be read or created, there are no images, or no server listens at the URL.
/// No answer of the server is an error.
pub async fn run(args: &RunArgs, files: &mut OutputFiles, mut stop: StopSignal<'_>) -> Result<RunResult> {
    target::host_and_port(&args.target.url)?;
    let connections = args.target.connections()?;
    // Drawing images takes long. Wrong flags and a missing server are therefore reported before it.
    let has_schedule = !args.find_capacity && args.load.closed.is_none();
    let workload = has_schedule.then(|| args.load.workload()).transpose()?;
    let encoder = args.target.body_encoder(args.images.body_format)?;
    files.clear()?;
    let exporter = exporter(args).await?;
    let target = LoadTarget::connect(&args.target).await?;
    let watch = args.watch.watch(&args.target.url).await?;
    if let Some(note) = args.target.note() {
        warn(args, &note);
    }
    if let Some(limit) = args.target.connection_limit().filter(ConnectionLimit::is_low) {
        warn(args, &limit.to_string());
    }
    let bodies = bodies(args, &encoder)?;
    if let Some(problem) = &bodies.label_problem {
        warn(args, problem);
    }
    let setup = setup(args, encoder.format(), &bodies);
    let request_ids = target.request_ids();
    let runner = Runner { target, payloads: bodies.payloads.into(), request_ids, connections, watch, exporter };
    let mut display = Display::open(DisplayMode::choose(args.output.quiet, args.output.no_tui));
    if args.find_capacity {
        let capacity = capacity::find(args, setup, &runner, &mut display, &mut stop).await?;
        return Ok(RunResult::Capacity(Box::new(capacity)));
    }
    measure(args, setup, workload, &runner, files.log.take(), display, &mut stop).await
}

/// Serves the metrics of `--metrics-listen`, and prints their address. `None` without that flag.
async fn exporter(args: &RunArgs) -> Result<Option<Exporter>> {
    let Some(address) = args.watch.metrics_listen else { return Ok(None) };
    let exporter = Exporter::new(args.objective, args.target.timeout, send_delay::late_after(args.objective));
    let bound = exporter.listen(address).await?;
    if !args.output.quiet {
        eprintln!("metrics     http://{bound}/metrics");
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

/// Makes the bodies of the requests.
fn bodies(args: &RunArgs, encoder: &BodyEncoder) -> Result<Bodies> {
    let flags = &args.images;
    if let Some(payloads) = encoder.random(flags.generate as usize, args.load.seed) {
        return Ok(Bodies { payloads, skipped_images: 0, label_problem: None });
    }
    let Folder { images, skipped, label_problem } = match &flags.folder {
        Some(folder) => images::read_folder(folder, flags.label_source(), args.output.quiet)?,
        None => {
            let images = images::generate(flags.generate, args.load.seed, &flags.style.style(), args.output.quiet);
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
        started_at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
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
    }
}

/// Measures one run of `workload`, or of the closed load of the flags if `workload` is `None`.
async fn measure(
    args: &RunArgs,
    mut setup: RunSetup,
    workload: Option<Workload>,
    runner: &Runner,
    log: Option<OutputFile>,
    mut display: Display,
    stop: &mut StopSignal<'_>,
) -> Result<RunResult> {
    let warmup = args.load.warmup.unwrap_or_default();
    let (load, length) = match workload {
        Some(workload) => {
            let schedule = Schedule { workload, arrivals: args.load.arrivals, seed: args.load.seed, warmup };
            let length = schedule.length();
            (LoadPattern::Open(schedule), length)
        }
        None => {
            let length = warmup + args.load.duration.unwrap_or_default();
            (LoadPattern::Closed(args.load.closed.unwrap_or_default() as usize, length), length)
        }
    };
    let create_log = |file| RequestLog::create(file, runner.request_ids.clone(), runner.payloads.clone());
    let log = log.map(create_log).transpose()?;
    let mut recording =
        RunRecording::new(args.objective, length.saturating_sub(warmup), args.output.table, log, args.target.timeout);
    let info = RunInfo { title: format!("{} to {}", setup.load, setup.url), length, objective: args.objective };
    let measurement = runner.measure(load, warmup, &info, &mut recording, &mut display, stop).await?;
    // Closes the screen now, because computing the report of a long run takes a while.
    drop(display);
    setup.length_seconds = measurement.length.as_secs_f64();
    let log_written = recording.finish_log();
    let slowest = recording.slowest.requests(&runner.request_ids, |image| &runner.payloads[image].name);
    let report = RunReport::new(setup, measurement, recording, slowest, &args.threshold);
    Ok(RunResult::Run(Box::new(report), log_written))
}
