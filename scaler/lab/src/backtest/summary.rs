//! A summary of a recorded history and of the plant on which it is replayed. Each parameter of the plant has its
//! origin. Pure.

use super::history::History;
use crate::simulate::flags::{Defaults, Flags};
use anyhow::{Result, anyhow};
use humantime::format_duration;
use serde::Serialize;
use service::wire::metric;
use std::fmt;
use std::time::Duration;

/// The start-up time of a replica if it is neither given nor recorded. It is that of this project's replicas.
const ASSUMED_STARTUP: Duration = Duration::from_secs(3);

/// The standard deviation ÷ mean of the service times if it is neither given nor recorded. It is that of this project's
/// replicas.
const ASSUMED_VARIATION: f64 = 0.2;

/// The number of slots of a replica if it is neither given nor recorded.
const ASSUMED_SLOTS: u32 = 1;

/// The origin of a parameter of the plant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ParameterOrigin {
    /// A flag gives the value.
    Given,
    /// Prometheus has recorded the value.
    Recorded,
    /// The value is neither given nor recorded.
    Assumed,
}

/// A parameter of the plant, with its origin.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Parameter<T> {
    /// The value of the parameter.
    pub value: T,
    /// The origin of the value.
    #[serde(rename = "source")]
    pub origin: ParameterOrigin,
}

impl<T> Parameter<T> {
    fn of(given: Option<T>, recorded: Option<T>) -> Option<Self> {
        let given = given.map(|value| Self { value, origin: ParameterOrigin::Given });
        given.or(recorded.map(|value| Self { value, origin: ParameterOrigin::Recorded }))
    }

    fn or_assumed(parameter: Option<Self>, value: T) -> Self {
        parameter.unwrap_or(Self { value, origin: ParameterOrigin::Assumed })
    }
}

/// A summary of a recorded history and of the plant on which it is replayed. The field names are part of the JSON that
/// `--json` writes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HistorySummary {
    /// The beginning of the period, in UTC, such as `2027-01-15T08:00:00Z`.
    pub from: String,
    /// The end of the period, in UTC, such as `2027-01-15T08:00:00Z`.
    pub until: String,
    /// The length of the steps for which arrivals are known, in seconds.
    pub step_seconds: u64,
    /// The number of requests that arrived, refused requests included.
    pub requests: f64,
    /// The requests per second in the step with the highest load.
    pub highest_per_second: f64,
    /// The number of different dispatchers in the period. They need not have run at the same time.
    pub dispatchers: usize,
    /// The number of restarts of all dispatchers.
    pub restarts: usize,
    /// The share of the period without figures, 0 to 1. It is simulated as a time without requests.
    pub unknown: f64,
    /// The mean service time, in seconds; `None` if service times are drawn from a file.
    pub service_seconds: Option<Parameter<f64>>,
    /// The standard deviation ÷ mean of the service times; `None` if service times are drawn from a file.
    pub service_variation: Option<Parameter<f64>>,
    /// The number of requests that a replica holds at once.
    pub slots: Parameter<u32>,
    /// The start-up time of a replica, in seconds.
    pub startup_seconds: Parameter<f64>,
    /// Sentences about recorded figures that are missing, implausible or interpolated, and about a too low `--max`.
    #[serde(rename = "remarks")]
    pub notes: Vec<String>,
}

impl HistorySummary {
    /// The summary of a history. A parameter has the value of its flag, or else the recorded value, or else an assumed
    /// value.
    ///
    /// # Errors
    /// If the service time is neither given nor recorded.
    pub fn of(history: &History, flags: &Flags) -> Result<Self> {
        let period = &history.period;
        let service_seconds = service_seconds(history, flags)?;
        let recorded = history.answers.as_ref().ok().and_then(|answers| answers.work.variation());
        let variation = Parameter::of(flags.service_variation, recorded);
        let variation = Parameter::or_assumed(variation, ASSUMED_VARIATION);
        let startup = Parameter::or_assumed(Parameter::of(flags.startup, history.startup), ASSUMED_STARTUP);
        Ok(Self {
            from: period.timestamp(0).to_string(),
            until: period.timestamp(period.steps).to_string(),
            step_seconds: period.step,
            requests: history.load.total(),
            highest_per_second: history.load.highest(),
            dispatchers: history.dispatchers,
            restarts: history.restarts,
            unknown: history.load.unknown(),
            service_seconds,
            service_variation: service_seconds.map(|_| variation),
            slots: Parameter::or_assumed(Parameter::of(flags.slots, history.slots), ASSUMED_SLOTS),
            startup_seconds: Parameter { value: startup.value.as_secs_f64(), origin: startup.origin },
            notes: notes(history, flags),
        })
    }

