//! The figures of the seconds of a worker's part, until they are sent to the coordinator. Pure.

use crate::sample::Sample;
use crate::timeline::{OpenInterval, SecondFigures};
use std::collections::BTreeMap;
use std::time::Duration;

/// The figures of the seconds that were not taken yet.
#[derive(Debug)]
pub struct PartSeconds {
    objective: Duration,
    open: BTreeMap<usize, OpenSecond>,
}

/// The figures of a second to whose requests answers may still come.
#[derive(Debug, Default)]
struct OpenSecond {
    offered: usize,
    within_objective: usize,
    failed: usize,
    latencies: OpenInterval,
}

impl PartSeconds {
    /// No second has figures yet.
    pub fn new(objective: Duration) -> Self {
        Self { objective, open: BTreeMap::new() }
    }

    /// Counts a request that has ended into the second of its scheduled send time.
    pub fn record(&mut self, sample: &Sample) {
        let second = self.open.entry(sample.scheduled.as_secs() as usize).or_default();
        second.offered += 1;
        second.within_objective += usize::from(sample.is_within(self.objective));
        if sample.is_answered() {
            second.latencies.record(sample.latency);
        } else {
            second.failed += 1;
        }
    }

    /// Takes the figures of the earliest second that ends at or before `time`; `None` if there is none. If a request of
    /// that second ends later nevertheless, the second has figures again, which count in addition.
    pub fn take_before(&mut self, time: Duration) -> Option<SecondFigures> {
        let entry = self.open.first_entry().filter(|entry| (*entry.key() as u64) < time.as_secs())?;
        let (second, OpenSecond { offered, within_objective, failed, latencies }) = entry.remove_entry();
        Some(SecondFigures { second, offered, within_objective, failed, latencies: latencies.into_latencies() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::tests::{ANSWERED, failed, sample};

    #[test]
    fn seconds_are_taken_in_order_once_they_are_over() {
        let mut seconds = PartSeconds::new(Duration::from_millis(500));
        for (scheduled, latency) in [(1100, 30), (100, 600), (900, 20)] {
            seconds.record(&sample(scheduled, latency, ANSWERED));
        }
        seconds.record(&sample(200, 1, failed("x")));
        assert!(seconds.take_before(Duration::from_millis(999)).is_none());
        let first = seconds.take_before(Duration::from_millis(1999)).expect("the first second is over");
        let counts = (first.second, first.offered, first.within_objective, first.failed, first.latencies.count());
        assert_eq!(counts, (0, 3, 1, 1, 2));
        assert!(seconds.take_before(Duration::from_millis(1999)).is_none());
        // A late end belongs to its second.
        seconds.record(&sample(300, 9000, ANSWERED));
        let late = seconds.take_before(Duration::MAX).expect("the late request");
        assert_eq!((late.second, late.offered), (0, 1));
        assert_eq!(seconds.take_before(Duration::MAX).map(|second| second.second), Some(1));
        assert!(seconds.take_before(Duration::MAX).is_none());
    }
}
