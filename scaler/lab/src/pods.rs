//! Pods of the plant as the Kubernetes HPA sees them.

use std::time::Duration;

/// The state of one pod at the time of an observation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pod {
    /// The time since the pod was started.
    pub age: Duration,
    /// The pod's phase and its condition `Ready`.
    pub readiness: PodReadiness,
    /// The number of cores that the pod requests.
    pub requested_cores: f64,
    /// The last sample of the pod's CPU usage; `None` before the first sample.
    pub usage: Option<CpuUsage>,
}

/// The phase of a pod and its condition `Ready`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodReadiness {
    /// The pod is not scheduled to a node, or its containers are not started.
    Pending,
    /// The pod runs and has been unready for this time.
    Unready(Duration),
    /// The pod runs and has been ready for this time.
    Ready(Duration),
}

/// A sample of a pod's CPU usage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CpuUsage {
    /// The mean number of cores in use over the window.
    pub cores: f64,
    /// The time since the end of the window.
    pub age: Duration,
    /// The length of the window.
    pub window: Duration,
}
