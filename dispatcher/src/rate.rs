//! How often something happens. Knows time only as an argument.

use std::time::{Duration, Instant};

/// Older events count ever less: after this time, 37 % of what they did.
const MEMORY: Duration = Duration::from_secs(5);

/// Events a second, lately.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    per_second: f64,
    at: Instant,
}

impl Rate {
    /// Nothing has happened by `now`.
    pub fn new(now: Instant) -> Self {
        Self { per_second: 0.0, at: now }
    }

    /// It happened at `now`.
    pub fn happened(&mut self, now: Instant) {
        self.per_second = self.per_second(now) + 1.0 / MEMORY.as_secs_f64();
        self.at = now;
    }

    /// As of `now`.
    pub fn per_second(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.at);
        self.per_second * (-age.as_secs_f64() / MEMORY.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_stream_is_measured_and_forgotten() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        for event in 0..3000 {
            rate.happened(start + Duration::from_millis(20) * event);
        }
        let end = start + Duration::from_secs(60);
        assert!((rate.per_second(end) - 50.0).abs() < 1.0, "{rate:?}");
        let ratio = rate.per_second(end + MEMORY) / rate.per_second(end);
        assert!((ratio - (-1.0_f64).exp()).abs() < 1e-9);
    }
}
