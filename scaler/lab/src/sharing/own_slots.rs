//! The slots that one of several dispatchers really gets.

use std::time::Duration;

/// The shortest time over which the mean goes.
const MEMORY: f64 = 2.0;

/// The number of service times over which the mean goes at least.
const SERVICE_TIMES: f64 = 20.0;

/// A running mean of the requests that a dispatcher has in flight while requests wait. By Little's law, that number ÷
/// the service time is the rate of its departures.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnSlots {
    mean: Option<f64>,
}

impl OwnSlots {
    pub(super) fn new() -> Self {
        Self { mean: None }
    }

    /// Records that `in_flight` requests were in flight for the time `held` while requests waited.
    pub(super) fn record(&mut self, in_flight: usize, held: Duration, service_time: Option<Duration>, capacity: usize) {
        let memory = MEMORY.max(SERVICE_TIMES * service_time.unwrap_or_default().as_secs_f64());
        let weight = 1.0 - (-held.as_secs_f64() / memory).exp();
        let mean = self.mean.get_or_insert(capacity as f64);
        *mean += weight * (in_flight as f64 - *mean);
    }

    /// The slots, of `capacity` that all dispatchers together have.
    pub(super) fn slots(&self, capacity: usize) -> f64 {
        self.mean.unwrap_or(capacity as f64).min(capacity as f64)
    }
}
