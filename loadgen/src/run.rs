//! Executes `loadgen run`: prepares images, load and target from the flags, and then measures one run or searches for
//! the capacity.

use crate::capacity::{self, CapacityReport};
use crate::config::RunArgs;
use crate::config::load::schedule;
use crate::config::output::OutputFiles;
use crate::display::{Display, DisplayMode, RunInfo};
use crate::exporter::Exporter;
use crate::images::{self, Folder};
use crate::measure::{Runner, StopSignal};
use crate::payload::Payload;
use crate::report::{RunReport, RunSetup};
use crate::sample::Sample;
use crate::send::LoadPattern;
use crate::send_delay::LATE_AFTER;
use crate::target::{self, LoadTarget};
use anyhow::Result;
use std::time::{Duration, SystemTime};
use workload::Workload;

/// The result of `loadgen run`.
#[derive(Debug)]
pub enum RunResult {
    /// The report of a run, and the samples that it was made from.
    Run(Box<RunReport>, Vec<Sample>),
    /// The result of `--find-capacity`.
    Capacity(Box<CapacityReport>),
}

/// Makes the run or the search that the flags choose. Ends it early, with a partial result, when `stop` resolves. Deletes
/// the results of earlier runs in `files` once the flags are known to be good.
///
/// # Errors
/// If a flag is out of range, a file cannot be read or created, there are no images, or no server listens at the URL.
/// No answer of the server is an error.
pub async fn run(args: &RunArgs, files: &OutputFiles, mut stop: StopSignal<'_>) -> Result<RunResult> {
    target::host_and_port(&args.target.url)?;
    let connections = args.target.connections()?;
    // Drawing images takes long. Wrong flags and a missing server are therefore reported before it.
    let has_schedule = !args.find_capacity && args.load.closed.is_none();
    let workload = has_schedule.then(|| args.load.workload()).transpose()?;
    files.clear()?;
    let exporter = exporter(args).await?;
    let target = connect(args).await?;
    let watch = args.watch.watch(&args.target.url).await?;
    let (payloads, skipped_images) = payloads(args)?;
    let setup = setup(args, payloads.len(), skipped_images);
    let runner = Runner { target, payloads: payloads.into(), connections, watch, exporter };
    let mut display = Display::open(DisplayMode::choose(args.output.quiet, args.output.no_tui));
    if args.find_capacity {
        let capacity = capacity::find(args, setup, &runner, &mut display, &mut stop).await?;
        return Ok(RunResult::Capacity(Box::new(capacity)));
    }
    measure(args, setup, workload, &runner, display, &mut stop).await
}

/// Serves the metrics of `--metrics-listen`, and prints their address. `None` without that flag.
async fn exporter(args: &RunArgs) -> Result<Option<Exporter>> {
    let Some(address) = args.watch.metrics_listen else { return Ok(None) };
    let exporter = Exporter::new(args.objective, args.target.timeout, LATE_AFTER);
    let bound = exporter.listen(address).await?;
    if !args.output.quiet {
        eprintln!("metrics     http://{bound}/metrics");
    }
    Ok(Some(exporter))
}

/// Connects to the server once, to test whether it listens.
async fn connect(args: &RunArgs) -> Result<LoadTarget> {
    let target = &args.target;
    LoadTarget::connect(&target.url, &target.header, target.timeout, target.budget, target.top_k).await
}

/// The bodies of the requests, and the number of files that were skipped.
fn payloads(args: &RunArgs) -> Result<(Vec<Payload>, usize)> {
    let flags = &args.images;
    let Folder { images, skipped } = match &flags.folder {
        Some(folder) => images::read_folder(folder, args.output.quiet)?,
        None => {
            let images = images::generate(flags.generate, args.load.seed, &flags.style.style(), args.output.quiet);
            Folder { images, skipped: 0 }
        }
    };
    Ok((images.into_iter().map(|image| flags.body_format.encode(image)).collect(), skipped))
}

/// The settings of the run, as the report shows them. The length is 0, since it is known only after the run.
fn setup(args: &RunArgs, images: usize, skipped_images: usize) -> RunSetup {
    RunSetup {
        name: args.output.name.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        started_at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        url: args.target.url.to_string(),
        load: args.load.describe(),
        arrivals: args.load.closed.is_none().then_some(args.load.arrivals),
        seed: args.load.seed,
        images,
        skipped_images,
        body_format: args.images.body_format,
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
    mut display: Display,
    stop: &mut StopSignal<'_>,
) -> Result<RunResult> {
    let warmup = args.load.warmup.unwrap_or_default();
    let (load, length) = match workload {
        Some(workload) => {
            let length = warmup + Duration::from_secs(workload.per_second.len() as u64);
            (LoadPattern::Open(schedule(&workload, args.load.arrivals, args.load.seed, warmup)), length)
        }
        None => {
            let length = warmup + args.load.duration.unwrap_or_default();
            (LoadPattern::Closed(args.load.closed.unwrap_or_default() as usize, length), length)
        }
    };
    let info = RunInfo { title: format!("{} to {}", setup.load, setup.url), length, objective: args.objective };
    let measurement = runner.measure(load, warmup, &info, &mut display, stop).await?;
    // Closes the screen now, because computing the report of a long run takes a while.
    drop(display);
    setup.length_seconds = measurement.length.as_secs_f64();
    let report = RunReport::new(setup, &measurement, &args.threshold, args.output.table);
    Ok(RunResult::Run(Box::new(report), measurement.samples))
}
