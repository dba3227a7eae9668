//! When a replica that has died is replaced: at once, unless replicas keep dying.

use std::time::{Duration, Instant};

/// Pause before the start that follows a failed one: at first, doubled by each further failure, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// A replica that was ready for so long did not die of how it was started.
const STEADY: Duration = Duration::from_secs(10);

/// The failures of the last starts.
#[derive(Debug)]
pub(super) struct Restarts {
    /// Failures in a row: replicas that were ready for a short time, or never.
    failures: u32,
    not_before: Instant,
}

impl Restarts {
    pub(super) fn new(now: Instant) -> Self {
        Self { failures: 0, not_before: now }
    }

    /// Notes a replica that died after it had been ready for `served`, or never was ready.
    pub(super) fn note(&mut self, now: Instant, served: Option<Duration>) {
        if served.is_some_and(|served| served >= STEADY) {
            return *self = Self::new(now);
        }
        // A replica that was ready may have been killed from outside.
        let is_excused = served.is_some() && self.failures == 0;
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(self.failures.min(10))).min(LAST_PAUSE);
        self.not_before = if is_excused { now } else { now + pause };
        self.failures += 1;
    }

    /// When the next replica may be started.
    pub(super) fn not_before(&self) -> Instant {
        self.not_before
    }

    /// Time from now until the next replica may be started.
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
    fn pauses_double_until_a_replica_stays() {
        let now = Instant::now();
        let soon = Some(STEADY / 2);
        // How long each was ready, and the pauses in milliseconds that follow. One death is no loop.
        for (ends, pauses) in [
            (&[None; 8][..], &[500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000][..]),
            (&[soon, soon, None, soon], &[0, 1_000, 2_000, 4_000]),
            (&[None, soon, Some(STEADY), soon, soon], &[500, 1_000, 0, 0, 1_000]),
        ] {
            let mut restarts = Restarts::new(now);
            for (index, (&served, &pause)) in ends.iter().zip(pauses).enumerate() {
                restarts.note(now, served);
                assert_eq!(restarts.pause(now), Duration::from_millis(pause), "{ends:?}");
                assert_eq!(restarts.is_loop(), index > 0 && pause >= 1_000, "{ends:?}");
            }
        }
    }
}
