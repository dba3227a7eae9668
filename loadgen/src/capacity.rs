//! `loadgen run --find-capacity`: measures one steady rate after another, to find the highest rate at which an
//! objective holds, and the interval of that rate. The module `search` chooses the rates.

use crate::condition::{Condition, ConditionResult, REQUESTS_BEYOND};
use crate::config::RunArgs;
use crate::display::{Display, RunInfo};
use crate::figure::CONFIDENCE;
use crate::interval::{self, Interval};
use crate::measure::{Measurement, Runner, StopSignal};
use crate::recording::WindowRecording;
use crate::report::RunSetup;
use crate::schedule::Schedule;
use crate::search::{PRECISION, Search, SearchStep};
use crate::send::LoadPattern;
use crate::tally::Tally;
use anyhow::{Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
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

/// Least mean number of requests in a window, also if `--slo` needs fewer, as far as `--max-window` permits it.
const MIN_REQUESTS: f64 = 20.0;

/// How often a rate is measured before it counts as failed, if some of its windows held.
const ATTEMPTS: usize = 2;

/// Number of searches. All but the first begin near the capacity that the first has found.
const SEARCHES: usize = 3;

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
    /// The 95 % interval of the capacity, from repeated searches. Absent without them.
    #[serde(default)]
    pub interval: Option<Interval>,
    /// The capacity that each search found: the geometric mean of the rates at which the objective held and failed.
    #[serde(default)]
    pub estimates: Vec<f64>,
    /// Number of requests that a window needs for the highest quantile of `slo`: ten beyond the quantile.
    #[serde(default)]
    pub requests_needed: f64,
    /// Whether the search ended at `--max-duration`. The figures are what was known then.
    #[serde(default)]
    pub is_limited_by_time: bool,
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
    /// Length of each window, in seconds.
    #[serde(default)]
    pub window_seconds: f64,
    /// The results of each window, one for each condition.
    pub windows: Vec<Vec<ConditionResult>>,
    /// Whether every condition held in every window, and the requests were sent on time.
    pub held: bool,
    /// Whether loadgen could not send on time. The rate counts as failed then.
    pub is_bottleneck: bool,
}

/// Searches for the highest rate at which all conditions of `--slo` hold, and repeats the search to know how far the result
/// can be trusted. Returns early, with an incomplete result, when `stop` resolves or `--max-duration` is over.
///
/// # Errors
/// If `--rate` is out of range, `--slo` has a condition that does not fit, `--max-window` is shorter than `--window`,
/// `--max-duration` is too short for a single rate, or the system cannot provide a thread or a timer.
pub async fn find(
    args: &RunArgs,
    mut setup: RunSetup,
    runner: &Runner,
    display: &mut Display,
    stop: &mut StopSignal<'_>,
) -> Result<CapacityReport> {
    let first = args.load.rate.unwrap_or(FIRST);
    check(args, first)?;
    setup.load = format!("search from {first}/s");
    let start = Instant::now();
    let mut trials = Trials { args, runner, display, stop, start, made: Vec::new(), end: None, seconds: 0.0 };
    let search = trials.search(Search::new(first, LOWEST, HIGHEST)).await?;
    let is_limited_by_generator =
        trials.made.iter().rfind(|trial| !trial.held).is_some_and(|trial| trial.is_bottleneck);
    let mut estimates: Vec<f64> = search.found().into_iter().collect();
    if let (Some(found), false) = (search.found(), is_limited_by_generator) {
        while estimates.len() < SEARCHES && trials.end.is_none() {
            let Some(again) = trials.search(Search::near(found, LOWEST, HIGHEST)).await?.found() else { break };
            estimates.push(again);
        }
    }
    let Trials { made, end, seconds, .. } = trials;
    setup.length_seconds = seconds;
    Ok(CapacityReport {
        setup,
        slo: args.slo.iter().map(ToString::to_string).collect(),
        requests_per_second: search.held,
        fails_at: search.failed,
        interval: interval_of(&estimates),
        estimates,
        requests_needed: requests_needed(&args.slo),
        is_limited_by_time: end == Some(SearchEnd::TimeLimit),
        is_limited_by_generator,
        is_complete: end != Some(SearchEnd::Stopped),
        trials: made,
    })
}

