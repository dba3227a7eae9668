//! PURE: what was recorded → the row that stands beside those of the laws, as far as its figures are known.

use super::answers::Answers;
use super::load::Load;
use super::period::Period;
use super::record::{Points, Replicas};
use crate::quantiles::{quantile, up_to};
use crate::simulate::comparison::Row;
use crate::simulate::trial::{MOMENTS, Moment};
use std::time::Duration;

/// What happened.
#[derive(Debug)]
pub struct Recorded<'a> {
    /// When.
    pub period: &'a Period,
    /// What arrived.
    pub load: &'a Load,
    /// Of that, what was refused.
    pub shed: f64,
    /// How the rest was answered.
    pub answers: &'a Answers,
    /// Where they are known.
    pub replicas: &'a Points<Replicas>,
    /// Points that lie further apart have a gap between them.
    pub patience: usize,
}

impl Recorded<'_> {
    /// Answered within the objective ÷ offered, refused and failed ones included; nothing if no bucket reaches the
    /// objective.
    pub fn attainment(&self, objective: Duration) -> Option<f64> {
        let in_time = up_to(&self.answers.latency, objective.as_secs_f64())?;
        let failed = self.answers.outcomes.map_or(0.0, |outcomes| outcomes.failed);
        // Who arrived before the period may have been answered in it.
        Some(((in_time - failed) / self.load.total()).clamp(0.0, 1.0))
    }

    /// Everything.
    pub fn row(&self, objective: Duration) -> Row {
        let percentile = |share| quantile(&self.answers.latency, share);
        let share = |count: f64| count / self.load.total();
        let spells = || {
            self.replicas.iter().zip(self.replicas.iter().skip(1)).filter(|(then, now)| now.0 - then.0 <= self.patience)
        };
        let is_known = spells().next().is_some();
        let replica_steps: f64 = spells().map(|(then, now)| then.1.ready * (now.0 - then.0) as f64).sum();
        let changes = spells().filter(|(then, now)| then.1.desired != now.1.desired).count();
        let peak = self.replicas.values().map(|replicas| replicas.ready as usize).max();
        Row {
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
            shed: Some(share(self.shed)),
            expired: self.answers.outcomes.map(|outcomes| share(outcomes.expired)),
            course: self.course(),
        }
    }

    fn course(&self) -> Vec<Moment> {
        let offered = self.load.cumulative().enumerate();
        let thinned = offered.step_by((self.period.steps + 1).div_ceil(MOMENTS));
        let moments = thinned.filter_map(|(index, offered)| {
            let replicas = self.replicas.get(&index)?;
            Some(Moment {
                at: Duration::from_secs(index as u64 * self.period.step),
                desired: replicas.desired as usize,
                ready: replicas.ready as usize,
                offered: offered.round() as u64,
                requests: None,
            })
        });
        moments.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backtest::account::{Account, Step};
    use crate::backtest::answers::Outcomes;
    use law::histogram::Histogram;

    const PERIOD: Period = Period { start: 1_800_000_000, step: 15, steps: 100 };

    /// 100 requests, with these latencies, failures and points of (number, asked for, ready).
    fn row(latency: &[(f64, f64)], outcomes: Option<Outcomes>, replicas: &[(usize, f64, f64)], objective: f64) -> Row {
        let account = Account { steps: vec![Step { from: 0, to: 100, arrivals: 100.0 }], ..Account::default() };
        let latency = Histogram { buckets: latency.to_vec(), sum: 1.0 };
        let replicas = replicas.iter().map(|&(at, desired, ready)| (at, Replicas { desired, ready })).collect();
        let recorded = Recorded {
            period: &PERIOD,
            load: &Load::of([&account], &PERIOD).expect("slow"),
            shed: 7.0,
            answers: &Answers { latency, outcomes, ..Answers::default() },
            replicas: &replicas,
            patience: 20,
        };
        recorded.row(Duration::from_secs_f64(objective))
    }

    #[test]
    fn attainment_is_of_all_that_was_offered() {
        let latency = [(0.25, 40.0), (0.5, 80.0), (f64::INFINITY, 90.0)];
        let outcomes = |failed| Some(Outcomes { failed, expired: 3.0 });
        for (latency, outcomes, objective, expected) in [
            (&latency[..], None, 0.5, Some(0.8)),
            (&latency, outcomes(0.0), 0.5, Some(0.8)),
            (&latency, outcomes(2.0), 0.5, Some(0.78)),
            (&latency, outcomes(95.0), 0.5, Some(0.0)),
            // No bucket ends there: half of those between 0.25 s and 0.5 s.
            (&latency, None, 0.375, Some(0.6)),
            (&latency, None, 0.6, None),
            (&[(0.5, 104.0), (f64::INFINITY, 104.0)], None, 0.5, Some(1.0)),
            (&[], None, 0.5, None),
        ] {
            let row = row(latency, outcomes, &[], objective);
            assert_eq!(row.attainment, expected, "{latency:?} {objective}");
            assert_eq!(row.expired, outcomes.map(|_| 0.03));
            assert_eq!(row.shed, Some(0.07));
        }
    }

    #[test]
    fn percentiles_are_the_histograms() {
        let some = row(&[(0.1, 50.0), (0.2, 99.0), (f64::INFINITY, 100.0)], None, &[], 0.5);
        assert_eq!((some.p50_seconds, some.p99_seconds), (Some(0.1), Some(0.2)));
        let none = row(&[], None, &[], 0.5);
        assert_eq!((none.p50_seconds, none.p95_seconds, none.p99_seconds), (None, None, None));
    }

    #[test]
    fn replicas_cost_for_as_long_as_they_are_known() {
        let of = |points: &[(usize, f64, f64)]| {
            let row = row(&[], None, points, 0.5);
            (row.replica_seconds, row.peak, row.changes, row.course.len())
        };
        assert_eq!(of(&[]), (None, None, None, 0));
        assert_eq!(of(&[(3, 2.0, 2.0)]), (None, Some(2), None, 1));
        // Two for a step, then one for two.
        assert_eq!(of(&[(3, 2.0, 2.0), (4, 3.0, 1.0), (6, 3.0, 3.0)]), (Some(60.0), Some(3), Some(1.0), 3));
        // What happened in a gap is not known.
        assert_eq!(of(&[(0, 2.0, 2.0), (1, 2.0, 2.0), (50, 9.0, 9.0)]), (Some(30.0), Some(9), Some(0.0), 3));
    }
}
