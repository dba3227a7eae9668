//! What a plant is made of: the queue's limits, the replicas' speed, and the room for replicas.

use crate::simulate::service_time::ServiceTimeDistribution;
use admission::Order;
use std::time::Duration;

/// The modelled system.
#[derive(Debug, Clone)]
pub struct PlantSettings {
    /// The order in which waiting requests are dispatched.
    pub order: Order,
    /// An answer within this time of the arrival is in time.
    pub objective: Duration,
    /// A request expires this long after its arrival.
    pub deadline: Duration,
    /// Most requests that may wait.
    pub max_queue_length: usize,
    /// Requests that a replica holds at once.
    pub slots: usize,
    /// Forward passes that a replica makes at once.
    pub workers: usize,
    /// Most requests in one pass.
    pub max_batch: usize,
    /// Time that each further request of a pass adds, as a share of its own service time, 0 to 1.
    pub batch_growth: f64,
    /// Service times of requests.
    pub service_times: ServiceTimeDistribution,
    /// Time from asked for to ready.
    pub startup: Duration,
    /// Most replicas that can be placed; further replicas are blocked.
    pub max_placed: usize,
    /// Cores of all machines together; more passes than cores slow each other down in proportion.
    pub cores: f64,
}

/// The speed of a replica whose slots are always full.
#[derive(Debug, Clone, Copy)]
pub struct FullSpeed {
    /// Completions per second.
    pub requests_per_second: f64,
    /// Duration of one forward pass, seconds.
    pub pass_seconds: f64,
}

impl PlantSettings {
    /// The speed of a replica whose slots are always full. A replica with fewer slots than two batches for each worker
    /// is a little slower than this.
    pub fn full_speed(&self) -> FullSpeed {
        let size = self.max_batch.min(self.slots / self.workers) as f64;
        let pass_seconds = self.service_times.mean() * (1.0 + (size - 1.0) * self.batch_growth);
        FullSpeed { requests_per_second: self.workers as f64 * size / pass_seconds, pass_seconds }
    }
}
