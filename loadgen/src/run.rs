//! `loadgen run`: flags → pictures, load and target; then one measurement, or the search for capacity.

use crate::capacity::{self, Capacity};
use crate::config::RunArgs;
use crate::config::load::schedule;
use crate::display::{Display, Style, Title};
use crate::images;
use crate::measure::{Scene, Stop};
use crate::report::{Report, Setup};
use crate::sample::Sample;
use crate::send::Load;
use crate::target::{self, Target};
use anyhow::Result;
use std::time::{Duration, SystemTime};

/// What was found.
#[derive(Debug)]
pub enum Found {
    /// By a load that was given: the report, and what it was made of.
    Run(Box<Report>, Vec<Sample>),
    /// By a search.
    Capacity(Box<Capacity>),
}

/// Does what the flags say, until it is done or `stop` comes.
///
/// # Errors
/// When there are no pictures, the load makes no sense or nobody is there; never because of what the server answers.
pub async fn run(args: &RunArgs, mut stop: Stop<'_>) -> Result<Found> {
    let dispatcher = target::place(&args.target.url)?;
    let connections = args.target.connections()?;
    // Everything that can be wrong is found before pictures are drawn.
    let workload = if args.find_capacity || args.load.closed.is_some() { None } else { Some(args.load.workload()?) };
    args.output.check()?;
    let target = Target::reach(
        &args.target.url,
        &args.target.header,
        args.target.timeout,
        args.target.budget,
        args.target.top_k,
    )
    .await?;
    let (pictures, skipped_pictures) = match &args.pictures.pictures {
        Some(folder) => images::folder(folder)?,
        None => (images::generate(args.pictures.generate, args.load.seed, &args.pictures.style.style()), 0),
    };
    let payloads: Vec<_> = pictures.into_iter().map(|picture| args.pictures.form.wrap(picture)).collect();
    let mut setup = Setup {
        name: args.output.name.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        started_at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        url: args.target.url.to_string(),
        load: args.load.describe(),
        arrivals: args.load.closed.is_none().then_some(args.load.arrivals),
        seed: args.load.seed,
        pictures: payloads.len(),
        skipped_pictures,
        form: args.pictures.form,
        objective_ms: args.objective.as_secs_f64() * 1e3,
        warmup_seconds: args.load.warmup.unwrap_or_default().as_secs_f64(),
        length_seconds: 0.0,
    };
    let scaler = args.target.scaler.clone();
    let scene = Scene { target, payloads: payloads.into(), connections, dispatcher, scaler };
    let mut display = Display::open(Style::choose(args.output.quiet, args.output.no_tui));
    if args.find_capacity {
        let found = capacity::find(args, setup, &scene, &mut display, &mut stop).await?;
        return Ok(Found::Capacity(Box::new(found)));
    }

    let warmup = args.load.warmup.unwrap_or_default();
    let (load, length) = match (workload, args.load.closed) {
        (Some(workload), _) => {
            let length = warmup + Duration::from_secs(workload.per_second.len() as u64);
            (Load::Open(schedule(&workload, args.load.arrivals, args.load.seed, warmup)), length)
        }
        (None, closed) => {
            let length = warmup + args.load.duration.unwrap_or_default();
            (Load::Closed(closed.unwrap_or_default() as usize, length), length)
        }
    };
    let title = Title { text: format!("{} to {}", setup.load, setup.url), length, objective: args.objective };
    let measured = scene.measure(load, warmup, &title, &mut display, &mut stop).await?;
    drop(display);
    setup.length_seconds = measured.length.as_secs_f64();
    let report = Report::new(setup, &measured, &args.threshold, args.output.table);
    Ok(Found::Run(Box::new(report), measured.samples))
}
