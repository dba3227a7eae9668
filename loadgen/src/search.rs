//! PURE: the search for the highest steady rate at which an objective holds: doubling, then bisection.

/// The search ends when it is known to within this factor.
pub const PRECISION: f64 = 1.05;

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// Try this many requests per second.
    Try(f64),
    /// It is known as well as it is to be.
    Done,
}

/// What is known so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Search {
    first: f64,
    lowest: f64,
    highest: f64,
    /// The highest rate that held, if any did.
    pub held: Option<f64>,
    /// The lowest that did not, if any did not; it is the last one of those.
    pub failed: Option<f64>,
}

impl Search {
    /// Begins at `first` and stays between `lowest` and `highest`, all in requests per second.
    pub fn new(first: f64, lowest: f64, highest: f64) -> Self {
        Self { first, lowest, highest, held: None, failed: None }
    }

    /// What was found at the rate that was to be tried.
    #[must_use]
    pub fn note(self, rate: f64, held: bool) -> Self {
        if held { Self { held: Some(rate), ..self } } else { Self { failed: Some(rate), ..self } }
    }

    /// The next rate, or the end.
    pub fn step(&self) -> Step {
        match (self.held, self.failed) {
            (None, None) => Step::Try(self.first),
            (Some(held), None) if held < self.highest => Step::Try((2.0 * held).min(self.highest)),
            (None, Some(failed)) if failed > self.lowest => Step::Try((failed / 2.0).max(self.lowest)),
            // In the middle of their ratio, as what is looked for is a factor.
            (Some(held), Some(failed)) if failed / held > PRECISION => Step::Try((held * failed).sqrt()),
            _ => Step::Done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn find(first: f64, capacity: f64) -> (Option<f64>, Option<f64>, usize) {
        let mut search = Search::new(first, 0.1, 10_000.0);
        for tries in 0.. {
            match search.step() {
                Step::Try(rate) => search = search.note(rate, rate <= capacity),
                Step::Done => return (search.held, search.failed, tries),
            }
        }
        unreachable!("a search ends")
    }

    proptest! {
        #[test]
        fn the_capacity_lies_between_what_held_and_what_failed(first in 0.1..1000.0, capacity in 0.2..9000.0) {
            let (held, failed, tries) = find(first, capacity);
            let (held, failed) = (held.expect("some rate holds"), failed.expect("some rate fails"));
            prop_assert!(held <= capacity && capacity < failed && failed / held <= PRECISION);
            prop_assert!(tries <= 30, "{tries} tries");
        }
    }

    #[test]
    fn what_always_or_never_holds_has_one_bound() {
        assert_eq!(find(1.0, f64::INFINITY), (Some(10_000.0), None, 15));
        assert_eq!(find(1.0, 0.0), (None, Some(0.1), 5));
    }
}
