//! The settings of the plant: the limits of the queue, the speed of the replicas, and the room for replicas.

use super::disturbances::Disturbances;
use crate::simulate::time_distribution::TimeDistribution;
use admission::Order;
use std::time::Duration;

/// The settings of the plant.
#[derive(Debug, Clone)]
pub struct PlantSettings {
    /// The order in which waiting requests are dispatched.
    pub order: Order,
    /// The objective: an answer is in time if it comes within this time after the arrival.
    pub objective: Duration,
    /// The time after its arrival at which a request expires.
    pub deadline: Duration,
    /// The largest number of requests that may wait.
    pub max_queue_length: usize,
    /// The number of requests that a replica holds at once.
    pub slots: usize,
    /// The number of forward passes that a replica computes at once.
    pub workers: usize,
    /// The largest number of requests in one forward pass.
    pub max_batch: usize,
    /// The time that each request after the first adds to a forward pass, as a share of the request's own service time,
    /// 0 to 1.
    pub batch_growth: f64,
    /// The distribution of the service times of requests.
    pub service_times: TimeDistribution,
    /// The mean start-up time of a replica, from its creation until it is ready.
    pub startup: Duration,
    /// The most replicas that are created per second; infinite if all are created at once.
    pub starts_per_second: f64,
    /// The number of replicas that the cluster can place. Desired replicas beyond that number are blocked.
    pub max_placed: usize,
    /// The number of cores of the whole cluster. If more forward passes run at once, they slow each other down in
    /// proportion.
    pub cores: f64,
    /// The ways in which the plant differs from an ideal system.
    pub disturbances: Disturbances,
}

/// The speed of a replica whose slots are always full.
#[derive(Debug, Clone, Copy)]
pub struct FullSpeed {
    /// The number of requests that the replica answers per second.
    pub requests_per_second: f64,
    /// The duration of one forward pass, in seconds.
    pub pass_seconds: f64,
}

impl PlantSettings {
    /// The speed of a replica whose slots are always full. A replica with fewer slots than two batches for each worker
    /// may be slower, because its batches are not always full.
    pub fn full_speed(&self) -> FullSpeed {
        let size = self.max_batch.min(self.slots / self.workers) as f64;
        let pass_seconds = self.service_times.mean() * (1.0 + (size - 1.0) * self.batch_growth);
        FullSpeed { requests_per_second: self.workers as f64 * size / pass_seconds, pass_seconds }
    }

    /// The time that a request costs a replica whose batches are full; `None` if it computes one request at a time.
    pub fn full_work(&self) -> Option<Duration> {
        let seconds = 1.0 / self.full_speed().requests_per_second;
        (self.max_batch * self.workers > 1).then(|| Duration::from_secs_f64(seconds))
    }
}

#[cfg(test)]
impl PlantSettings {
    /// Replicas that compute one request at a time and start in 3 s, an objective of 500 ms, and no disturbances.
    pub fn simple(service_times: TimeDistribution) -> Self {
        Self {
            order: Order::LateLast,
            objective: Duration::from_millis(500),
            deadline: Duration::from_secs(5),
            max_queue_length: 1000,
            slots: 1,
            workers: 1,
            max_batch: 1,
            batch_growth: 1.0,
            service_times,
            startup: Duration::from_secs(3),
            starts_per_second: f64::INFINITY,
            max_placed: usize::MAX,
            cores: f64::INFINITY,
            disturbances: Disturbances::NONE,
        }
    }
}
