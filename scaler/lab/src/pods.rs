//! Pods of the plant as the Kubernetes HPA sees them.

use std::time::Duration;

/// One pod at the time of an observation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pod {
    /// Time since the pod was started.
    pub age: Duration,
    /// The pod's phase and its condition `Ready`.
    pub readiness: PodReadiness,
    /// Cores that the pod requests.
    pub requested_cores: f64,
    /// The last sample of the pod's CPU usage; `None` before the first sample.
    pub usage: Option<CpuUsage>,
}

/// The phase of a pod and its condition `Ready`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodReadiness {
    /// The pod is not scheduled, or its containers are not started.
    Pending,
    /// The pod runs and has not been ready for this time.
    Unready(Duration),
    /// The pod has been ready for this time.
    Ready(Duration),
}

/// A sample of CPU usage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CpuUsage {
    /// Cores in use, a mean over the window.
    pub cores: f64,
    /// Time since the end of the window.
    pub age: Duration,
    /// Length of the window.
    pub window: Duration,
}
