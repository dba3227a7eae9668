//! Pods of the plant, as the Kubernetes HPA sees them. Times are ages at the observation.

use std::time::Duration;

/// One replica.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pod {
    /// Time since it was started.
    pub age: Duration,
    /// How far it is.
    pub stage: Stage,
    /// Cores that it requests.
    pub request: f64,
    /// The last sample of its processor use; `None` before the first one.
    pub usage: Option<Usage>,
}

/// How far a pod is, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It waits for a place, or for its program.
    Pending,
    /// It runs and is not ready, or no longer.
    Unready(Duration),
    /// It serves.
    Ready(Duration),
}

/// A sample of processor use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// Cores, a mean over the window.
    pub cores: f64,
    /// Time since the window ended.
    pub age: Duration,
    /// Length of the window.
    pub window: Duration,
}
