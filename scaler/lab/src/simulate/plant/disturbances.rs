//! The disturbances of the plant: the ways in which it differs from an ideal system.

/// The disturbances of the plant. The oracle plans for a plant without any.
#[derive(Debug, Clone, Copy)]
pub struct Disturbances {
    /// The number of dispatchers in front of the replicas, at least 1. No dispatcher sees the requests of the others.
    pub dispatchers: usize,
}

impl Disturbances {
    /// No disturbance: one dispatcher.
    pub const NONE: Self = Self { dispatchers: 1 };
}
