//! The figures of a run, and of each of its seconds, computed from its samples. Pure.

use crate::latencies::{Latencies, OfferedPercentiles, Percentiles};
use crate::sample::{RequestOutcome, Sample};
use crate::usage::ReplicaUsage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// The figures of a whole run. A latency is the time from the scheduled send time to the whole answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunSummary {
    /// Requests that were scheduled and have ended.
    pub offered: usize,
    /// Requests that were answered with status 200 and a prediction.
    pub answered: usize,
    /// Requests that ended without a prediction.
    pub failed: usize,
    /// Number of failed requests by error code.
    pub errors: BTreeMap<String, usize>,
    /// Share of right answers among the answers to labelled images, 0 to 1. Absent without such answers.
    pub accuracy: Option<f64>,
    /// Share of all offered requests that were answered within the objective, 0 to 1.
    pub attainment: f64,
    /// Good answers per second of the run. A good answer came within the objective and is not known to be wrong.
    pub goodput_per_second: f64,
    /// Answers that came before the end of the run, per second of the run.
    pub throughput_per_second: f64,
    /// Latency of the answered requests, in milliseconds. Absent if no request was answered.
    pub latency_ms: Option<Percentiles>,
    /// Latency of all offered requests, in milliseconds. A failed request counts as infinitely slow.
    #[serde(default)]
    pub offered_latency_ms: OfferedPercentiles,
    /// Length of all requests' bodies together, in bytes.
    pub sent_bytes: u64,
    /// Length of all answers' bodies together, in bytes.
    pub received_bytes: u64,
    /// Use of replicas. Absent if no metrics have the number of replicas.
    pub usage: Option<ReplicaUsage>,
}

/// The figures of an interval: of the requests whose scheduled send time lies in some consecutive seconds of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IntervalSummary {
    /// First second of the interval, counted from 0 at the start of the run.
    pub second: usize,
    /// Length of the interval, in seconds.
    pub seconds: usize,
    /// Requests that were scheduled in the interval.
    pub offered: usize,
    /// Requests of the interval that were answered within the objective.
    pub within_objective: usize,
    /// Requests of the interval that failed.
    pub failed: usize,
    /// Latency of the answered requests, in milliseconds. Absent if no request was answered.
    pub latency_ms: Option<Percentiles>,
}

/// Converts a share (0 to 1) to per cent, rounded to 9 decimals. Without this rounding, 407 of 500 could be slightly
/// less than 81.4 %, and would breach the condition `attainment>=81.4`.
pub fn percent(share: f64) -> f64 {
    (1e11 * share).round() / 1e9
}

/// The latencies of the answered requests.
pub fn latencies<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Latencies {
    samples.into_iter().filter(|sample| sample.is_answered()).map(|sample| sample.latency).collect()
}

/// Number of good answers, which came within `objective` and are not known to be wrong.
pub fn good(samples: &[Sample], objective: Duration) -> usize {
    samples.iter().filter(|sample| sample.is_good(objective)).count()
}

/// Computes the figures of a run of `length`.
pub fn summarise(samples: &[Sample], objective: Duration, length: Duration, usage: Option<ReplicaUsage>) -> RunSummary {
    let mut errors = BTreeMap::new();
    let (mut labelled, mut right) = (0_usize, 0_usize);
    for sample in samples {
        match &sample.outcome {
            RequestOutcome::Answered { right: known } => {
                labelled += usize::from(known.is_some());
                right += usize::from(*known == Some(true));
            }
            RequestOutcome::Failed { code } => *errors.entry(code.clone().into_owned()).or_insert(0) += 1,
        }
    }
    let failed = errors.values().sum::<usize>();
    let answered = samples.len() - failed;
    let within = samples.iter().filter(|sample| sample.is_within(objective)).count();
    let came_in_time = |sample: &&Sample| sample.is_answered() && sample.scheduled + sample.latency <= length;
    let throughput = samples.iter().filter(came_in_time).count();
    let share = |part: usize, whole: usize| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    let per_second = |count: usize| if length.is_zero() { 0.0 } else { count as f64 / length.as_secs_f64() };
    RunSummary {
        offered: samples.len(),
        answered,
        failed,
        errors,
        accuracy: (labelled > 0).then(|| share(right, labelled)),
        attainment: share(within, samples.len()),
        goodput_per_second: per_second(good(samples, objective)),
        throughput_per_second: per_second(throughput),
        latency_ms: latencies(samples).percentiles(),
        offered_latency_ms: latencies(samples).percentiles_of_offered(samples.len()),
        sent_bytes: samples.iter().map(|sample| u64::from(sample.sent_bytes)).sum(),
        received_bytes: samples.iter().map(|sample| u64::from(sample.received_bytes)).sum(),
        usage,
    }
}

