//! The offered load in each step of the period, from the counter histories of all dispatchers. Pure.

use super::counter_history::CounterHistory;
use super::period::Period;
use workload::{MAX_PER_SECOND, Workload};

/// The recorded offered load in each step.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedLoad {
    /// The length of a step, in seconds.
    step: u64,
    /// The number of requests that arrived in each step.
    arrivals: Vec<f64>,
    /// For each step, whether the counters of any dispatcher cover it.
    known: Vec<bool>,
}

/// The recorded load is higher than any workload may be.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error(
    "{per_second:.0} requests per second were recorded at {at}, more than {MAX_PER_SECOND}, which cannot be true; \
     leave out that time with --since or --until"
)]
pub struct ImplausibleRate {
    per_second: f64,
    at: String,
}

impl RecordedLoad {
    /// The sum of the arrivals of all histories. Arrivals between two points are spread evenly over the steps between
    /// them.
    ///
    /// # Errors
    /// If a step has more than [`MAX_PER_SECOND`] requests per second.
    pub fn of<'a>(
        histories: impl IntoIterator<Item = &'a CounterHistory>,
        period: &Period,
    ) -> Result<Self, ImplausibleRate> {
        let (mut arrivals, mut known) = (vec![0.0; period.steps], vec![false; period.steps]);
        for interval in histories.into_iter().flat_map(|history| &history.arrivals) {
            let steps = interval.from..interval.to;
            known[steps.clone()].fill(true);
            let each = interval.arrivals / steps.len() as f64;
            for arrivals in &mut arrivals[steps] {
                *arrivals += each;
            }
        }
        let most = MAX_PER_SECOND * period.step as f64;
        match arrivals.iter().position(|&arrivals| arrivals > most) {
            Some(index) => {
                let per_second = arrivals[index] / period.step as f64;
                Err(ImplausibleRate { per_second, at: period.timestamp(index).to_string() })
            }
            None => Ok(Self { step: period.step, arrivals, known }),
        }
    }

    /// The load as a workload, with the same rate in every second of a step.
    pub fn workload(&self) -> Workload {
        let seconds = self
            .arrivals
            .iter()
            .flat_map(|arrivals| std::iter::repeat_n(arrivals / self.step as f64, self.step as usize));
        Workload { per_second: seconds.collect() }
    }

    /// The number of all requests.
    pub fn total(&self) -> f64 {
        self.arrivals.iter().sum()
    }

    /// The requests per second in the step with the highest load.
    pub fn highest(&self) -> f64 {
        self.arrivals.iter().copied().fold(0.0, f64::max) / self.step as f64
    }

    /// The share of the steps that no counter covers, 0 to 1.
    pub fn unknown(&self) -> f64 {
        self.known.iter().filter(|known| !**known).count() as f64 / self.known.len() as f64
    }

    /// The number of requests that arrived before each point, from point 0 on.
    pub fn cumulative(&self) -> impl Iterator<Item = f64> {
        let sums = self.arrivals.iter().scan(0.0, |sum, arrivals| {
            *sum += arrivals;
            Some(*sum)
        });
        std::iter::once(0.0).chain(sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backtest::counter_history::ArrivalInterval;

    fn history(arrivals: &[(usize, usize, f64)]) -> CounterHistory {
        let arrivals = arrivals.iter().map(|&(from, to, arrivals)| ArrivalInterval { from, to, arrivals });
        CounterHistory { arrivals: arrivals.collect(), ..CounterHistory::default() }
    }

    const PERIOD: Period = Period { start: 1_800_000_000, step: 2, steps: 6 };

    #[test]
    fn arrivals_are_spread_over_their_intervals_and_added_up() {
        let load =
            RecordedLoad::of(&[history(&[(0, 1, 4.0), (1, 3, 2.0)]), history(&[(2, 3, 3.0), (5, 6, 0.0)])], &PERIOD)
                .expect("slow enough");
        assert_eq!(load.workload().per_second, [2.0, 2.0, 0.5, 0.5, 2.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!((load.total(), load.highest()), (9.0, 2.0));
        assert_eq!(load.unknown(), 2.0 / 6.0, "steps 3 and 4 are unknown; step 5 is known to have no arrivals");
        assert_eq!(load.cumulative().collect::<Vec<_>>(), [0.0, 4.0, 5.0, 9.0, 9.0, 9.0, 9.0]);
        assert_eq!(RecordedLoad::of(&[], &PERIOD).expect("nothing").unknown(), 1.0);
    }

    #[test]
    fn an_implausible_rate_is_refused_with_its_time() {
        let error =
            RecordedLoad::of(&[history(&[(0, 1, 1.0), (3, 4, 4e6)])], &PERIOD).expect_err("too fast").to_string();
        assert!(error.contains("2000000 requests per second") && error.contains("2027-01-15T08:00:06Z"), "{error}");
        assert!(RecordedLoad::of(&[history(&[(3, 4, 2e6)])], &PERIOD).is_ok());
    }
}
