//! The body of `/status`: the queue, the measured rates and the replicas at one instant.

use crate::load::Load;
use crate::queue::Queue;
use crate::request::QueuedRequest;
use crate::rotation::{Replica, Rotation, State};
use std::time::Instant;

/// The answer to `GET /status`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Status {
    /// Requests waiting.
    pub queue_length: usize,
    /// Waiting requests that can no longer meet the objective.
    pub queue_late_length: usize,
    /// Running mean of the time from dispatch to answer, seconds; null before the first answer.
    pub service_time_seconds: Option<f64>,
    /// Requests that arrived over the last seconds, refused ones included.
    pub arrivals_per_second: f64,
    /// Requests that replicas answered over the last seconds.
    pub answers_per_second: f64,
    /// Time until the requests that wait now have left the queue.
    pub backlog_seconds: f64,
    /// Every replica that is published or draining.
    pub replicas: Vec<ReplicaStatus>,
}

/// One replica in [`Status`].
#[derive(Debug, Clone, serde::Serialize)]
pub struct ReplicaStatus {
    /// `host:port`.
    pub address: String,
    /// `ready`, `ejected` or `draining`.
    pub state: &'static str,
    /// Number of slots: requests that the replica takes at once.
    pub capacity: usize,
    /// Requests sent and not yet answered.
    pub in_flight: usize,
}

impl Status {
    /// The status at `now`.
    pub fn new(queue: &Queue<QueuedRequest>, rotation: &Rotation, load: &Load, now: Instant) -> Self {
        let backlog = load.time_to_drain(queue.len(), rotation.totals().capacity);
        Self {
            queue_length: queue.len(),
            queue_late_length: queue.late_len(),
            service_time_seconds: load.measured_service_time().map(|mean| mean.as_secs_f64()),
            arrivals_per_second: load.arrivals_per_second(now),
            answers_per_second: load.answers_per_second(now),
            backlog_seconds: backlog.as_secs_f64(),
            replicas: rotation.replicas().iter().map(ReplicaStatus::new).collect(),
        }
    }
}

impl ReplicaStatus {
    fn new(replica: &Replica) -> Self {
        let state = match replica.state {
            State::Ready => "ready",
            State::Ejected { .. } => "ejected",
            State::Draining => "draining",
        };
        let (capacity, in_flight) = (replica.capacity, replica.in_flight);
        Self { address: replica.address.to_string(), state, capacity, in_flight }
    }
}
