//! PURE: samples → percentiles, attainment, goodput.

use crate::sample::{Outcome, Sample};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// A send later than this is the generator's fault and is counted.
const LATE_SEND: Duration = Duration::from_millis(10);

/// Of a whole run. Latencies are milliseconds from the scheduled send time to the whole answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Requests scheduled.
    pub offered: usize,
    /// 200s.
    pub answered: usize,
    /// Everything else.
    pub failed: usize,
    /// Failures by code.
    pub errors: BTreeMap<String, usize>,
    /// Of those with a known label, the share answered rightly; absent if none has one.
    pub accuracy: Option<f64>,
    /// Share of all offered requests that were answered within the objective.
    pub attainment: f64,
    /// Right answers within the objective per second of the run.
    pub goodput_per_second: f64,
    /// Of answered requests.
    pub latency_ms: Percentiles,
    /// Of all requests: how late the generator itself was.
    pub send_delay_p99_ms: f64,
    /// Requests sent more than 10 ms late.
    pub late_sends: usize,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest.
    pub max: f64,
}

/// Some seconds of a run, by scheduled send time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The first of them, since the start.
    pub second: usize,
    /// How many they are.
    pub seconds: usize,
    /// Requests scheduled in them.
    pub offered: usize,
    /// Of those, answered within the objective.
    pub within_objective: usize,
    /// Of those, failed.
    pub failed: usize,
    /// Of those answered; absent without any.
    pub latency_ms: Option<Percentiles>,
}

/// Sums a run up.
pub fn summarise(samples: &[Sample], objective: Duration, length: Duration) -> Summary {
    let mut errors = BTreeMap::new();
    let (mut labelled, mut right) = (0_usize, 0_usize);
    for sample in samples {
        match &sample.outcome {
            Outcome::Answered { right: known } => {
                labelled += usize::from(known.is_some());
                right += usize::from(*known == Some(true));
            }
            Outcome::Failed { code } => *errors.entry(code.clone()).or_insert(0) += 1,
        }
    }
    let failed = errors.values().sum::<usize>();
    let within = samples.iter().filter(|sample| within(sample, objective)).count();
    let good = samples.iter().filter(|sample| sample.is_good(objective)).count();
    let share = |part: usize, whole: usize| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    Summary {
        offered: samples.len(),
        answered: samples.len() - failed,
        failed,
        errors,
        accuracy: (labelled > 0).then(|| share(right, labelled)),
        attainment: share(within, samples.len()),
        goodput_per_second: good as f64 / length.as_secs_f64().max(f64::MIN_POSITIVE),
        latency_ms: percentiles(samples.iter().filter(|sample| answered(sample)).map(|sample| sample.latency)),
        send_delay_p99_ms: percentiles(samples.iter().map(|sample| sample.send_delay)).p99,
        late_sends: samples.iter().filter(|sample| sample.send_delay > LATE_SEND).count(),
    }
}

/// Cuts a run into rows of `step` seconds, the last one shorter if need be; rows without requests are there too.
///
/// # Panics
/// If `step` is zero.
pub fn rows(samples: &[Sample], objective: Duration, length: Duration, step: usize) -> Vec<Row> {
    let whole = length.as_secs_f64().ceil() as usize;
    let mut by_row: Vec<Vec<&Sample>> = vec![Vec::new(); whole.div_ceil(step)];
    for sample in samples {
        if let Some(row) = by_row.get_mut(sample.scheduled.as_secs() as usize / step) {
            row.push(sample);
        }
    }
    let row = |(index, samples): (usize, Vec<&Sample>)| {
        let latencies: Vec<Duration> =
            samples.iter().filter(|sample| answered(sample)).map(|sample| sample.latency).collect();
        Row {
            second: index * step,
            seconds: step.min(whole - index * step),
            offered: samples.len(),
            within_objective: samples.iter().filter(|sample| within(sample, objective)).count(),
            failed: samples.iter().filter(|sample| !answered(sample)).count(),
            latency_ms: (!latencies.is_empty()).then(|| percentiles(latencies.into_iter())),
        }
    };
    by_row.into_iter().enumerate().map(row).collect()
}

fn answered(sample: &Sample) -> bool {
    matches!(sample.outcome, Outcome::Answered { .. })
}

fn within(sample: &Sample, objective: Duration) -> bool {
    answered(sample) && sample.latency <= objective
}

fn percentiles(latencies: impl Iterator<Item = Duration>) -> Percentiles {
    // Microseconds up to an hour, three digits exact.
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are valid");
    for latency in latencies {
        histogram.saturating_record(latency.as_micros() as u64);
    }
    if histogram.is_empty() {
        return Percentiles::default();
    }
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    Percentiles { p50: at(0.5), p90: at(0.9), p95: at(0.95), p99: at(0.99), max: histogram.max() as f64 / 1e3 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(scheduled_ms: u64, latency_ms: u64, outcome: Outcome) -> Sample {
        let milliseconds = Duration::from_millis;
        Sample {
            scheduled: milliseconds(scheduled_ms),
            send_delay: milliseconds(latency_ms / 10),
            latency: milliseconds(latency_ms),
            outcome,
        }
    }

    fn run() -> Vec<Sample> {
        let failed = |code: &str| Outcome::Failed { code: code.into() };
        vec![
            sample(100, 50, Outcome::Answered { right: Some(true) }),
            sample(200, 60, Outcome::Answered { right: Some(false) }),
            sample(300, 700, Outcome::Answered { right: Some(true) }),
            sample(2100, 10, failed("queue_full")),
            sample(2200, 40, Outcome::Answered { right: None }),
        ]
    }

    #[test]
    fn attainment_counts_everything_that_was_offered() {
        let summary = summarise(&run(), Duration::from_millis(500), Duration::from_secs(3));
        assert_eq!((summary.offered, summary.answered, summary.failed), (5, 4, 1));
        assert_eq!(summary.errors, BTreeMap::from([("queue_full".into(), 1)]));
        assert_eq!(summary.attainment, 3.0 / 5.0);
        assert_eq!(summary.accuracy, Some(2.0 / 3.0));
        assert_eq!(summary.goodput_per_second, 2.0 / 3.0);
        assert_eq!(summary.late_sends, 1);
        assert!((summary.latency_ms.max - 700.0).abs() < 1.0);
        assert_eq!(summarise(&[], Duration::ZERO, Duration::ZERO).attainment, 0.0);
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
