//! The body of `/status`: the queue, the measured rates and the replicas at one instant.

use crate::load_statistics::LoadStatistics;
use crate::queue::Queue;
use crate::request::QueuedRequest;
use crate::rotation::{Replica, ReplicaId, ReplicaState, Rotation};
use admission::retry_after;
use std::time::Instant;

/// The answer to `GET /status`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Status {
    /// Requests in the queue.
    pub queue_length: usize,
    /// Waiting requests that can no longer meet the objective.
    pub queue_late_length: usize,
    /// Running mean of the service time in seconds; null before the first answer.
    pub service_time_seconds: Option<f64>,
    /// Arrivals per second over the last seconds, refused requests included.
    pub arrivals_per_second: f64,
    /// Answers of replicas per second over the last seconds.
    pub answers_per_second: f64,
    /// Seconds until the requests that wait now have left the queue.
    pub backlog_seconds: f64,
    /// Every replica that is published or draining.
    pub replicas: Vec<ReplicaStatus>,
}

/// One replica in [`Status`].
#[derive(Debug, Clone, serde::Serialize)]
pub struct ReplicaStatus {
    /// The replica's address, `host:port`.
    pub address: String,
    /// The replica's state: `ready`, `ejected` or `draining`.
    pub state: &'static str,
    /// Slots of the replica: the number of requests that it takes at once.
    pub capacity: usize,
    /// Requests that were sent to the replica and are not yet answered.
    pub in_flight: usize,
}

impl Status {
    /// The status at `now`.
    pub fn new(queue: &Queue<QueuedRequest>, rotation: &Rotation, load: &LoadStatistics, now: Instant) -> Self {
        let backlog = {
            let slots = load.own_slots(rotation.totals().capacity);
            retry_after::queue_full(queue.len(), slots, load.measured_service_time())
        };
        Self {
            queue_length: queue.len(),
            queue_late_length: queue.late_len(),
            service_time_seconds: load.measured_service_time().map(|mean| mean.as_secs_f64()),
            arrivals_per_second: load.arrivals_per_second(now),
            answers_per_second: load.answers_per_second(now),
            backlog_seconds: backlog.as_secs_f64(),
            replicas: in_order(rotation).into_iter().map(ReplicaStatus::new).collect(),
        }
    }
}

/// All replicas in the order of their first publication.
fn in_order(rotation: &Rotation) -> Vec<&Replica> {
    let mut replicas: Vec<&Replica> = rotation.replicas().collect();
    replicas.sort_unstable_by_key(|replica| -> ReplicaId { replica.id });
    replicas
}

impl ReplicaStatus {
    fn new(replica: &Replica) -> Self {
        let state = match replica.state {
            ReplicaState::Ready => "ready",
            ReplicaState::Ejected { .. } => "ejected",
            ReplicaState::Draining => "draining",
        };
        let (capacity, in_flight) = (replica.capacity, replica.in_flight);
        Self { address: replica.address.to_string(), state, capacity, in_flight }
    }
}