/// Computes the figures of a run in intervals of `step` seconds. The last interval may be shorter. An interval without
/// requests is included.
///
/// # Panics
/// If `step` is zero.
pub fn rows(samples: &[Sample], objective: Duration, length: Duration, step: usize) -> Vec<IntervalSummary> {
    let whole = length.as_secs_f64().ceil() as usize;
    let mut by_row: Vec<Vec<&Sample>> = vec![Vec::new(); whole.div_ceil(step)];
    for sample in samples {
        if let Some(row) = by_row.get_mut(sample.scheduled.as_secs() as usize / step) {
            row.push(sample);
        }
    }
    let row = |(index, samples): (usize, Vec<&Sample>)| {
        let latencies = latencies(samples.iter().copied());
        IntervalSummary {
            second: index * step,
            seconds: step.min(whole - index * step),
            offered: samples.len(),
            within_objective: samples.iter().filter(|sample| sample.is_within(objective)).count(),
            failed: samples.iter().filter(|sample| !sample.is_answered()).count(),
            latency_ms: latencies.percentiles(),
        }
    };
    by_row.into_iter().enumerate().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(scheduled_ms: u64, latency_ms: u64, outcome: RequestOutcome) -> Sample {
        let milliseconds = Duration::from_millis;
        Sample {
            scheduled: milliseconds(scheduled_ms),
            send_delay: Duration::ZERO,
            latency: milliseconds(latency_ms),
            sent_bytes: 1000,
            received_bytes: 10,
            outcome,
        }
    }

    fn run() -> Vec<Sample> {
        let failed = |code: &'static str| RequestOutcome::Failed { code: code.into() };
        vec![
            sample(100, 50, RequestOutcome::Answered { right: Some(true) }),
            sample(200, 60, RequestOutcome::Answered { right: Some(false) }),
            sample(900, 700, RequestOutcome::Answered { right: Some(true) }),
            sample(2100, 1, failed("queue_full")),
            sample(2400, 40, RequestOutcome::Answered { right: None }),
        ]
    }

    #[test]
    fn the_summary_counts_the_requests_of_a_run() {
        let summary = summarise(&run(), Duration::from_millis(500), Duration::from_secs(4), None);
        assert_eq!((summary.offered, summary.answered, summary.failed), (5, 4, 1));
        assert_eq!(summary.errors.get("queue_full"), Some(&1));
        assert_eq!(summary.attainment, 3.0 / 5.0);
        assert_eq!(summary.accuracy, Some(2.0 / 3.0));
        // Two answers are good: the right answer in time, and the answer to an image without a label.
        assert_eq!((summary.goodput_per_second, summary.throughput_per_second), (0.5, 1.0));
        assert_eq!((summary.sent_bytes, summary.received_bytes), (5000, 50));
        assert!(summary.latency_ms.is_some_and(|latency| (latency.max - 700.0).abs() < 1.0));
        assert_eq!(summarise(&[], Duration::ZERO, Duration::ZERO, None), RunSummary::default());
    }

    #[test]
    fn every_second_has_its_row() {
        let objective = Duration::from_millis(500);
        let rows_of = |step| rows(&run(), objective, Duration::from_millis(2500), step);
        let rows = rows_of(1);
        let counts: Vec<_> = rows.iter().map(|row| (row.offered, row.within_objective, row.failed)).collect();
        assert_eq!(counts, [(3, 2, 0), (0, 0, 0), (2, 1, 1)]);
        assert!(rows[1].latency_ms.is_none());
        let wide: Vec<_> = rows_of(2).iter().map(|row| (row.second, row.seconds, row.offered)).collect();
        assert_eq!(wide, [(0, 2, 3), (2, 1, 2)]);
    }
}
