//! The totals of the plant: the numbers of requests by result, and the cost of the replicas.

use std::time::Duration;

/// The numbers of requests by result, and the cost of the replicas, since the start of the simulation.
#[derive(Debug, Clone, Default)]
pub struct PlantTotals {
    /// The number of requests that arrived.
    pub offered: u64,
    /// The number of requests that were answered within the objective.
    pub in_time: u64,
    /// The number of requests that were refused at admission.
    pub shed: u64,
    /// The number of requests whose deadline passed before their answer.
    pub expired: u64,
    /// The number of requests that failed, because two replicas died while they held them.
    pub failed: u64,
    /// The number of times that a replica refused a request, because all of its slots were taken. The request returns
    /// to the queue of its dispatcher, so one request can count several times.
    pub busy: u64,
    /// The sum of the times of all replicas. Starting replicas count, and draining replicas do not.
    pub replica_time: Duration,
}
