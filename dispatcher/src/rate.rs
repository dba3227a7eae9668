//! The rate of events over the last seconds. Time is an argument.

use std::time::{Duration, Instant};

/// The time after which the weight of an event has fallen to 1/e (37 %).
const TIME_CONSTANT: Duration = Duration::from_secs(5);

/// A rate in events per second: an exponentially weighted mean over about the last [`TIME_CONSTANT`].
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    per_second: f64,
    /// The time at which `per_second` was the rate: that of the last event or, before the first, of the start.
    as_of: Instant,
}

impl Rate {
    /// A rate of zero. No event has happened before `now`.
    pub fn new(now: Instant) -> Self {
        Self { per_second: 0.0, as_of: now }
    }

    /// Records an event at `now`.
    pub fn record(&mut self, now: Instant) {
        self.per_second = self.per_second(now) + 1.0 / TIME_CONSTANT.as_secs_f64();
        self.as_of = now;
    }

    /// The rate at `now`, in events per second.
    pub fn per_second(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.as_of);
        self.per_second * (-age.as_secs_f64() / TIME_CONSTANT.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_steady_events_is_measured_and_falls_after_the_last_event() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        for event in 0..3000 {
            rate.record(start + Duration::from_millis(20) * event);
        }
        let end = start + Duration::from_secs(60);
        assert!((rate.per_second(end) - 50.0).abs() < 1.0, "{rate:?}");
        let ratio = rate.per_second(end + TIME_CONSTANT) / rate.per_second(end);
        assert!((ratio - (-1.0_f64).exp()).abs() < 1e-9);
    }
}