    /// The properties of the plant where no flag gives them.
    pub fn defaults(&self) -> Defaults {
        Defaults {
            startup: Duration::from_secs_f64(self.startup_seconds.value),
            // The 0 has no effect: if there is no mean, service times are drawn from a file.
            service: Duration::from_secs_f64(self.service_seconds.map_or(0.0, |service| service.value)),
            service_variation: self.service_variation.map_or(0.0, |variation| variation.value),
            slots: self.slots.value,
        }
    }

    /// The summary as lines of text. They are part of the report and of the JSON that `--json` writes.
    pub fn lines(&self) -> Vec<String> {
        let Self { step_seconds, requests, dispatchers, restarts, startup_seconds, slots, .. } = self;
        let startup = format_duration(Duration::from_millis((startup_seconds.value * 1e3) as u64));
        let service = match (&self.service_seconds, &self.service_variation) {
            (Some(mean), Some(variation)) => format!(
                "{:.1} ms ({}), variation {:.2} ({})",
                1e3 * mean.value,
                mean.origin,
                variation.value,
                variation.origin
            ),
            _ => "drawn from --service-times (given)".into(),
        };
        let mut lines = vec![
            format!("requests  {requests:.0}, at most {:.1}/s in a step of {step_seconds} s", self.highest_per_second),
            format!(
                "figures   {dispatchers} dispatchers, {restarts} restarts; none for {:.1} % of the time, which counts \
                 as time without requests",
                100.0 * self.unknown
            ),
            format!("service   {service}"),
            format!("slots     {} ({})", slots.value, slots.origin),
            format!("start-up  {startup} ({})", startup_seconds.origin),
        ];
        lines.extend(self.notes.iter().map(|note| format!("note      {note}")));
        lines
    }
}

/// The mean service time in seconds: of the flag, or else of the recorded work. `None` if service times are drawn from
/// a file.
fn service_seconds(history: &History, flags: &Flags) -> Result<Option<Parameter<f64>>> {
    if flags.service_times.is_some() {
        return Ok(None);
    }
    let given = flags.service.map(|service| service.as_secs_f64());
    let recorded = history.answers.as_ref().ok().and_then(|answers| answers.work.mean());
    let mean = Parameter::of(given, recorded.filter(|mean| *mean > 0.0));
    match (mean, &history.answers) {
        (Some(mean), _) => Ok(Some(mean)),
        (None, Ok(_)) => Err(anyhow!(
            "no {} was recorded, so the service time is unknown; give its mean with --service",
            metric::REPLICA_WORK
        )),
        (None, Err(implausible)) => Err(anyhow!(
            "the recorded answers cannot be true, so the service time is unknown; give its mean with --service: \
             {implausible}"
        )),
    }
}

/// The sentences in [`HistorySummary::notes`].
fn notes(history: &History, flags: &Flags) -> Vec<String> {
    let answers = match &history.answers {
        Err(implausible) => {
            Some(format!("the recorded answers are not used, since they cannot be true: {implausible}"))
        }
        Ok(answers) => {
            let bounds: Vec<f64> = answers.latency.buckets.iter().map(|bucket| bucket.0).collect();
            resolution_note(&bounds, flags.objective)
        }
    };
    let peak = history.replicas.values().map(|replicas| replicas.ready).fold(0.0, f64::max);
    let replicas = (peak > f64::from(flags.max))
        .then(|| format!("up to {peak} replicas were recorded; the laws may have {} (--max)", flags.max));
    answers.into_iter().chain(replicas).collect()
}

/// A note if no bucket of the recorded latencies ends at the objective. `bounds` are the upper bounds of the buckets,
/// in seconds.
fn resolution_note(bounds: &[f64], objective: Duration) -> Option<String> {
    let within = format_duration(objective);
    let Some(index) = bounds.iter().position(|&bound| bound >= objective.as_secs_f64()) else {
        return Some(format!("no {} was recorded", metric::REQUEST_DURATION));
    };
    let lower = if index == 0 { 0.0 } else { bounds[index - 1] };
    match bounds[index] {
        f64::INFINITY => Some(format!(
            "the recorded buckets tell latencies up to {lower} s apart, but not what share was answered within {within}"
        )),
        upper if upper != objective.as_secs_f64() => Some(format!(
            "the recorded buckets tell {lower} s and {upper} s apart; the share that was answered within {within} is \
             interpolated"
        )),
        _ => None,
    }
}

