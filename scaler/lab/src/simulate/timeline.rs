//! The timeline of a simulated or recorded system: samples at regular intervals, for plots and JSON.

use serde::{Serialize, Serializer};
use std::time::Duration;

/// The largest number of samples of a timeline. More are not visible in a plot. An hour of observations, two each
/// second, has this number of samples.
pub const MAX_SAMPLES: usize = 7200;

/// A sample of a timeline: the system at one instant. The field names are part of the JSON that `--json` writes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct TimelineSample {
    /// The time since the start.
    #[serde(rename = "at_seconds", serialize_with = "seconds")]
    pub at: Duration,
    /// The number of desired replicas.
    pub desired: usize,
    /// The number of ready replicas.
    pub ready: usize,
    /// The number of requests that have arrived since the start.
    pub offered: u64,
    /// The results of these requests; `None` if they were not recorded.
    #[serde(flatten)]
    pub requests: Option<RequestCounts>,
}

/// The numbers of requests by result, of all that have arrived since the start.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct RequestCounts {
    /// The number of requests that wait in the queue.
    pub queue_length: usize,
    /// The number of requests that were answered within the objective.
    pub in_time: u64,
    /// The number of requests that wait or are in flight.
    pub pending: u64,
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}
