//! The cases on which protocols are compared: replicas, load and faults.

use crate::simulate::time_distribution::TimeDistribution;
use std::fmt;
use std::time::Duration;
use workload::Workload;

/// The time of each case.
pub(super) const SECONDS: usize = 60;

/// How replicas compute requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Service {
    /// The number of requests that a replica holds at once.
    pub(super) slots: usize,
    /// The number of forward passes that a replica computes at once.
    pub(super) workers: usize,
    /// The largest number of requests in one forward pass.
    pub(super) max_batch: usize,
    /// The time that each request after the first adds to a pass, as a share of its own service time.
    pub(super) batch_growth: f64,
    /// The mean time of a pass with one request, in milliseconds.
    pub(super) milliseconds: u64,
    /// The standard deviation ÷ mean of the service times.
    pub(super) variation: f64,
}

impl Service {
    /// The requests per second of one replica whose slots are always full.
    pub(super) fn requests_per_second(self) -> f64 {
        let size = self.max_batch.min(self.slots / self.workers).max(1) as f64;
        let pass = self.milliseconds as f64 / 1e3 * (1.0 + (size - 1.0) * self.batch_growth);
        self.workers as f64 * size / pass
    }

    pub(super) fn times(self) -> TimeDistribution {
        TimeDistribution::new(Duration::from_millis(self.milliseconds), self.variation)
    }
}

/// The load of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// 70 % of what the replicas can answer.
    Steady,
    /// Half of what the replicas can answer, and three times as much for 3 s of every 15 s.
    Burst,
    /// Twice what the replicas can answer.
    Overload,
}

impl Load {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Steady => "70 %",
            Self::Burst => "bursts",
            Self::Overload => "200 %",
        }
    }

    pub(super) fn workload(self, full: f64) -> Workload {
        let rate = |second: usize| match self {
            Self::Steady => 0.7 * full,
            Self::Burst if second % 15 >= 5 && second % 15 < 8 => 1.5 * full,
            Self::Burst => 0.5 * full,
            Self::Overload => 2.0 * full,
        };
        Workload { per_second: (0..SECONDS).map(rate).collect() }
    }
}

/// A fault in the middle of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// The first dispatcher dies. Its requests are lost, and the others get its share of the arrivals.
    DispatcherDies,
    /// A replica is replaced by another one every 10 s. Each dispatcher learns that up to 2 s later.
    Rollout,
}

/// A case.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) replicas: usize,
    pub(super) service: Service,
    pub(super) load: Load,
    pub(super) fault: Fault,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { replicas, service, load, fault } = self;
        write!(f, "{replicas} replicas with {} slots, ", service.slots)?;
        if service.max_batch > 1 {
            write!(f, "batches of {}, ", service.max_batch)?;
        }
        write!(f, "{} ms ± {:.0} %, load {}", service.milliseconds, 100.0 * service.variation, load.name())?;
        match fault {
            Fault::None => Ok(()),
            Fault::DispatcherDies => f.write_str(", a dispatcher dies"),
            Fault::Rollout => f.write_str(", a rollout of the replicas"),
        }
    }
}

impl Case {
    /// The requests per second of all replicas whose slots are always full.
    pub(super) fn requests_per_second(&self) -> f64 {
        self.replicas as f64 * self.service.requests_per_second()
    }
}

const ONE: Service =
    Service { slots: 1, workers: 1, max_batch: 1, batch_growth: 1.0, milliseconds: 50, variation: 0.2 };

/// The replicas of the cases on which the constants were chosen.
pub(super) const TRAINING: [(usize, Service); 3] =
    [(3, Service { slots: 2, ..ONE }), (10, ONE), (32, Service { slots: 4, workers: 2, ..ONE })];

/// The replicas of the cases on which no constant was chosen.
pub(super) const HELD_OUT: [(usize, Service); 3] = [
    (4, Service { slots: 2, milliseconds: 100, variation: 0.5, ..ONE }),
    (8, Service { slots: 8, max_batch: 4, batch_growth: 0.25, milliseconds: 30, ..ONE }),
    (20, Service { slots: 3, workers: 2, milliseconds: 80, variation: 0.4, ..ONE }),
];
