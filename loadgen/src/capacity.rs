//! `loadgen run --find-capacity`: measures one steady rate after another, to find the highest rate at which an
//! objective holds. The module `search` chooses the rates.

use crate::condition::{Condition, ConditionResult};
use crate::config::RunArgs;
use crate::config::load::Args as LoadArgs;
use crate::display::{Display, RunInfo};
use crate::measure::{Measurement, Runner, StopSignal};
use crate::recording::WindowRecording;
use crate::report::RunSetup;
use crate::schedule::Schedule;
use crate::search::{Search, SearchStep};
use crate::send::LoadPattern;
use crate::tally::Tally;
use anyhow::{Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use workload::Workload;

/// Number of windows at each rate. The objective must hold in every window.
const WINDOWS: u32 = 3;

/// Time at each rate before the first window. The change of the rate disturbs the server, which needs this time to
/// reach its steady state.
const SETTLE: Duration = Duration::from_secs(1);

/// Rate at which the search begins without `--rate`, in requests per second.
const FIRST: f64 = 4.0;

/// Lowest rate that is tried, in requests per second.
const LOWEST: f64 = 0.1;

/// Highest rate that is tried, in requests per second.
const HIGHEST: f64 = 50_000.0;

/// Least mean number of requests in a window. Windows are longer at low rates, because percentiles of fewer requests
/// would depend on chance.
const MIN_REQUESTS: f64 = 20.0;

/// The result of a search for the capacity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CapacityReport {
    /// The settings of the search.
    pub setup: RunSetup,
    /// The conditions that make up the objective.
    pub slo: Vec<String>,
    /// The highest rate at which the objective held. Absent if it never held.
    pub requests_per_second: Option<f64>,
    /// The lowest rate at which the objective failed. Absent if it never failed.
    pub fails_at: Option<f64>,
    /// Whether loadgen could not send on time at the rate `fails_at`. If so, the server may be capable of more.
    pub is_limited_by_generator: bool,
    /// Whether the search came to its end.
    pub is_complete: bool,
    /// The result of each rate that was tried, in order.
    #[serde(rename = "tries")]
    pub trials: Vec<RateTrial>,
}

/// The result of one rate that was tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RateTrial {
    /// The rate that was tried.
    pub requests_per_second: f64,
    /// The results of each window, one for each condition.
    pub windows: Vec<Vec<ConditionResult>>,
    /// Whether every condition held in every window, and the requests were sent on time.
    pub held: bool,
    /// Whether loadgen could not send on time. The rate counts as failed then.
    pub is_bottleneck: bool,
}

/// Searches for the highest rate at which all conditions of `--slo` hold. Returns early, with an incomplete result,
/// when `stop` resolves.
///
/// # Errors
/// If `--rate` is out of range, `--slo` has a condition that does not fit, or the system cannot provide a thread or a
/// timer.
pub async fn find(
    args: &RunArgs,
    mut setup: RunSetup,
    runner: &Runner,
    display: &mut Display,
    stop: &mut StopSignal<'_>,
) -> Result<CapacityReport> {
    let first = args.load.rate.unwrap_or(FIRST);
    for condition in &args.slo {
        ensure!(
            condition.fits_capacity(),
            "--slo {condition}: use a condition on a percentile, attainment or errors; other figures do not show that \
             a rate is too high"
        );
    }
    ensure!(
        (LOWEST..=HIGHEST).contains(&first),
        "--rate ({first}) must be between {LOWEST} and {HIGHEST} with --find-capacity"
    );
    setup.load = format!("search from {first}/s");
    let mut search = Search::new(first, LOWEST, HIGHEST);
    let mut trials = Vec::new();
    let mut is_complete = true;
    while let SearchStep::Try(rate) = search.step() {
        let (measurement, windows) = measure(args, rate, &setup.url, runner, display, stop).await?;
        setup.length_seconds += measurement.length.as_secs_f64();
        if !measurement.is_complete {
            is_complete = false;
            break;
        }
        let trial = RateTrial::new(args, rate, &windows);
        search = search.record(rate, trial.held);
        trials.push(trial);
    }
    Ok(CapacityReport {
        setup,
        slo: args.slo.iter().map(ToString::to_string).collect(),
        requests_per_second: search.held,
        fails_at: search.failed,
        is_limited_by_generator: trials.iter().rfind(|trial| !trial.held).is_some_and(|trial| trial.is_bottleneck),
        is_complete,
        trials,
    })
}

/// Sends `rate` requests per second to `url` for all windows. Returns the measurement, and the figures of
/// each window.
async fn measure(
    args: &RunArgs,
    rate: f64,
    url: &str,
    runner: &Runner,
    display: &mut Display,
    stop: &mut StopSignal<'_>,
) -> Result<(Measurement, Vec<Tally>)> {
    let window = args.window.max(Duration::from_secs_f64((MIN_REQUESTS / rate).ceil()));
    // A workload has whole seconds, so the window is rounded up.
    let window = Duration::from_secs(window.as_secs_f64().ceil() as u64);
    let workload = Workload::constant(rate, window * WINDOWS);
    let LoadArgs { arrivals, seed, .. } = args.load;
    let load = LoadPattern::Open(Schedule { workload, arrivals, seed, warmup: SETTLE });
    let info = RunInfo {
        title: format!("{rate:.2}/s to {url}"),
        length: SETTLE + window * WINDOWS,
        objective: args.objective,
    };
    let mut recording = WindowRecording::new(args.objective, window, WINDOWS);
    let measurement = runner.measure(load, SETTLE, &info, &mut recording, display, stop).await?;
    Ok((measurement, recording.windows))
}

impl RateTrial {
    /// Checks all conditions in each window of a load of `rate` requests per second.
    fn new(args: &RunArgs, rate: f64, windows: &[Tally]) -> Self {
        let check = |tally: &Tally| {
            let summary = tally.summary(None);
            let check =
                |condition: &Condition| condition.check(&summary, |quantile| tally.latency_of_offered(quantile));
            args.slo.iter().map(check).collect()
        };
        let is_bottleneck = windows.iter().any(|tally| tally.send_delays().is_bottleneck);
        let windows: Vec<Vec<ConditionResult>> = windows.iter().map(check).collect();
        let held = !is_bottleneck && windows.iter().flatten().all(|result| result.held);
        Self { requests_per_second: rate, windows, held, is_bottleneck }
    }
}
