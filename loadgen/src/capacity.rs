//! `loadgen run --find-capacity`: the highest steady rate at which an objective holds.

use crate::condition::{Condition, Outcome};
use crate::config::RunArgs;
use crate::config::load::schedule;
use crate::display::{Display, Title};
use crate::measure::{Measured, Scene, Stop};
use crate::punctuality::Punctuality;
use crate::report::Setup;
use crate::sample::Sample;
use crate::search::{Search, Step};
use crate::send::Load;
use crate::summary;
use anyhow::{Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use workload::Workload;

/// Windows at each rate; the objective is to hold in every one.
const WINDOWS: u32 = 3;

/// At each rate before the first window: what the change of the rate does is no steady state.
const SETTLE: Duration = Duration::from_secs(1);

/// Where the search begins without `--rate`, and between what it stays, in requests per second.
const FIRST: f64 = 4.0;
const LOWEST: f64 = 0.1;
const HIGHEST: f64 = 50_000.0;

/// Requests that a window is to have on average, so that its percentiles mean something; slow rates get longer ones.
const MIN_REQUESTS: f64 = 20.0;

/// What a search found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Capacity {
    /// What was done.
    pub setup: Setup,
    /// What was to hold.
    pub slo: Vec<String>,
    /// The highest rate at which it held; absent if it never did.
    pub requests_per_second: Option<f64>,
    /// The lowest rate at which it did not; absent if it always did.
    pub fails_at: Option<f64>,
    /// Whether this machine could not send on time at `fails_at`: the server may be capable of more.
    pub is_limited_by_generator: bool,
    /// Whether the search came to its end.
    pub is_complete: bool,
    /// In the order in which they were made.
    pub tries: Vec<Try>,
}

/// One rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Try {
    /// Tried.
    pub requests_per_second: f64,
    /// What was to hold, in each window.
    pub windows: Vec<Vec<Outcome>>,
    /// Whether all of it did, and requests were sent on time.
    pub held: bool,
    /// Whether this machine could not send on time, which is a reason of its own not to hold.
    pub is_bottleneck: bool,
}

/// Searches.
///
/// # Errors
/// When a number makes no sense or the system has no thread left.
pub async fn find(
    args: &RunArgs,
    mut setup: Setup,
    scene: &Scene,
    display: &mut Display,
    stop: &mut Stop<'_>,
) -> Result<Capacity> {
    let first = args.load.rate.unwrap_or(FIRST);
    for condition in &args.slo {
        ensure!(
            condition.fits_capacity(),
            "--slo {condition}: only percentiles, attainment and errors tell when a rate is too much"
        );
    }
    ensure!((LOWEST..=HIGHEST).contains(&first), "--rate ({first}) must lie between {LOWEST} and {HIGHEST}");
    setup.load = format!("search from {first}/s");
    let mut found = Capacity {
        setup,
        slo: args.slo.iter().map(ToString::to_string).collect(),
        requests_per_second: None,
        fails_at: None,
        is_limited_by_generator: false,
        is_complete: true,
        tries: Vec::new(),
    };
    let mut search = Search::new(first, LOWEST, HIGHEST);
    while let Step::Try(rate) = search.step() {
        let window = args.window.max(Duration::from_secs_f64((MIN_REQUESTS / rate).ceil()));
        // Whole seconds, as workloads have them.
        let window = Duration::from_secs(window.as_secs_f64().ceil() as u64);
        let workload = Workload::constant(rate, window * WINDOWS);
        let load = Load::Open(schedule(&workload, args.load.arrivals, args.load.seed, SETTLE));
        let title = Title {
            text: format!("{rate:.2}/s to {}", found.setup.url),
            length: SETTLE + window * WINDOWS,
            objective: args.objective,
        };
        let measured = scene.measure(load, SETTLE, &title, display, stop).await?;
        found.setup.length_seconds += measured.length.as_secs_f64();
        if !measured.is_complete {
            found.is_complete = false;
            break;
        }
        let windows: Vec<Vec<Outcome>> =
            (0..WINDOWS).map(|index| judge(&args.slo, &measured, window * index, window, args.objective)).collect();
        let is_bottleneck = Punctuality::of(&measured.samples).is_bottleneck;
        let held = !is_bottleneck && windows.iter().flatten().all(|outcome| outcome.held);
        found.tries.push(Try { requests_per_second: rate, windows, held, is_bottleneck });
        search = search.note(rate, held);
    }
    found.requests_per_second = search.held;
    found.fails_at = search.failed;
    found.is_limited_by_generator = found.tries.iter().rfind(|one| !one.held).is_some_and(|one| one.is_bottleneck);
    Ok(found)
}

/// The conditions, of what was scheduled in one window.
fn judge(
    slo: &[Condition],
    measured: &Measured,
    from: Duration,
    window: Duration,
    objective: Duration,
) -> Vec<Outcome> {
    let within = |sample: &&Sample| (from..from + window).contains(&sample.scheduled);
    let mut samples: Vec<Sample> = measured.samples.iter().filter(within).cloned().collect();
    samples.iter_mut().for_each(|sample| sample.scheduled -= from);
    let summary = summary::summarise(&samples, objective, window, None);
    let latencies = summary::latencies(&samples);
    slo.iter().map(|one| one.judge(&summary, |quantile| latencies.at_of(quantile, samples.len()))).collect()
}
