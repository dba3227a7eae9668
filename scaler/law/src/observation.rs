//! The state of the system at one instant, as laws and limits see it.

use crate::histogram::Histogram;
use serde::Serialize;
use std::time::Duration;

/// The state of the system at one instant. Counters never decrease: the program that makes an observation has already
/// taken restarts of the observed processes out of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observation {
    /// Time since the scaler started.
    pub at: Duration,
    /// Requests that wait in the queues.
    pub queue_length: f64,
    /// Requests that were sent to replicas and are not answered yet.
    pub in_flight: f64,
    /// Requests × seconds that requests have spent waiting and in flight. Its slope is the mean number of requests in the
    /// system. Live it is the sum of all latencies (Little's law), which counts a request as it ends.
    pub request_seconds: f64,
    /// Requests that all replicas in rotation hold at once.
    pub capacity: f64,
    /// Requests that were ever offered, refused ones included.
    pub arrivals: f64,
    /// Times from dispatched to answered, seconds.
    pub service: Histogram,
    /// Times that a replica worked for an answer, seconds: from dispatched to answered, but not while the replica answered
    /// other requests. The mean is what a request costs one replica at the present load, however many requests the replica
    /// holds at once.
    pub work: Histogram,
    /// Times from accepted to answered, seconds.
    pub latency: Histogram,
    /// Replicas by state.
    pub replicas: Replicas,
    /// Mean measured time from exec to ready; `None` until a replica became ready.
    pub startup: Option<Duration>,
}

impl Observation {
    /// Requests that one replica holds at once; 1 while no replica is ready.
    pub fn slots(&self) -> f64 {
        if self.replicas.ready == 0 { 1.0 } else { (self.capacity / self.replicas.ready as f64).max(1.0) }
    }
}

/// Numbers of replicas by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Replicas {
    /// Asked for.
    pub desired: usize,
    /// Serving.
    pub ready: usize,
    /// Started, not ready yet.
    pub starting: usize,
    /// Asked for, but they cannot be placed or keep dying before they are ready. None of them counts as starting.
    pub blocked: usize,
}
