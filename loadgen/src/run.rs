//! Executes `loadgen run`: prepares images, load and target from the flags, and then measures one run, a run for
//! each seed, or searches for the capacity.

use crate::capacity::{self, CapacityReport};
use crate::config::RunArgs;
use crate::config::load::schedule;
use crate::display::{Display, DisplayMode, RunInfo};
use crate::images::{self, Folder};
use crate::machine::{Machine, ProcessorTime};
use crate::measure::{Runner, StopSignal};
use crate::payload::Payload;
use crate::report::{RunReport, RunSetup};
use crate::sample::Sample;
use crate::send::LoadPattern;
use crate::series::RunSeries;
use crate::target::{self, LoadTarget};
use anyhow::Result;
use std::time::{Duration, SystemTime};
use workload::Workload;

/// The result of `loadgen run`.
#[derive(Debug)]
pub enum RunResult {
    /// The report of a run, and the samples that it was made from.
    Run(Box<RunReport>, Vec<Sample>),
    /// The reports of `--runs`, and the samples of each run.
    Series(Box<RunSeries>, Vec<Vec<Sample>>),
    /// The result of `--find-capacity`.
    Capacity(Box<CapacityReport>),
}

/// Makes the run or the search that the flags choose. Ends it early, with a partial result, when `stop` resolves.
///
/// # Errors
/// If a flag is out of range, a file cannot be read or created, there are no images, or no server listens at the URL.
/// No answer of the server is an error.
pub async fn run(args: &RunArgs, mut stop: StopSignal<'_>) -> Result<RunResult> {
    let dispatcher = target::host_and_port(&args.target.url)?;
    let connections = args.target.connections()?;
    // Drawing images takes long. Wrong flags and a missing server are therefore reported before it.
    let has_schedule = !args.find_capacity && args.load.closed.is_none();
    let workload = has_schedule.then(|| args.load.workload()).transpose()?;
    let seeds = args.seeds()?;
    match &seeds[..] {
        [_] => args.output.create_files()?,
        seeds => seeds.iter().try_for_each(|&seed| args.output.of_run(seed).create_files())?,
    }
    let target = connect(args).await?;
    let (payloads, skipped_images) = payloads(args, args.load.seed)?;
    let setup = setup(args, payloads.len(), skipped_images);
    let scaler = args.target.scaler.clone();
    let runner = Runner { target, payloads: payloads.into(), connections, dispatcher, scaler };
    if args.find_capacity {
        let mut display = open_display(args);
        let capacity = capacity::find(args, setup, &runner, &mut display, &mut stop).await?;
        return Ok(RunResult::Capacity(Box::new(capacity)));
    }
    if seeds.len() > 1 {
        return measure_series(args, &seeds, setup, workload, runner, &mut stop).await;
    }
    let (report, samples) = measure(args, setup, workload, &runner, &mut stop).await?;
    Ok(RunResult::Run(Box::new(report), samples))
}

fn open_display(args: &RunArgs) -> Display {
    Display::open(DisplayMode::choose(args.output.quiet, args.output.no_tui))
}

/// Connects to the server once, to test whether it listens.
async fn connect(args: &RunArgs) -> Result<LoadTarget> {
    let target = &args.target;
    LoadTarget::connect(&target.url, &target.header, target.timeout, target.budget, target.top_k).await
}

/// The bodies of the requests, and the number of files that were skipped.
fn payloads(args: &RunArgs, seed: u64) -> Result<(Vec<Payload>, usize)> {
    let flags = &args.images;
    let Folder { images, skipped } = match &flags.folder {
        Some(folder) => images::read_folder(folder)?,
        None => {
            let images = images::generate(flags.generate, seed, &flags.style.style());
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
        started_at: now(),
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
        machine: Machine::this(),
    }
}

/// The present time (RFC 3339).
fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// Measures a run with each of the seeds, one after another. A run begins when all requests of the one before it have
/// ended. Ends after the run that the user stopped.
async fn measure_series(
    args: &RunArgs,
    seeds: &[u64],
    setup: RunSetup,
    workload: Option<Workload>,
    mut runner: Runner,
    stop: &mut StopSignal<'_>,
) -> Result<RunResult> {
    let (mut reports, mut samples) = (Vec::new(), Vec::new());
    for &seed in seeds {
        // Images that are drawn depend on the seed, so that a run of a series is the one that its seed gives alone.
        if seed != args.load.seed && args.images.folder.is_none() {
            runner.payloads = payloads(args, seed)?.0.into();
        }
        let setup = RunSetup { seed, started_at: now(), ..setup.clone() };
        let (report, of_run) = measure(args, setup, workload.clone(), &runner, stop).await?;
        samples.push(of_run);
        reports.push(report);
        if reports.last().is_some_and(|report| !report.is_complete) {
            break;
        }
    }
    Ok(RunResult::Series(Box::new(RunSeries::new(reports)), samples))
}

/// Measures one run of `workload`, or of the closed load of the flags if `workload` is `None`.
async fn measure(
    args: &RunArgs,
    mut setup: RunSetup,
    workload: Option<Workload>,
    runner: &Runner,
    stop: &mut StopSignal<'_>,
) -> Result<(RunReport, Vec<Sample>)> {
    let mut display = open_display(args);
    let warmup = args.load.warmup.unwrap_or_default();
    let (load, length) = match workload {
        Some(workload) => {
            let length = warmup + Duration::from_secs(workload.per_second.len() as u64);
            (LoadPattern::Open(schedule(&workload, args.load.arrivals, setup.seed, warmup)), length)
        }
        None => {
            let length = warmup + args.load.duration.unwrap_or_default();
            (LoadPattern::Closed(args.load.closed.unwrap_or_default() as usize, length), length)
        }
    };
    let seed = if args.runs > 1 { format!(", seed {}", setup.seed) } else { String::new() };
    let info = RunInfo { title: format!("{}{seed} to {}", setup.load, setup.url), length, objective: args.objective };
    let started = ProcessorTime::now();
    let measurement = runner.measure(load, warmup, &info, &mut display, stop).await?;
    // Closes the screen now, because computing the report of a long run takes a while.
    drop(display);
    setup.length_seconds = measurement.length.as_secs_f64();
    let steal = started.zip(ProcessorTime::now()).map(|(started, ended)| ended.stolen_since(started));
    let report = RunReport { steal, ..RunReport::new(setup, &measurement, &args.threshold, args.output.table) };
    Ok((report, measurement.samples))
}