/// Checks the flags of a search that begins at the rate `first`.
fn check(args: &RunArgs, first: f64) -> Result<()> {
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
    let RunArgs { window, max_window, max_duration, .. } = args;
    ensure!(
        window <= max_window,
        "--window ({window:?}) must not be longer than --max-window ({max_window:?}); lower it, or raise --max-window"
    );
    let length = trial_length(window_length(args, first));
    ensure!(
        length <= *max_duration,
        "--max-duration ({max_duration:?}) is shorter than the {length:?} that the first rate takes; raise it, or lower \
         --window or --max-window"
    );
    Ok(())
}

/// The reason why a search ended before its result was known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SearchEnd {
    /// The user stopped it.
    Stopped,
    /// `--max-duration` leaves no time for another rate.
    TimeLimit,
}

/// The rates that were tried, and what is needed to try another.
struct Trials<'a, 'stop> {
    args: &'a RunArgs,
    runner: &'a Runner,
    display: &'a mut Display,
    stop: &'a mut StopSignal<'stop>,
    start: Instant,
    made: Vec<RateTrial>,
    end: Option<SearchEnd>,
    /// Length of all trials together, in seconds.
    seconds: f64,
}

impl Trials<'_, '_> {
    /// Tries rates until the search is finished, or [`Self::end`] has a reason to end.
    async fn search(&mut self, mut search: Search) -> Result<Search> {
        while let SearchStep::Try(rate) = search.step() {
            let Some(held) = self.holds(rate).await? else { break };
            search = search.record(rate, held);
        }
        Ok(search)
    }

    /// Whether the objective holds at `rate`. A rate of which some windows held is measured again before it counts as
    /// failed, since one bad window may be due to chance or to a busy machine. `None` if the search must end.
    async fn holds(&mut self, rate: f64) -> Result<Option<bool>> {
        for _ in 0..ATTEMPTS {
            let window = window_length(self.args, rate);
            if self.start.elapsed() + trial_length(window) > self.args.max_duration {
                self.end = Some(SearchEnd::TimeLimit);
                return Ok(None);
            }
            // The same arrivals would bring back the same bad window.
            let seed = self.args.load.seed.wrapping_add(self.made.len() as u64);
            let (measurement, windows) =
                measure(self.args, rate, window, seed, self.runner, self.display, self.stop).await?;
            self.seconds += measurement.length.as_secs_f64();
            if !measurement.is_complete {
                self.end = Some(SearchEnd::Stopped);
                return Ok(None);
            }
            let trial = RateTrial::new(self.args, rate, &windows, window);
            let (held, may_be_chance) = (trial.held, trial.may_have_failed_by_chance());
            self.made.push(trial);
            if held || !may_be_chance {
                return Ok(Some(held));
            }
        }
        Ok(Some(false))
    }
}

/// The number of requests that a window needs for all conditions.
fn requests_needed(slo: &[Condition]) -> f64 {
    slo.iter().map(Condition::requests_needed).fold(MIN_REQUESTS, f64::max)
}

/// The length of a window at `rate`, in whole seconds, as a workload has.
fn window_length(args: &RunArgs, rate: f64) -> Duration {
    let needed = requests_needed(&args.slo) / rate;
    let seconds = needed.max(args.window.as_secs_f64()).min(args.max_window.as_secs_f64());
    Duration::from_secs(seconds.ceil() as u64)
}

/// The length of the windows of a rate and of the time before them.
fn trial_length(window: Duration) -> Duration {
    SETTLE + window * WINDOWS
}

