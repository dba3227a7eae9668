//! The course of a simulated or recorded system: samples at regular times, for plots and JSON.

use serde::{Serialize, Serializer};
use std::time::Duration;

/// Most samples of a timeline. More cannot be told apart in a plot; an hour of observations has as many.
pub const MAX_SAMPLES: usize = 7200;

/// The system at one instant. The field names are part of the JSON that `--json` writes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct TimelineSample {
    /// Time since the start.
    #[serde(rename = "at_seconds", serialize_with = "seconds")]
    pub at: Duration,
    /// Replicas that are asked for.
    pub desired: usize,
    /// Replicas that serve.
    pub ready: usize,
    /// Requests that have arrived since the start.
    pub offered: u64,
    /// Results of the requests; `None` where they were not recorded.
    #[serde(flatten)]
    pub requests: Option<RequestCounts>,
}

/// The results of the requests that have arrived since the start.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct RequestCounts {
    /// Requests that wait in the queue.
    pub queue_length: usize,
    /// Requests that were answered within the objective.
    pub in_time: u64,
    /// Requests that wait or are in flight.
    pub pending: u64,
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}
