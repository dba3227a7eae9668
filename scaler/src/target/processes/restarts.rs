//! The pause before a replica that has died is replaced. There is none unless replicas keep dying.

use std::time::{Duration, Instant};

/// Pause before the start that follows the first failed one. Each further failure doubles the pause.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause before a start.
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// A replica that was ready for at least this time started well: its death does not count as a failed start.
const STEADY: Duration = Duration::from_secs(10);

/// A failure that comes so long after the one before, or its pause, is no further one in a row: replicas have run in the
/// meantime. It is longer than the longest pause and the longest start together.
const FORGET_AFTER: Duration = Duration::from_secs(300);

/// The failures of the last starts.
#[derive(Debug)]
pub(super) struct Restarts {
    /// The number of failures in a row: deaths of replicas that were never ready, or for less than [`STEADY`].
    failures: u32,
    not_before: Instant,
}

impl Restarts {
    pub(super) fn new(now: Instant) -> Self {
        Self { failures: 0, not_before: now }
    }

    /// Notes the death of a replica that was ready for `served`; `None` if it was never ready. Returns the pause before
    /// the next start.
    pub(super) fn note(&mut self, now: Instant, served: Option<Duration>) -> Duration {
        if served.is_some_and(|served| served >= STEADY) {
            *self = Self::new(now);
            return Duration::ZERO;
        }
        if now.saturating_duration_since(self.not_before) >= FORGET_AFTER {
            self.failures = 0;
        }
        // Another program may have killed a replica that was ready, so its first death costs no pause.
        let is_excused = served.is_some() && self.failures == 0;
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(self.failures.min(10))).min(LAST_PAUSE);
        self.not_before = if is_excused { now } else { now + pause };
        self.failures += 1;
        self.pause(now)
    }

    /// The time from `now` until the next replica may be started.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        self.not_before.saturating_duration_since(now)
    }

    /// Whether replicas keep dying.
    pub(super) fn is_loop(&self) -> bool {
        self.failures > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_that_are_far_apart_do_not_add_up() {
        let mut now = Instant::now();
        let mut restarts = Restarts::new(now);
        for _ in 0..9 {
            assert_eq!(restarts.note(now, None), FIRST_PAUSE);
            assert!(!restarts.is_loop());
            now += FIRST_PAUSE + FORGET_AFTER;
        }
        // Starts that time out after a minute are in a row.
        let pauses = (0..9).map(|_| {
            let pause = restarts.note(now, None);
            now += pause + Duration::from_secs(60);
            pause
        });
        assert_eq!(pauses.last(), Some(LAST_PAUSE));
    }

    #[test]
    fn pauses_double_until_a_replica_stays() {
        let now = Instant::now();
        let soon = Some(STEADY / 2);
        // A row has the times for which replicas were ready, and the pauses in milliseconds that follow their deaths.
        // One death is no loop.
        for (ends, pauses) in [
            (&[None; 8][..], &[500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000][..]),
            (&[soon, soon, None, soon], &[0, 1_000, 2_000, 4_000]),
            (&[None, soon, Some(STEADY), soon, soon], &[500, 1_000, 0, 0, 1_000]),
        ] {
            let mut restarts = Restarts::new(now);
            for (index, (&served, &pause)) in ends.iter().zip(pauses).enumerate() {
                assert_eq!(restarts.note(now, served), Duration::from_millis(pause), "{ends:?}");
                assert_eq!(restarts.is_loop(), index > 0 && pause >= 1_000, "{ends:?}");
            }
        }
    }
}
