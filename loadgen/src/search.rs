//! The search for the highest steady rate at which an objective holds. It doubles or halves the rate until it has held
//! at one rate and failed at another, and then bisects. A repetition begins near the capacity, with smaller factors. Pure. Knows nothing of how a rate is tried.

/// The search ends when the rate that held and the rate that failed differ by at most this factor.
pub const PRECISION: f64 = 1.05;

/// The next step of a search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SearchStep {
    /// Try this rate, in requests per second.
    Try(f64),
    /// The search is finished.
    Done,
}

/// Factor from one rate to the next, until the objective has held at one rate and failed at another.
const GROWTH: f64 = 2.0;

/// The same factor if the capacity is roughly known.
const GROWTH_NEAR: f64 = 1.25;

/// The state of a search. All rates are in requests per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Search {
    first: f64,
    growth: f64,
    lowest: f64,
    highest: f64,
    /// The highest rate at which the objective held; `None` if it never held.
    pub held: Option<f64>,
    /// The lowest rate at which the objective failed; `None` if it never failed. It is also the rate that failed last.
    pub failed: Option<f64>,
}

impl Search {
    /// A search that begins at `first` and stays between `lowest` and `highest`.
    pub fn new(first: f64, lowest: f64, highest: f64) -> Self {
        Self { first, growth: GROWTH, lowest, highest, held: None, failed: None }
    }

    /// A search that repeats another one, which has found about the capacity `first`.
    pub fn near(first: f64, lowest: f64, highest: f64) -> Self {
        Self { growth: GROWTH_NEAR, ..Self::new(first, lowest, highest) }
    }

    /// The capacity that the search has found: the geometric mean of the rate that held and the rate that failed. `None`
    /// unless it has found both, and they differ by at most [`PRECISION`].
    pub fn found(&self) -> Option<f64> {
        let (held, failed) = self.held.zip(self.failed)?;
        (failed / held <= PRECISION).then(|| (held * failed).sqrt())
    }

    /// The search after `rate` was tried. `held` tells whether the objective held at that rate.
    #[must_use]
    pub fn record(self, rate: f64, held: bool) -> Self {
        if held { Self { held: Some(rate), ..self } } else { Self { failed: Some(rate), ..self } }
    }

    /// The next rate to try, or the end of the search.
    pub fn step(&self) -> SearchStep {
        match (self.held, self.failed) {
            (None, None) => SearchStep::Try(self.first),
            (Some(held), None) if held < self.highest => SearchStep::Try((self.growth * held).min(self.highest)),
            (None, Some(failed)) if failed > self.lowest => SearchStep::Try((failed / self.growth).max(self.lowest)),
            // The geometric mean, since the precision is a factor.
            (Some(held), Some(failed)) if failed / held > PRECISION => SearchStep::Try((held * failed).sqrt()),
            _ => SearchStep::Done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn find(first: f64, capacity: f64) -> (Option<f64>, Option<f64>, usize) {
        end(Search::new(first, 0.1, 10_000.0), capacity)
    }

    fn end(mut search: Search, capacity: f64) -> (Option<f64>, Option<f64>, usize) {
        for tries in 0.. {
            match search.step() {
                SearchStep::Try(rate) => search = search.record(rate, rate <= capacity),
                SearchStep::Done => return (search.held, search.failed, tries),
            }
        }
        unreachable!("a search ends")
    }

    proptest! {
        #[test]
        fn the_capacity_lies_between_the_rates_that_held_and_failed(first in 0.1..1000.0, capacity in 0.2..9000.0) {
            let (held, failed, tries) = find(first, capacity);
            let (held, failed) = (held.expect("some rate holds"), failed.expect("some rate fails"));
            prop_assert!(held <= capacity && capacity < failed && failed / held <= PRECISION);
            prop_assert!(tries <= 30, "{tries} tries");
        }

        #[test]
        fn a_repetition_near_the_capacity_needs_few_tries(factor in 0.9..1.1, capacity in 0.2..9000.0) {
            let (held, failed, tries) = end(Search::near(factor * capacity, 0.1, 10_000.0), capacity);
            let (held, failed) = (held.expect("some rate holds"), failed.expect("some rate fails"));
            prop_assert!(held <= capacity && capacity < failed && failed / held <= PRECISION);
            prop_assert!(tries <= 6, "{tries} tries");
            let found = Search { held: Some(held), failed: Some(failed), ..Search::new(1.0, 0.1, 1.0) }.found();
            prop_assert!(found.is_some_and(|found| held < found && found < failed));
        }
    }

    #[test]
    fn a_search_whose_objective_always_or_never_holds_finds_one_bound() {
        assert_eq!(find(1.0, f64::INFINITY), (Some(10_000.0), None, 15));
        assert_eq!(find(1.0, 0.0), (None, Some(0.1), 5));
        let unfinished = Search { held: Some(1.0), failed: Some(2.0), ..Search::new(1.0, 0.1, 9.0) };
        assert_eq!((unfinished.found(), Search::new(1.0, 0.1, 9.0).found()), (None, None));
    }
}
