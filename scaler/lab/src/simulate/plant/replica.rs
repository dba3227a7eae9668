//! One replica of the plant, with the requests that it holds. All instants are nanoseconds since the start of the
//! simulation.

use crate::pods::{CpuUsage, Pod, PodReadiness};
use crate::simulate::requests::PlantRequest;
use std::collections::VecDeque;
use std::time::Duration;

/// The time between two samples of CPU usage, in nanoseconds. It is that of metrics-server.
pub(super) const CPU_SAMPLE_PERIOD: u64 = 15_000_000_000;

/// The phase in the life of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplicaPhase {
    /// The replica is not ready yet.
    Starting,
    /// The replica is in rotation.
    Ready {
        /// The instant at which the replica became ready.
        since: u64,
    },
    /// The replica is out of rotation, and still answers the requests that it holds.
    Draining,
    /// The replica has stopped or died.
    Gone,
}

/// A request that a replica holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeldRequest {
    pub(super) request: PlantRequest,
    /// The instant at which the request left the queue.
    pub(super) dispatched: u64,
    /// The index of the dispatcher that has sent the request.
    pub(super) dispatcher: u16,
}

/// A replica of the plant.
#[derive(Debug, Clone)]
pub(super) struct PlantReplica {
    pub(super) phase: ReplicaPhase,
    /// The instant at which the replica was started.
    pub(super) created: u64,
    /// The number of requests that the replica holds, in a forward pass or waiting for one.
    pub(super) in_flight: usize,
    /// The requests that wait at the replica for a forward pass.
    pub(super) waiting: VecDeque<HeldRequest>,
    /// The number of workers that compute no forward pass.
    pub(super) idle_workers: usize,
    /// The instant since which the replica has held requests, or the instant of its last answer if that was later.
    pub(super) working_since: u64,
    /// The sum of the durations of all forward passes that have begun, in core-nanoseconds.
    pub(super) busy: u64,
    /// The instant of the last CPU sample and `busy` at that instant; `None` before the first sample.
    sampled: Option<(u64, u64)>,
    /// The mean number of cores in use between the last two samples; `None` before the second sample.
    cores_used: Option<f64>,
}

impl PlantReplica {
    pub(super) fn new(created: u64, workers: usize) -> Self {
        Self {
            phase: ReplicaPhase::Starting,
            created,
            in_flight: 0,
            waiting: VecDeque::new(),
            idle_workers: workers,
            working_since: 0,
            busy: 0,
            sampled: None,
            cores_used: None,
        }
    }

    pub(super) fn sample_cpu(&mut self, now: u64) {
        let before = self.sampled.replace((now, self.busy));
        self.cores_used = before.map(|(then, busy)| (self.busy - busy) as f64 / (now - then) as f64);
    }

    /// The replica as a pod that the Kubernetes HPA observes at the instant `now`. `last_sample` is the instant of the
    /// last CPU sample.
    pub(super) fn pod(&self, now: u64, last_sample: u64) -> Pod {
        let since = |then: u64| Duration::from_nanos(now - then);
        Pod {
            age: since(self.created),
            readiness: match self.phase {
                ReplicaPhase::Ready { since: then } => PodReadiness::Ready(since(then)),
                _ => PodReadiness::Pending,
            },
            requested_cores: 1.0,
            usage: self.cores_used.map(|cores| CpuUsage {
                cores,
                age: since(last_sample),
                window: Duration::from_nanos(CPU_SAMPLE_PERIOD),
            }),
        }
    }
}
