//! The row of what happened, from the recorded history. It stands beside the rows of the laws. Pure.

use super::answers::RecordedAnswers;
use super::load::RecordedLoad;
use super::period::Period;
use super::samples::{PointMap, ReplicaCounts};
use crate::quantiles::{quantile, up_to};
use crate::simulate::comparison::ComparisonRow;
use crate::simulate::timeline::{MAX_SAMPLES, TimelineSample};
use std::time::Duration;

/// What happened in the recorded period.
#[derive(Debug)]
pub struct RecordedOutcome<'a> {
    /// The recorded period.
    pub period: &'a Period,
    /// The requests that arrived in each step.
    pub load: &'a RecordedLoad,
    /// The number of requests that were refused.
    pub shed: f64,
    /// The answers to the other requests.
    pub answers: &'a RecordedAnswers,
    /// The numbers of replicas at the points at which they are known.
    pub replicas: &'a PointMap<ReplicaCounts>,
    /// If two neighbouring points are more than this number of steps apart, there is a gap between them.
    pub max_gap: usize,
}

impl RecordedOutcome<'_> {
    /// The attainment: the share of all offered requests, refused and failed requests included, that were answered
    /// within the objective. `None` if no latencies were recorded, or if the objective lies in their last bucket, which
    /// has no upper bound.
    pub fn attainment(&self, objective: Duration) -> Option<f64> {
        let in_time = up_to(&self.answers.latency, objective.as_secs_f64())?;
        let failed = self.answers.unanswered.map_or(0.0, |unanswered| unanswered.failed);
        // clamp, as otherwise requests that arrived before the period and were answered in it may make the share exceed
        // one.
        Some(((in_time - failed) / self.load.total()).clamp(0.0, 1.0))
    }

    /// The row of what happened, for a comparison.
    pub fn row(&self, objective: Duration) -> ComparisonRow {
        let percentile = |share| quantile(&self.answers.latency, share);
        let share = |count: f64| count / self.load.total();
        let neighbours = || {
            self.replicas.iter().zip(self.replicas.iter().skip(1)).filter(|(then, now)| now.0 - then.0 <= self.max_gap)
        };
        let is_known = neighbours().next().is_some();
        let replica_steps: f64 = neighbours().map(|(then, now)| then.1.ready * (now.0 - then.0) as f64).sum();
        let changes = neighbours().filter(|(then, now)| then.1.desired != now.1.desired).count();
        let peak = self.replicas.values().map(|replicas| replicas.ready as usize).max();
        ComparisonRow {
            law: "recorded".into(),
            attainment: self.attainment(objective),
            worst_attainment: None,
            p50_seconds: percentile(0.5),
            p95_seconds: percentile(0.95),
            p99_seconds: percentile(0.99),
            replica_seconds: is_known.then_some(replica_steps * self.period.step as f64),
            times_oracle: None,
            peak,
            changes: is_known.then_some(changes as f64),
            late_changes: Vec::new(),
            shed: Some(share(self.shed)),
            expired: self.answers.unanswered.map(|unanswered| share(unanswered.expired)),
            failed: self.answers.unanswered.map(|unanswered| share(unanswered.failed)),
            busy: None,
            timeline: self.timeline(),
        }
    }

    fn timeline(&self) -> Vec<TimelineSample> {
        let offered = self.load.cumulative().enumerate();
        let thinned = offered.step_by((self.period.steps + 1).div_ceil(MAX_SAMPLES));
        let samples = thinned.filter_map(|(index, offered)| {
            let replicas = self.replicas.get(&index)?;
            Some(TimelineSample {
                at: Duration::from_secs(index as u64 * self.period.step),
                desired: replicas.desired as usize,
                ready: replicas.ready as usize,
                offered: offered.round() as u64,
                requests: None,
            })
        });
        samples.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backtest::answers::Unanswered;
    use crate::backtest::counter_history::{ArrivalInterval, CounterHistory};
    use law::histogram::Histogram;

    const PERIOD: Period = Period { start: 1_800_000_000, step: 15, steps: 100 };

    /// The row for 100 requests that arrived in the period. `latency` has the buckets of their latencies, and
    /// `replicas` the points `(number, desired, ready)`.
    fn row(
        latency: &[(f64, f64)],
        unanswered: Option<Unanswered>,
        replicas: &[(usize, f64, f64)],
        objective: f64,
    ) -> ComparisonRow {
        let history = CounterHistory {
            arrivals: vec![ArrivalInterval { from: 0, to: 100, arrivals: 100.0 }],
            ..CounterHistory::default()
        };
        let latency = Histogram { buckets: latency.to_vec(), sum: 1.0 };
        let replicas = replicas.iter().map(|&(at, desired, ready)| (at, ReplicaCounts { desired, ready })).collect();
        let outcome = RecordedOutcome {
            period: &PERIOD,
            load: &RecordedLoad::of([&history], &PERIOD).expect("slow"),
            shed: 7.0,
            answers: &RecordedAnswers { latency, unanswered, ..RecordedAnswers::default() },
            replicas: &replicas,
            max_gap: 20,
        };
        outcome.row(Duration::from_secs_f64(objective))
    }

    #[test]
    fn attainment_is_a_share_of_all_offered_requests() {
        let latency = [(0.25, 40.0), (0.5, 80.0), (f64::INFINITY, 90.0)];
        let unanswered = |failed| Some(Unanswered { failed, expired: 3.0 });
        for (latency, unanswered, objective, expected) in [
            (&latency[..], None, 0.5, Some(0.8)),
            (&latency, unanswered(0.0), 0.5, Some(0.8)),
            (&latency, unanswered(2.0), 0.5, Some(0.78)),
            (&latency, unanswered(95.0), 0.5, Some(0.0)),
            // No bucket ends at the objective. It is half-way between 0.25 s and 0.5 s, so half of the answers in that
            // bucket count.
            (&latency, None, 0.375, Some(0.6)),
            (&latency, None, 0.6, None),
            (&[(0.5, 104.0), (f64::INFINITY, 104.0)], None, 0.5, Some(1.0)),
            (&[], None, 0.5, None),
        ] {
            let row = row(latency, unanswered, &[], objective);
            assert_eq!(row.attainment, expected, "{latency:?} {objective}");
            assert_eq!(row.expired, unanswered.map(|_| 0.03));
            assert_eq!(row.shed, Some(0.07));
        }
    }

    #[test]
    fn percentiles_come_from_the_histogram_of_latencies() {
        let some = row(&[(0.1, 50.0), (0.2, 99.0), (f64::INFINITY, 100.0)], None, &[], 0.5);
        assert_eq!((some.p50_seconds, some.p99_seconds), (Some(0.1), Some(0.2)));
        let none = row(&[], None, &[], 0.5);
        assert_eq!((none.p50_seconds, none.p95_seconds, none.p99_seconds), (None, None, None));
    }

    #[test]
    fn replica_seconds_count_only_where_the_number_of_replicas_is_known() {
        let of = |points: &[(usize, f64, f64)]| {
            let row = row(&[], None, points, 0.5);
            (row.replica_seconds, row.peak, row.changes, row.timeline.len())
        };
        assert_eq!(of(&[]), (None, None, None, 0));
        assert_eq!(of(&[(3, 2.0, 2.0)]), (None, Some(2), None, 1));
        // Two replicas for one step, and then one replica for two steps, of 15 s each.
        assert_eq!(of(&[(3, 2.0, 2.0), (4, 3.0, 1.0), (6, 3.0, 3.0)]), (Some(60.0), Some(3), Some(1.0), 3));
        // The number of replicas between points 1 and 50 is not known, since these are a gap apart.
        assert_eq!(of(&[(0, 2.0, 2.0), (1, 2.0, 2.0), (50, 9.0, 9.0)]), (Some(30.0), Some(9), Some(0.0), 3));
    }
}