/// The 95 % interval of the capacity that each search found. `None` for fewer than two searches.
fn interval_of(estimates: &[f64]) -> Option<Interval> {
    // The precision of a search is a factor, so the errors of the logarithms are of one size. The least variance is that of
    // rounding to steps of the precision.
    let logarithms: Vec<f64> = estimates.iter().map(|estimate| estimate.ln()).collect();
    let least_variance = PRECISION.ln().powi(2) / 12.0 / estimates.len().max(1) as f64;
    let interval = interval::of_mean(&logarithms, least_variance, CONFIDENCE)?;
    Some(Interval { low: interval.low.exp(), high: interval.high.exp() })
}

/// Sends `rate` requests per second for all windows, with the arrivals of `seed`. Returns the measurement, and the
/// figures of each window.
async fn measure(
    args: &RunArgs,
    rate: f64,
    window: Duration,
    seed: u64,
    runner: &Runner,
    display: &mut Display,
    stop: &mut StopSignal<'_>,
) -> Result<(Measurement, Vec<Tally>)> {
    let workload = Workload::constant(rate, window * WINDOWS);
    let load = LoadPattern::Open(Schedule { workload, arrivals: args.load.arrivals, seed, warmup: SETTLE });
    let title = format!("{rate:.2}/s to {}", args.target.url);
    let info = RunInfo { title, length: trial_length(window), objective: args.objective };
    let mut recording = WindowRecording::new(args.objective, window, WINDOWS);
    let measurement = runner.measure(load, SETTLE, &info, &mut recording, display, stop).await?;
    Ok((measurement, recording.windows))
}

impl RateTrial {
    /// Checks all conditions in each window, of length `window`, at `rate` requests per second.
    fn new(args: &RunArgs, rate: f64, windows: &[Tally], window: Duration) -> Self {
        let check = |tally: &Tally| {
            let summary = tally.summary(None);
            let check =
                |condition: &Condition| condition.check(&summary, |quantile| tally.latency_of_offered(quantile));
            args.slo.iter().map(check).collect()
        };
        let is_bottleneck = windows.iter().any(|tally| tally.send_delays().is_bottleneck);
        let windows: Vec<Vec<ConditionResult>> = windows.iter().map(check).collect();
        let held = !is_bottleneck && windows.iter().flatten().all(|result| result.held);
        Self { requests_per_second: rate, window_seconds: window.as_secs_f64(), windows, held, is_bottleneck }
    }

    /// Whether the objective failed, but held in some windows. A rate that is too high fails in all of them.
    fn may_have_failed_by_chance(&self) -> bool {
        !self.held && self.windows.iter().any(|window| window.iter().all(|result| result.held))
    }
}

