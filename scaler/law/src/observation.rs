//! The state of the system at one instant, as laws and limits see it.

use crate::histogram::Histogram;
use serde::Serialize;
use std::time::Duration;

/// The state of the system at one instant. Counters never decrease: the program that makes an observation continues
/// them over restarts of the observed processes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observation {
    /// The time since the scaler started at which the figures of the dispatchers were taken.
    pub at: Duration,
    /// Whether some dispatchers gave no figures, or some of their counts are unknown. Queue length and requests in flight
    /// then lack those dispatchers. The counters lack what those dispatchers count until the last partial observation,
    /// for good. So the growth of a counter up to a partial observation is a lower bound: it can show that more replicas
    /// are needed, and never that fewer would do. The growth after the last partial observation is whole, and looks like
    /// a rise of the load.
    pub is_partial: bool,
    /// Requests that wait in the queues of all dispatchers.
    pub queue_length: f64,
    /// Requests that were sent to replicas and are not answered yet.
    pub in_flight: f64,
    /// The total time that requests have spent waiting and in flight, in request-seconds. Its growth per second is the
    /// mean number of requests in the system (Little's law). A live system sums latencies, so each request is added
    /// when it ends.
    pub request_seconds: f64,
    /// Slots of all replicas in rotation: the number of requests that they can hold at once.
    pub capacity: f64,
    /// Requests that were ever offered, refused ones included.
    pub arrivals: f64,
    /// Service times: from dispatch to answer, seconds.
    pub service: Histogram,
    /// Times that replicas worked for answers, in seconds: the service times without the time in which the replica
    /// answered other requests. The mean is what a request costs one replica at the present load, also if the replica
    /// holds several requests at once.
    pub work: Histogram,
    /// The mean time that a request costs a replica whose batches are full, as replicas measure it themselves; `None` if
    /// they do not say it.
    pub full_work: Option<Duration>,
    /// Latencies: from acceptance to answer, seconds.
    pub latency: Histogram,
    /// Replicas by state, `age` after `at`.
    pub replicas: Replicas,
    /// The time from `at` until the replicas were counted: with Prometheus, the figures are up to a scrape interval old.
    pub age: Duration,
    /// The mean of the measured start-up times of replicas; `None` until one was measured.
    pub startup: Option<Duration>,
    /// The mean time that replicas took lately to get a node if none had room for them; `None` until one was measured.
    pub node_time: Option<Duration>,
    /// The time in which blocked replicas may still get a node, counted from the first blocked one; `None` if none of
    /// them waits for a node.
    pub placement: Option<Duration>,
}

impl Observation {
    /// The number of requests that one replica can hold at once; 1 while no replica is ready.
    pub fn slots(&self) -> f64 {
        if self.replicas.ready == 0 { 1.0 } else { (self.capacity / self.replicas.ready as f64).max(1.0) }
    }
}

/// Numbers of replicas by state. Replicas beyond the desired ones, as in a rollout, count only if they are ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Replicas {
    /// Replicas that the target should have.
    pub desired: usize,
    /// Replicas that serve.
    pub ready: usize,
    /// Replicas that are not ready yet, and will serve soon, also those for which a node is coming.
    pub starting: usize,
    /// Desired replicas that cannot be placed, or keep dying. They do not count as starting.
    pub blocked: usize,
    /// Desired replicas that were ready once and are not expected back soon, such as those on a lost node. In the
    /// observation of a law, they do not count as desired.
    pub lost: usize,
}
