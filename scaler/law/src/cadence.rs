//! The times at which a law that acts at intervals is due.

use std::time::Duration;

/// A tick counts as due up to this time before its due time, because ticks come a little early or late.
const TOLERANCE: Duration = Duration::from_millis(100);

/// The due times of a law. The first is one interval after the first call of [`Cadence::due`].
#[derive(Debug, Clone)]
pub struct Cadence {
    interval: Duration,
    next: Option<Duration>,
}

impl Cadence {
    /// A cadence whose due times are at least `interval` apart.
    pub fn new(interval: Duration) -> Self {
        Self { interval, next: None }
    }

    /// Whether a step is due at `at`. A call that returns true counts as the step.
    pub fn is_due(&mut self, at: Duration) -> bool {
        self.due(at).is_some()
    }

    /// The time at which the step was due, if it is due at `at`. Missed steps are not made up for: after a late step,
    /// the next one is due half an interval later at the earliest.
    pub fn due(&mut self, at: Duration) -> Option<Duration> {
        let next = *self.next.get_or_insert(at + self.interval);
        if at + TOLERANCE.min(self.interval / 2) < next {
            return None;
        }
        self.next = Some((next + self.interval).max(at + self.interval / 2));
        Some(next)
    }
}