impl CapacityReport {
    /// What limits the result, a line for each: windows with too few requests, the time limit, this machine, and a stop.
    pub fn limits(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let requests = |trial: &RateTrial| trial.requests_per_second * trial.window_seconds;
        let bound = self.requests_per_second.or(self.fails_at);
        let decisive = self.trials.iter().find(|trial| Some(trial.requests_per_second) == bound);
        if let Some(trial) = decisive.filter(|trial| requests(trial) < self.requests_needed) {
            let (rate, seconds, count) = (trial.requests_per_second, trial.window_seconds, requests(trial));
            let quantile = 100.0 * (1.0 - REQUESTS_BEYOND / count.max(REQUESTS_BEYOND));
            lines.push(format!(
                "warning     at {rate:.2}/s, a window of {seconds:.0} s has only {count:.0} requests, which is enough for the \
                 quantile {quantile:.1} %; {} needs {:.0}; raise --max-window",
                self.slo.join(", "),
                self.requests_needed
            ));
        }
        if self.is_limited_by_generator {
            let reason =
                "this machine could not send on time at the rate that failed; the server may be capable of more";
            lines.push(format!("INVALID     {reason}"));
        }
        if self.is_limited_by_time {
            lines.push("PARTIAL     the search ended at --max-duration before its end".into());
        }
        if !self.is_complete {
            lines.push("PARTIAL     the search was stopped before its end".into());
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Cli, Command};
    use crate::summary::RunSummary;

    fn args(flags: &[&str]) -> RunArgs {
        let common = ["loadgen", "run", "--find-capacity"];
        let cli = Cli::read(common.iter().chain(flags).map(Into::into)).expect("good flags");
        let Command::Run(args) = cli.command else { panic!("another command") };
        *args
    }

    #[test]
    fn a_window_has_the_requests_that_the_slo_needs_up_to_its_greatest_length() {
        for (flags, rate, seconds) in [
            (&["--slo=p95<1s"][..], 100.0, 5),
            (&["--slo=p95<1s"], 20.0, 10),
            (&["--slo=p99<1s"], 20.0, 50),
            (&["--slo=p99<1s"], 4.0, 60),
            (&["--slo=p99<1s", "--max-window=5m"], 4.0, 250),
            (&["--slo=p95<1s", "--slo=errors<1"], 50.0, 20),
            (&["--slo=errors<=0"], 2.0, 10),
            (&["--slo=p95<1s", "--window=90s", "--max-window=90s"], 100.0, 90),
        ] {
            assert_eq!(window_length(&args(flags), rate), Duration::from_secs(seconds), "{flags:?} at {rate}/s");
        }
    }

    #[test]
    fn flags_that_leave_no_time_for_a_rate_are_refused() {
        for (flags, words) in [
            (&["--window=2m"][..], "--window (120s) must not be longer than --max-window (60s)"),
            (&["--max-duration=9s"], "--max-duration (9s) is shorter than the 151s that the first rate takes"),
            (&["--rate=60000"], "--rate (60000) must be between"),
            (&["--slo=goodput>5"], "--slo goodput>5: use a condition"),
        ] {
            let args = args(&[&["--slo=p95<1s"][..], flags].concat());
            let error = check(&args, args.load.rate.unwrap_or(FIRST)).expect_err("refused").to_string();
            assert!(error.contains(words), "{flags:?}: {error}");
        }
    }

    fn trial(held: [bool; 3]) -> RateTrial {
        let result = |held| ConditionResult { condition: "p99<1s".into(), value: None, held };
        RateTrial {
            requests_per_second: 4.0,
            window_seconds: 60.0,
            windows: held.map(|held| vec![result(held)]).to_vec(),
            held: held.iter().all(|held| *held),
            is_bottleneck: false,
        }
    }

    #[test]
    fn only_a_rate_that_held_in_some_windows_may_have_failed_by_chance() {
        for (held, expected) in
            [([true, true, true], false), ([true, false, true], true), ([false, false, false], false)]
        {
            assert_eq!(trial(held).may_have_failed_by_chance(), expected, "{held:?}");
        }
    }

    #[test]
    fn the_interval_of_equal_searches_is_that_of_their_precision() {
        let interval = interval_of(&[100.0; 3]).expect("three searches");
        assert!((98.0..99.0).contains(&interval.low) && (101.0..102.0).contains(&interval.high), "{interval:?}");
        let wider = interval_of(&[90.0, 100.0, 110.0]).expect("three searches");
        assert!(wider.low < 85.0 && wider.high > 115.0, "{wider:?}");
        assert_eq!((interval_of(&[100.0]), interval_of(&[])), (None, None));
    }

    #[test]
    fn the_result_names_what_limits_it() {
        let report = CapacityReport {
            setup: crate::report::tests::report(RunSummary::default()).setup,
            slo: vec!["p99<1s".into()],
            requests_per_second: Some(4.0),
            fails_at: None,
            interval: None,
            estimates: Vec::new(),
            requests_needed: 1000.0,
            is_limited_by_time: true,
            is_limited_by_generator: false,
            is_complete: true,
            trials: vec![trial([true; 3])],
        };
        let limits = report.limits();
        assert_eq!(
            limits,
            [
                "warning     at 4.00/s, a window of 60 s has only 240 requests, which is enough for the quantile 95.8 %; \
                 p99<1s needs 1000; raise --max-window",
                "PARTIAL     the search ended at --max-duration before its end",
            ]
        );
        let enough = CapacityReport { requests_needed: 200.0, is_limited_by_time: false, ..report };
        assert!(enough.limits().is_empty());
    }
}
