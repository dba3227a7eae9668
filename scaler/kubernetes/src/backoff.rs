//! Pauses after failed requests to the API server.

use std::time::Duration;

/// The pause after the first failure. Each further failure doubles it.
const FIRST: Duration = Duration::from_millis(500);

/// The longest pause, without its random part. After an outage of the API server, programs that wait for longer would
/// act on an old state for that time.
const LAST: Duration = Duration::from_secs(4);

/// The share by which a pause is longer or shorter by chance, so that many programs do not come back to the API server
/// at one moment.
const JITTER: f64 = 0.2;

/// The pauses after failures in a row. All are shorter than five seconds.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after one more failure.
    pub fn after_failure(&mut self) -> Duration {
        let doubled = FIRST.saturating_mul(2_u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        doubled.min(LAST).mul_f64(1.0 - JITTER + 2.0 * JITTER * rand::random::<f64>())
    }

    /// Begins with the first pause again, after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_less_than_five_seconds() {
        let mut backoff = Backoff::default();
        assert!(backoff.after_failure() < Duration::from_secs(1));
        assert!((0..100).all(|_| backoff.after_failure() < Duration::from_secs(5)));
        let pauses: Vec<Duration> = (0..100).map(|_| backoff.after_failure()).collect();
        assert!(pauses.iter().all(|pause| *pause > Duration::from_secs(3)));
        assert!(pauses.iter().any(|pause| *pause != pauses[0]), "all programs come back at one moment");
        backoff.reset();
        assert!(backoff.after_failure() < Duration::from_secs(1));
    }
}