impl fmt::Display for ParameterOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Given => "given",
            Self::Recorded => "recorded",
            Self::Assumed => "assumed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backtest::answers::RecordedAnswers;
    use crate::backtest::counter_history::{ArrivalInterval, CounterHistory};
    use crate::backtest::load::RecordedLoad;
    use crate::backtest::period::Period;
    use crate::backtest::samples::ReplicaCounts;
    use clap::Parser;
    use law::histogram::Histogram;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        flags: Flags,
    }

    fn history() -> History {
        let period = Period { start: 1_800_000_000, step: 15, steps: 4 };
        let counters = CounterHistory {
            arrivals: vec![ArrivalInterval { from: 0, to: 3, arrivals: 90.0 }],
            ..CounterHistory::default()
        };
        // Half of the requests count at 0.05 s and half at 0.15 s. So the mean is 0.1 s, and the standard deviation is
        // 0.05 s.
        let work = Histogram { buckets: vec![(0.1, 45.0), (0.2, 90.0), (f64::INFINITY, 90.0)], sum: 9.0 };
        History {
            period,
            load: RecordedLoad::of([&counters], &period).expect("slow"),
            shed: 0.0,
            dispatchers: 2,
            restarts: 1,
            answers: Ok(RecordedAnswers { latency: work.clone(), work, unanswered: None }),
            replicas: [(0, ReplicaCounts { desired: 9.0, ready: 8.0 })].into(),
            slots: Some(4),
            startup: Some(Duration::from_millis(2500)),
            max_gap: 20,
        }
    }

    fn summary(history: &History, flags: &[&str]) -> Result<HistorySummary, String> {
        let cli = Cli::try_parse_from(["backtest"].iter().chain(flags)).expect("parses");
        HistorySummary::of(history, &cli.flags).map_err(|error| error.to_string())
    }

    #[test]
    fn a_flag_overrides_a_recorded_value_and_that_an_assumed_value() {
        let lines = |history: &History, flags: &[&str]| {
            let summary = summary(history, flags).expect("good");
            summary.lines()[2..5].iter().map(|line| line[10..].to_owned()).collect::<Vec<_>>()
        };
        let blank = || History { slots: None, startup: None, answers: Ok(RecordedAnswers::default()), ..history() };
        assert_eq!(
            lines(&history(), &[]),
            ["100.0 ms (recorded), variation 0.50 (recorded)", "4 (recorded)", "2s 500ms (recorded)"]
        );
        assert_eq!(
            lines(&history(), &["--service=70ms", "--service-variation=0", "--slots=2", "--startup=20s"]),
            ["70.0 ms (given), variation 0.00 (given)", "2 (given)", "20s (given)"]
        );
        assert_eq!(
            lines(&blank(), &["--service=70ms"]),
            ["70.0 ms (given), variation 0.20 (assumed)", "1 (assumed)", "3s (assumed)"]
        );
        assert_eq!(lines(&blank(), &["--service-times=file"])[0], "drawn from --service-times (given)");
        let error = summary(&blank(), &[]).expect_err("nothing gives the service time");
        assert!(error.contains(metric::REPLICA_WORK) && error.contains("--service"), "{error}");
    }

    #[test]
    fn notes_say_which_recorded_figures_are_missing_or_interpolated() {
        let notes = |flags: &[&str]| summary(&history(), flags).expect("good").notes;
        assert_eq!(notes(&["--max=8", "--objective=200ms"]), Vec::<String>::new());
        assert_eq!(notes(&["--objective=200ms"]), ["up to 8 replicas were recorded; the laws may have 6 (--max)"]);
        assert!(notes(&["--max=8", "--objective=150ms"])[0].contains("0.1 s and 0.2 s apart"));
        assert!(notes(&["--max=8", "--objective=50ms"])[0].contains("0 s and 0.1 s apart"));
        assert!(notes(&["--max=8"])[0].contains("up to 0.2 s apart, but not what share was answered within 500ms"));
        let blank = History { answers: Ok(RecordedAnswers::default()), ..history() };
        let blank = summary(&blank, &["--max=8", "--service=1s"]).expect("good");
        assert_eq!(blank.notes, ["no dispatcher_request_duration_seconds was recorded"]);
        assert_eq!(
            blank.lines()[..2],
            [
                "requests  90, at most 2.0/s in a step of 15 s",
                "figures   2 dispatchers, 1 restarts; none for 25.0 % of the time, which counts as time without \
                 requests"
            ]
        );
    }
}
