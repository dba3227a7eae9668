//! PURE: what there is to know of a recorded history, and of the plant that it is replayed on: each figure with where it
//! comes from.

use super::archive::History;
use crate::simulate::flags::{Defaults, Flags};
use anyhow::{Result, anyhow};
use humantime::format_duration;
use serde::Serialize;
use service::wire::metric;
use std::fmt;
use std::time::Duration;

/// Where nothing was recorded: what this project's replicas take.
const STARTUP: Duration = Duration::from_secs(3);
const VARIATION: f64 = 0.2;
const SLOTS: u32 = 1;

/// Where a figure comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// By a flag.
    Given,
    /// By Prometheus.
    Recorded,
    /// By nobody.
    Assumed,
}

/// One, and where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figure<T> {
    /// The figure.
    pub value: T,
    /// Its source.
    pub source: Source,
}

impl<T> Figure<T> {
    fn of(given: Option<T>, recorded: Option<T>) -> Option<Self> {
        let given = given.map(|value| Self { value, source: Source::Given });
        given.or(recorded.map(|value| Self { value, source: Source::Recorded }))
    }

    fn or_assumed(figure: Option<Self>, value: T) -> Self {
        figure.unwrap_or(Self { value, source: Source::Assumed })
    }
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The period's beginning, UTC.
    pub from: String,
    /// And its end.
    pub until: String,
    /// Arrivals are known by steps of this length.
    pub step_seconds: u64,
    /// Requests that arrived, refused ones included.
    pub requests: f64,
    /// Requests per second in the busiest step.
    pub highest_per_second: f64,
    /// How many dispatchers there were, one after the other or at once.
    pub dispatchers: usize,
    /// How often one of them started again.
    pub restarts: usize,
    /// Share of the time of which there are no figures; it counts as time in which nothing arrived.
    pub unknown: f64,
    /// Mean time of a request in a replica; nothing if it is drawn from a file.
    pub service_seconds: Option<Figure<f64>>,
    /// Its standard deviation ÷ mean; likewise.
    pub service_variation: Option<Figure<f64>>,
    /// Requests that a replica takes at once.
    pub slots: Figure<u32>,
    /// Asked for → ready.
    pub startup_seconds: Figure<f64>,
    /// What else there is to say, in words.
    pub remarks: Vec<String>,
}

impl Summary {
    /// Flags go before what was recorded, and that before what is assumed.
    ///
    /// # Errors
    /// When nothing tells the service time.
    pub fn of(history: &History, flags: &Flags) -> Result<Self> {
        let period = &history.period;
        let service = history.answers.as_ref().ok().map(|answers| &answers.service);
        let mean = service.and_then(|service| service.mean()).filter(|mean| *mean > 0.0);
        let given = flags.service.map(|service| service.as_secs_f64());
        let mean = Figure::of(given, mean).filter(|_| flags.service_times.is_none());
        if mean.is_none() && flags.service_times.is_none() {
            return match &history.answers {
                Ok(_) => {
                    Err(anyhow!("no {} was recorded; say how long a request takes by --service", metric::REPLICA_WORK))
                }
                Err(why) => Err(anyhow!("{why}; say how long a request takes by --service")),
            };
        }
        let variation = service.and_then(|service| service.variation());
        let variation = Figure::or_assumed(Figure::of(flags.service_variation, variation), VARIATION);
        let startup = Figure::of(flags.startup, history.startup);
        let startup = Figure::or_assumed(startup, STARTUP);
        Ok(Self {
            from: period.shown(0).to_string(),
            until: period.shown(period.steps).to_string(),
            step_seconds: period.step,
            requests: history.load.total(),
            highest_per_second: history.load.highest(),
            dispatchers: history.dispatchers,
            restarts: history.restarts,
            unknown: history.load.unknown(),
            service_seconds: mean,
            service_variation: mean.map(|_| variation),
            slots: Figure::or_assumed(Figure::of(flags.slots, history.slots), SLOTS),
            startup_seconds: Figure { value: startup.value.as_secs_f64(), source: startup.source },
            remarks: remarks(history, flags),
        })
    }

    /// Of the plant.
    pub fn defaults(&self) -> Defaults {
        Defaults {
            startup: Duration::from_secs_f64(self.startup_seconds.value),
            // Without one they are drawn from a file.
            service: Duration::from_secs_f64(self.service_seconds.map_or(0.0, |service| service.value)),
            service_variation: self.service_variation.map_or(0.0, |variation| variation.value),
            slots: self.slots.value,
        }
    }

    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let Self { step_seconds, requests, dispatchers, restarts, startup_seconds, slots, .. } = self;
        let seconds = |figure: &Figure<f64>| format_duration(Duration::from_millis((figure.value * 1e3) as u64));
        let service = match (&self.service_seconds, &self.service_variation) {
            (Some(mean), Some(variation)) => format!(
                "{:.1} ms ({}), variation {:.2} ({})",
                1e3 * mean.value,
                mean.source,
                variation.value,
                variation.source
            ),
            _ => "drawn from --service-times (given)".into(),
        };
        let mut lines = vec![
            format!("requests  {requests:.0}, at most {:.1}/s in a step of {step_seconds} s", self.highest_per_second),
            format!(
                "figures   {dispatchers} dispatchers, {restarts} restarts; none for {:.1} % of the time, which counts as time \
                 without requests",
                100.0 * self.unknown
            ),
            format!("service   {service}"),
            format!("slots     {} ({})", slots.value, slots.source),
            format!("start-up  {} ({})", seconds(startup_seconds), startup_seconds.source),
        ];
        lines.extend(self.remarks.iter().map(|remark| format!("note      {remark}")));
        lines
    }
}

