//! The body of `/status`: the queue, the measured rates and the replicas at one instant.

use crate::load_statistics::LoadStatistics;
use crate::queue::Queue;
use crate::replica_counts::{Counts, ReplicaCounts};
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
    /// Images that the replica has classified for this dispatcher.
    pub classified: u64,
    /// Requests that the replica has refused.
    pub refused: u64,
    /// Attempts at the replica that have failed.
    pub failed: u64,
    /// The sum of the times from the dispatch of each classified image to its answer, in seconds.
    pub answer_seconds: f64,
}

impl Status {
    /// The status at `now`.
    pub fn new(
        queue: &Queue<QueuedRequest>,
        rotation: &Rotation,
        load: &LoadStatistics,
        counts: &ReplicaCounts,
        now: Instant,
    ) -> Self {
        let slots = load.own_slots(rotation.totals().capacity);
        let backlog = retry_after::queue_full(queue.len(), slots, load.measured_service_time());
        Self {
            queue_length: queue.len(),
            queue_late_length: queue.late_len(),
            service_time_seconds: load.measured_service_time().map(|mean| mean.as_secs_f64()),
            arrivals_per_second: load.arrivals_per_second(now),
            answers_per_second: load.answers_per_second(now),
            backlog_seconds: backlog.as_secs_f64(),
            replicas: in_order(rotation)
                .into_iter()
                .map(|replica| ReplicaStatus::new(replica, counts.get(replica.id)))
                .collect(),
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
    fn new(replica: &Replica, counts: Counts) -> Self {
        let state = match replica.state {
            ReplicaState::Ready => "ready",
            ReplicaState::Ejected { .. } => "ejected",
            ReplicaState::Draining => "draining",
        };
        let (capacity, in_flight) = (replica.capacity, replica.in_flight);
        let Counts { classified, refused, failed, time } = counts;
        let (address, answer_seconds) = (replica.address.to_string(), time.as_secs_f64());
        Self { address, state, capacity, in_flight, classified, refused, failed, answer_seconds }
    }
}
