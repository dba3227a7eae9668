//! One run: pictures, schedule, sending, watching, summing up.

use crate::config::{Load, RunArgs};
use crate::images::{self, Picture};
use crate::report::{Report, Setup};
use crate::sample::{Outcome, Sample};
use crate::send::Sender;
use crate::summary;
use crate::watch::{self, Glimpses};
use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use service::arrivals;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Answers that the live percentile looks back over.
const RECENT: usize = 200;

/// Makes the run that the flags describe.
///
/// # Errors
/// When there are no pictures or the load makes no sense; never because of what the server answers.
pub async fn run(args: &RunArgs) -> Result<Report> {
    let load = args.load()?;
    let pictures: Arc<[Picture]> = match &args.pictures {
        Some(folder) => images::folder(folder)?,
        None => images::generate(args.generate, args.seed),
    }
    .into();
    let (schedule, length) = match &load {
        Load::Open(workload, process) => {
            let length = Duration::from_secs(workload.per_second.len() as u64);
            (arrivals::schedule(workload, *process, args.seed), length)
        }
        Load::Closed(_, duration) => (Vec::new(), *duration),
    };

    let glimpses = Glimpses::default();
    let authority = args.url.authority().map(ToString::to_string).unwrap_or_default();
    let address = if args.url.port().is_some() { authority } else { format!("{authority}:80") };
    let watching = tokio::spawn(watch::follow(address, glimpses.clone()));
    // Every request sends one sample, and all are kept for the report anyway.
    let (sender, receiver) = mpsc::unbounded_channel();
    let progress = Progress::new(args.quiet, length, args.objective, glimpses.clone());
    let collecting = tokio::spawn(collect(receiver, progress));
    let sending = Sender::new(args.url.clone(), args.timeout, args.budget);
    match load {
        Load::Open(..) => {
            // A workload may end with silence: what the server does in it belongs to the run.
            let end = tokio::time::sleep(length);
            tokio::join!(sending.open_loop(&pictures, &schedule, &sender), end);
        }
        Load::Closed(concurrency, duration) => sending.closed_loop(&pictures, concurrency, duration, &sender).await,
    }
    drop(sender);
    let mut samples = collecting.await?;
    watching.abort();
    samples.sort_by_key(|sample| sample.scheduled);

    let glimpses = glimpses.lock().expect("nobody panics while holding the glimpses").clone();
    Ok(Report {
        setup: Setup {
            url: args.url.to_string(),
            load: match (&args.workload, args.rate, args.closed) {
                (Some(path), ..) => format!("{} x {}", path.display(), args.rate_scale),
                (_, Some(rate), _) => format!("{rate}/s x {}", args.rate_scale),
                (_, _, closed) => format!("{} at a time", closed.unwrap_or_default()),
            },
            arrivals: args.arrivals,
            seed: args.seed,
            pictures: pictures.len(),
            objective_ms: args.objective.as_secs_f64() * 1e3,
            length_seconds: length.as_secs_f64(),
        },
        summary: summary::summarise(&samples, args.objective, length),
        seconds: summary::rows(&samples, args.objective, length, 1),
        table: args.table.map_or_else(Vec::new, |step| summary::rows(&samples, args.objective, length, step as usize)),
        glimpses,
    })
}

async fn collect(mut samples: mpsc::UnboundedReceiver<Sample>, mut progress: Progress) -> Vec<Sample> {
    let mut collected = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            sample = samples.recv() => match sample {
                Some(sample) => {
                    progress.note(&sample);
                    collected.push(sample);
                }
                None => break,
            },
            _ = tick.tick() => progress.show(),
        }
    }
    progress.bar.finish_and_clear();
    collected
}

/// A bar that fills with time and tells how the run goes.
struct Progress {
    bar: ProgressBar,
    start: Instant,
    objective: Duration,
    glimpses: Glimpses,
    recent: VecDeque<Duration>,
    ended: usize,
    missed: usize,
    failed: usize,
}

impl Progress {
    fn new(quiet: bool, length: Duration, objective: Duration, glimpses: Glimpses) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} s  {wide_msg}").expect("the template is valid");
        let bar = ProgressBar::with_draw_target(Some(length.as_secs()), target).with_style(style);
        let start = Instant::now();
        Self { bar, start, objective, glimpses, recent: VecDeque::new(), ended: 0, missed: 0, failed: 0 }
    }

    fn note(&mut self, sample: &Sample) {
        self.ended += 1;
        match sample.outcome {
            Outcome::Failed { .. } => self.failed += 1,
            Outcome::Answered { .. } => {
                self.missed += usize::from(sample.latency > self.objective);
                if self.recent.len() == RECENT {
                    self.recent.pop_front();
                }
                self.recent.push_back(sample.latency);
            }
        }
    }

    fn show(&self) {
        let mut recent: Vec<Duration> = self.recent.iter().copied().collect();
        recent.sort_unstable();
        let p95 = recent.get(recent.len() * 95 / 100).map_or(0, Duration::as_millis);
        let glimpse = self.glimpses.lock().expect("nobody panics while holding the glimpses").last().copied();
        let server = glimpse
            .map(|glimpse| format!(", queue {:.0}, replicas {:.0}", glimpse.queue_length, glimpse.replicas))
            .unwrap_or_default();
        self.bar.set_position(self.start.elapsed().as_secs().min(self.bar.length().unwrap_or_default()));
        self.bar.set_message(format!(
            "{} ended, p95 {p95} ms, {} late, {} failed{server}",
            self.ended, self.missed, self.failed
        ));
    }
}
