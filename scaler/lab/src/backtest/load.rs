//! PURE: the accounts of all dispatchers → what arrived when, and of how much of the time nobody knows.

use super::account::Account;
use super::period::Period;
use workload::{MAX_PER_SECOND, Workload};

/// By step.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    step: u64,
    /// Requests in each.
    arrivals: Vec<f64>,
    /// Whether any dispatcher's counters tell.
    known: Vec<bool>,
}

/// A counter ran faster than anything can.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error(
    "{per_second:.0} requests per second are recorded at {at}, more than {MAX_PER_SECOND}; leave that time out by --since \
     or --until"
)]
pub struct Leap {
    per_second: f64,
    at: String,
}

impl Load {
    /// What arrived between two points is spread evenly between them.
    ///
    /// # Errors
    /// When it is more than anybody sends.
    pub fn of<'a>(accounts: impl IntoIterator<Item = &'a Account>, period: &Period) -> Result<Self, Leap> {
        let (mut arrivals, mut known) = (vec![0.0; period.steps], vec![false; period.steps]);
        for step in accounts.into_iter().flat_map(|account| &account.steps) {
            known[step.from..step.to].fill(true);
            let each = step.arrivals / (step.to - step.from) as f64;
            arrivals[step.from..step.to].iter_mut().for_each(|arrivals| *arrivals += each);
        }
        let load = Self { step: period.step, arrivals, known };
        match load.arrivals.iter().position(|&arrivals| arrivals > MAX_PER_SECOND * load.step as f64) {
            Some(index) => {
                Err(Leap { per_second: load.arrivals[index] / load.step as f64, at: period.shown(index).to_string() })
            }
            None => Ok(load),
        }
    }

    /// The same rate in every second of a step.
    pub fn workload(&self) -> Workload {
        let seconds = self
            .arrivals
            .iter()
            .flat_map(|arrivals| std::iter::repeat_n(arrivals / self.step as f64, self.step as usize));
        Workload { per_second: seconds.collect() }
    }

    /// Requests in all.
    pub fn total(&self) -> f64 {
        self.arrivals.iter().sum()
    }

    /// Requests per second in the busiest step.
    pub fn highest(&self) -> f64 {
        self.arrivals.iter().copied().fold(0.0, f64::max) / self.step as f64
    }

    /// Share of the time of which there are no figures.
    pub fn unknown(&self) -> f64 {
        self.known.iter().filter(|known| !**known).count() as f64 / self.known.len() as f64
    }

    /// Requests before each point, from number 0 on.
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
    use crate::backtest::account::Step;

    fn account(steps: &[(usize, usize, f64)]) -> Account {
        let steps = steps.iter().map(|&(from, to, arrivals)| Step { from, to, arrivals });
        Account { steps: steps.collect(), ..Account::default() }
    }

    const PERIOD: Period = Period { start: 1_800_000_000, step: 2, steps: 6 };

    #[test]
    fn arrivals_are_spread_over_their_steps_and_added_up() {
        let load = Load::of(&[account(&[(0, 1, 4.0), (1, 3, 2.0)]), account(&[(2, 3, 3.0), (5, 6, 0.0)])], &PERIOD)
            .expect("slow enough");
        assert_eq!(load.workload().per_second, [2.0, 2.0, 0.5, 0.5, 2.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!((load.total(), load.highest()), (9.0, 2.0));
        assert_eq!(load.unknown(), 2.0 / 6.0, "steps 3 and 4; that nothing came in step 5 is known");
        assert_eq!(load.cumulative().collect::<Vec<_>>(), [0.0, 4.0, 5.0, 9.0, 9.0, 9.0, 9.0]);
        assert_eq!(Load::of(&[], &PERIOD).expect("nothing").unknown(), 1.0);
    }

    #[test]
    fn a_leap_is_refused_with_its_time() {
        let error = Load::of(&[account(&[(0, 1, 1.0), (3, 4, 4e6)])], &PERIOD).expect_err("too fast").to_string();
        assert!(error.contains("2000000 requests per second") && error.contains("2027-01-15T08:00:06Z"), "{error}");
        assert!(Load::of(&[account(&[(3, 4, 2e6)])], &PERIOD).is_ok());
    }
}
