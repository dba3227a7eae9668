//! Counts of what each replica has answered, and the time that its answers took, for `/metrics` and `/status`. The
//! counts of a replica that is gone are forgotten, so that its series disappear.

use crate::rotation::ReplicaId;
use std::time::Duration;

/// What one replica has answered since it was published.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counts {
    /// Images that the replica has classified.
    pub classified: u64,
    /// Requests that the replica has refused, such as those with a broken image.
    pub refused: u64,
    /// Attempts that the replica has failed. One that found it busy is no failure.
    pub failed: u64,
    /// The sum of the times from the dispatch of each classified image to its answer.
    pub time: Duration,
}

/// The counts of all replicas.
#[derive(Debug, Default)]
pub struct ReplicaCounts {
    /// The counts of a replica, at the index [`ReplicaId::slot`], with the id of the replica to which they belong: a new
    /// replica may get the slot of one that is gone.
    slots: Vec<Option<(ReplicaId, Counts)>>,
}

impl ReplicaCounts {
    /// The counts of `replica`.
    pub fn get(&self, replica: ReplicaId) -> Counts {
        match self.slots.get(replica.slot()) {
            Some(&Some((owner, counts))) if owner == replica => counts,
            _ => Counts::default(),
        }
    }

    /// Records that `replica` classified an image `elapsed` after its dispatch.
    pub fn record_classified(&mut self, replica: ReplicaId, elapsed: Duration) {
        let counts = self.of(replica);
        counts.classified += 1;
        counts.time += elapsed;
    }

    /// Records that `replica` refused a request.
    pub fn record_refused(&mut self, replica: ReplicaId) {
        self.of(replica).refused += 1;
    }

    /// Records that an attempt at `replica` failed.
    pub fn record_failed(&mut self, replica: ReplicaId) {
        self.of(replica).failed += 1;
    }

    fn of(&mut self, replica: ReplicaId) -> &mut Counts {
        let slot = replica.slot();
        if slot >= self.slots.len() {
            self.slots.resize(slot + 1, None);
        }
        let entry = self.slots[slot].get_or_insert((replica, Counts::default()));
        if entry.0 != replica {
            *entry = (replica, Counts::default());
        }
        &mut entry.1
    }
}
