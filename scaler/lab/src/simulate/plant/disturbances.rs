//! The disturbances of the plant: the ways in which it differs from an ideal system.

use std::time::Duration;

/// The disturbances of the plant. The oracle plans for a plant without any.
#[derive(Debug, Clone, Copy)]
pub struct Disturbances {
    /// The standard deviation ÷ mean of the start-up times, which are log-normal; 0 if all replicas take the same time.
    pub startup_variation: f64,
    /// The mean time between the failures of one ready replica (MTBF), which is exponential; `None` if no replica
    /// fails.
    pub mtbf: Option<Duration>,
    /// The number of dispatchers in front of the replicas, at least 1. No dispatcher sees the requests of the others.
    pub dispatchers: usize,
}

impl Disturbances {
    /// No disturbance: all replicas take the same time to start and never fail, and there is one dispatcher.
    pub const NONE: Self = Self { startup_variation: 0.0, mtbf: None, dispatchers: 1 };
}