fn remarks(history: &History, flags: &Flags) -> Vec<String> {
    let mut remarks = Vec::new();
    let objective = flags.objective.as_secs_f64();
    let shown = format_duration(flags.objective);
    match &history.answers {
        Err(unbelievable) => remarks.push(format!("what was recorded of answers is not believed: {unbelievable}")),
        Ok(answers) => {
            let bounds: Vec<f64> = answers.latency.buckets.iter().map(|bucket| bucket.0).collect();
            let above = bounds.iter().position(|&bound| bound >= objective);
            match above.map(|index| (index.checked_sub(1).map_or(0.0, |below| bounds[below]), bounds[index])) {
                None => remarks.push(format!("no {} was recorded", metric::REQUEST_DURATION)),
                Some((lower, f64::INFINITY)) => remarks.push(format!(
                    "what was recorded tells latencies up to {lower} s apart, but not what was answered within {shown}"
                )),
                Some((lower, upper)) if upper != objective => remarks.push(format!(
                    "what was recorded tells {lower} s and {upper} s apart; how much was answered within {shown} is \
                     interpolated"
                )),
                Some(_) => {}
            }
        }
    }
    let peak = history.replicas.values().map(|replicas| replicas.ready).fold(0.0, f64::max);
    if peak > f64::from(flags.max) {
        remarks.push(format!("up to {peak} replicas were recorded; the laws may have {} (--max)", flags.max));
    }
    remarks
}

impl fmt::Display for Source {
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
    use crate::backtest::account::{Account, Step};
    use crate::backtest::answers::Answers;
    use crate::backtest::load::Load;
    use crate::backtest::period::Period;
    use crate::backtest::record::Replicas;
    use clap::Parser;
    use law::histogram::Histogram;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        flags: Flags,
    }

    fn history() -> History {
        let period = Period { start: 1_800_000_000, step: 15, steps: 4 };
        let account = Account { steps: vec![Step { from: 0, to: 3, arrivals: 90.0 }], ..Account::default() };
        // Half of them take 0.05 s, half 0.15 s: mean 0.1 s, deviation 0.05 s.
        let service = Histogram { buckets: vec![(0.1, 45.0), (0.2, 90.0), (f64::INFINITY, 90.0)], sum: 9.0 };
        History {
            period,
            load: Load::of([&account], &period).expect("slow"),
            shed: 0.0,
            dispatchers: 2,
            restarts: 1,
            answers: Ok(Answers { latency: service.clone(), service, outcomes: None }),
            replicas: [(0, Replicas { desired: 9.0, ready: 8.0 })].into(),
            slots: Some(4),
            startup: Some(Duration::from_millis(2500)),
            patience: 20,
        }
    }

    fn summary(history: &History, flags: &[&str]) -> Result<Summary, String> {
        let cli = Cli::try_parse_from(["backtest"].iter().chain(flags)).expect("parses");
        Summary::of(history, &cli.flags).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_go_before_what_was_recorded_and_that_before_what_is_assumed() {
        let told = |history: &History, flags: &[&str]| {
            let summary = summary(history, flags).expect("good");
            summary.lines()[2..5].iter().map(|line| line[10..].to_owned()).collect::<Vec<_>>()
        };
        let blank = || History { slots: None, startup: None, answers: Ok(Answers::default()), ..history() };
        assert_eq!(
            told(&history(), &[]),
            ["100.0 ms (recorded), variation 0.50 (recorded)", "4 (recorded)", "2s 500ms (recorded)"]
        );
        assert_eq!(
            told(&history(), &["--service=70ms", "--service-variation=0", "--slots=2", "--startup=20s"]),
            ["70.0 ms (given), variation 0.00 (given)", "2 (given)", "20s (given)"]
        );
        assert_eq!(
            told(&blank(), &["--service=70ms"]),
            ["70.0 ms (given), variation 0.20 (assumed)", "1 (assumed)", "3s (assumed)"]
        );
        assert_eq!(told(&blank(), &["--service-times=file"])[0], "drawn from --service-times (given)");
        let error = summary(&blank(), &[]).expect_err("nobody knows");
        assert!(error.contains(metric::REPLICA_WORK) && error.contains("--service"), "{error}");
    }

    #[test]
    fn what_is_not_as_it_looks_is_remarked() {
        let remarks = |flags: &[&str]| summary(&history(), flags).expect("good").remarks;
        assert_eq!(remarks(&["--max=8", "--objective=200ms"]), Vec::<String>::new());
        assert_eq!(remarks(&["--objective=200ms"]), ["up to 8 replicas were recorded; the laws may have 6 (--max)"]);
        assert!(remarks(&["--max=8", "--objective=150ms"])[0].contains("0.1 s and 0.2 s apart"));
        assert!(remarks(&["--max=8", "--objective=50ms"])[0].contains("0 s and 0.1 s apart"));
        assert!(remarks(&["--max=8"])[0].contains("up to 0.2 s apart, but not what was answered within 500ms"));
        let blank = History { answers: Ok(Answers::default()), ..history() };
        let blank = summary(&blank, &["--max=8", "--service=1s"]).expect("good");
        assert_eq!(blank.remarks, ["no dispatcher_request_duration_seconds was recorded"]);
        assert_eq!(
            blank.lines()[..2],
            [
                "requests  90, at most 2.0/s in a step of 15 s",
                "figures   2 dispatchers, 1 restarts; none for 25.0 % of the time, which counts as time without requests"
            ]
        );
    }
}
