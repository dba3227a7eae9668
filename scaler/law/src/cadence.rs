//! When a law that acts at intervals is due.

use std::time::Duration;

/// Ticks come a little early or late: a tick counts as due so much before its time.
const TOLERANCE: Duration = Duration::from_millis(100);

/// Due at intervals, for the first time after one interval.
#[derive(Debug, Clone)]
pub struct Cadence {
    interval: Duration,
    next: Option<Duration>,
}

impl Cadence {
    /// The first interval begins with the first call of [`Self::due`].
    pub fn new(interval: Duration) -> Self {
        Self { interval, next: None }
    }

    /// Whether a step is due now. After a late call the next interval begins now: missed steps are not made up for.
    pub fn is_due(&mut self, at: Duration) -> bool {
        self.due(at).is_some()
    }

    /// The time at which the step was due, if it is due now. These times are at least an interval apart, while the ticks
    /// may come closer.
    pub fn due(&mut self, at: Duration) -> Option<Duration> {
        let next = *self.next.get_or_insert(at + self.interval);
        if at + TOLERANCE.min(self.interval / 2) < next {
            return None;
        }
        self.next = Some((next + self.interval).max(at + self.interval / 2));
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_due_an_interval_apart_at_least_and_missed_ones_are_not_made_up_for() {
        for (ticks, due) in [
            (&[0, 1000, 1950, 2100, 3000, 4010, 9000, 9500, 10_000, 12_000][..], [2000, 4000, 6000, 10_000, 12_000]),
            (&[0, 1950, 4010, 9000, 10_000, 11_950], [2000, 4000, 6000, 10_000, 12_000]),
        ] {
            let mut cadence = Cadence::new(Duration::from_secs(2));
            let found = ticks.iter().filter_map(|&tick| cadence.due(Duration::from_millis(tick)));
            assert_eq!(found.map(|due| due.as_millis()).collect::<Vec<_>>(), due);
        }
    }
}
