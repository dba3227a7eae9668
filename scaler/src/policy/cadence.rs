//! When a law that acts at intervals is due.

use std::time::Duration;

/// A tick comes a little early or late; this is no difference.
const TOLERANCE: Duration = Duration::from_millis(100);

/// Due every so often, for the first time after one interval.
#[derive(Debug, Clone)]
pub struct Cadence {
    every: Duration,
    next: Option<Duration>,
}

impl Cadence {
    /// Starts with the first question.
    pub fn new(every: Duration) -> Self {
        Self { every, next: None }
    }

    /// Whether it is time, `at` now. Asked late, it goes on from now instead of catching up.
    pub fn is_due(&mut self, at: Duration) -> bool {
        self.due(at).is_some()
    }

    /// When it was due, if that is now. These instants are never closer to each other than the interval, as ticks may be.
    pub fn due(&mut self, at: Duration) -> Option<Duration> {
        let next = *self.next.get_or_insert(at + self.every);
        if at + TOLERANCE.min(self.every / 2) < next {
            return None;
        }
        self.next = Some((next + self.every).max(at + self.every / 2));
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_every_so_often_and_never_twice() {
        let mut cadence = Cadence::new(Duration::from_secs(2));
        let due: Vec<u64> = [0, 1000, 1950, 2100, 3000, 4010, 9000, 9500, 10_000, 12_000]
            .into_iter()
            .filter(|&milliseconds| cadence.is_due(Duration::from_millis(milliseconds)))
            .collect();
        assert_eq!(due, [1950, 4010, 9000, 10_000, 12_000]);
    }

    #[test]
    fn instants_are_an_interval_apart_at_least() {
        let mut cadence = Cadence::new(Duration::from_secs(2));
        let asked = [0, 1950, 4010, 9000, 10_000, 11_950];
        let due: Vec<u64> = asked
            .into_iter()
            .filter_map(|milliseconds| cadence.due(Duration::from_millis(milliseconds)))
            .map(|due| due.as_millis() as u64)
            .collect();
        assert_eq!(due, [2000, 4000, 6000, 10_000, 12_000]);
    }
}
