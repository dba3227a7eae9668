//! Running totals of the states of all replicas, so that no reader has to count them.

use super::replica::{Replica, ReplicaState};

/// The number of replicas in each state, and the capacity of the ready ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReplicaTotals {
    /// Replicas that take requests.
    pub ready: usize,
    /// Replicas that take no requests until a probe succeeds, new ones included.
    pub ejected: usize,
    /// Replicas that are no longer published and still hold requests.
    pub draining: usize,
    /// Slots of all ready replicas.
    pub capacity: usize,
}

/// The part of one replica in the totals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TotalsPart {
    kind: Kind,
    capacity: usize,
    in_flight: usize,
    lost_to_others: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ready,
    /// An ejected replica. It is lost if it was ready before.
    Ejected {
        is_lost: bool,
    },
    Draining,
}

impl TotalsPart {
    /// The part of `replica`.
    pub(super) fn of(replica: &Replica) -> Self {
        let kind = match replica.state {
            ReplicaState::Ready => Kind::Ready,
            ReplicaState::Ejected { .. } => Kind::Ejected { is_lost: replica.was_ready },
            ReplicaState::Draining => Kind::Draining,
        };
        Self { kind, capacity: replica.capacity, in_flight: replica.in_flight, lost_to_others: replica.lost() }
    }
}

/// The totals, and the sums that are not part of [`ReplicaTotals`].
#[derive(Debug, Default)]
pub(super) struct RunningTotals {
    pub(super) totals: ReplicaTotals,
    /// Requests that replicas hold.
    pub(super) in_flight: usize,
    /// Slots of ready replicas that other dispatchers take.
    pub(super) lost_to_others: usize,
    /// Ejected replicas that were ready before.
    lost: usize,
}

impl RunningTotals {
    /// Adds the part of a replica.
    pub(super) fn add(&mut self, part: TotalsPart) {
        self.in_flight += part.in_flight;
        match part.kind {
            Kind::Ready => {
                self.totals.ready += 1;
                self.totals.capacity += part.capacity;
                self.lost_to_others += part.lost_to_others;
            }
            Kind::Ejected { is_lost } => {
                self.totals.ejected += 1;
                self.lost += usize::from(is_lost);
            }
            Kind::Draining => self.totals.draining += 1,
        }
    }

    /// Removes the part of a replica, as it was added.
    pub(super) fn remove(&mut self, part: TotalsPart) {
        self.in_flight -= part.in_flight;
        match part.kind {
            Kind::Ready => {
                self.totals.ready -= 1;
                self.totals.capacity -= part.capacity;
                self.lost_to_others -= part.lost_to_others;
            }
            Kind::Ejected { is_lost } => {
                self.totals.ejected -= 1;
                self.lost -= usize::from(is_lost);
            }
            Kind::Draining => self.totals.draining -= 1,
        }
    }

    /// Replaces the part of a replica.
    pub(super) fn replace(&mut self, before: TotalsPart, after: TotalsPart) {
        if (before.kind, before.capacity, before.lost_to_others) == (after.kind, after.capacity, after.lost_to_others) {
            // A request is taken or ends, which is by far the most frequent change.
            self.in_flight = self.in_flight + after.in_flight - before.in_flight;
        } else {
            self.remove(before);
            self.add(after);
        }
    }

    /// Whether more than half of the replicas that were ready are ejected. Replicas that were never ready do not count,
    /// so that a scale-up is no panic.
    pub(super) fn is_panic(&self) -> bool {
        self.lost > self.totals.ready
    }
}
