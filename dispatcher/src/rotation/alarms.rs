//! Instants at which something is due for a replica, the earliest first. An alarm is never cancelled. The caller checks
//! when it rings whether it still has a meaning, so that setting and changing a due time costs no search.

use super::replica::ReplicaId;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// A heap of due times.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    heap: BinaryHeap<Reverse<(Instant, ReplicaId)>>,
}

impl Alarms {
    /// Adds an alarm for `replica` that rings at `at`.
    pub(super) fn set(&mut self, at: Instant, replica: ReplicaId) {
        self.heap.push(Reverse((at, replica)));
    }

    /// Takes the earliest alarm if it has been set for `delay` before `now`, or earlier.
    pub(super) fn pop_due(&mut self, now: Instant, delay: Duration) -> Option<(Instant, ReplicaId)> {
        if self.next()? + delay > now {
            return None;
        }
        self.heap.pop().map(|Reverse(alarm)| alarm)
    }

    /// The instant of the earliest alarm.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// The number of alarms that are set.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }
}
