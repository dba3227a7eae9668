//! The send times of an open load, computed one after another while the load is sent. Pure.

use std::time::Duration;
use workload::Workload;
use workload::arrivals::{ArrivalProcess, ArrivalTimes};

/// An open load: a warm-up, and a workload after it.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// The load after the warm-up.
    pub workload: Workload,
    /// The process that spreads the requests of each second.
    pub arrivals: ArrivalProcess,
    /// The seed of the send times.
    pub seed: u64,
    /// Length of the warm-up. Its rate is that of the workload's first second with load.
    pub warmup: Duration,
}

impl Schedule {
    /// Length of the warm-up and the workload together.
    pub fn length(&self) -> Duration {
        self.warmup + Duration::from_secs(self.workload.per_second.len() as u64)
    }

    /// All send times, ascending. Each is a time since the start of the warm-up. The same schedule gives the same times.
    pub fn times(&self) -> SendTimes {
        let rate = self.workload.per_second.iter().copied().find(|&rate| rate > 0.0).unwrap_or_default();
        SendTimes {
            before: ArrivalTimes::new(Workload::constant(rate, self.warmup), self.arrivals, self.seed ^ 1),
            after: ArrivalTimes::new(self.workload.clone(), self.arrivals, self.seed),
            warmup: self.warmup,
            is_before: true,
        }
    }
}

/// An iterator over the send times of a [`Schedule`].
#[derive(Debug)]
pub struct SendTimes {
    before: ArrivalTimes,
    after: ArrivalTimes,
    warmup: Duration,
    /// Whether the next send time may belong to the warm-up.
    is_before: bool,
}

impl Iterator for SendTimes {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.is_before {
            // The warm-up may end within a second, but its workload has whole seconds. Send times after the end are
            // left out.
            if let Some(at) = self.before.next().filter(|&at| at < self.warmup) {
                return Some(at);
            }
            self.is_before = false;
        }
        self.after.next().map(|at| at + self.warmup)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warm_up_ends_where_the_workload_begins() {
        let schedule = Schedule {
            workload: Workload { per_second: vec![0.0, 2.0] },
            arrivals: ArrivalProcess::Uniform,
            seed: 1,
            warmup: Duration::from_millis(1200),
        };
        let times: Vec<u128> = schedule.times().map(|at| at.as_millis()).collect();
        assert_eq!(times, [250, 750, 2450, 2950]);
        assert_eq!(schedule.length(), Duration::from_millis(3200));
    }
}
