//! The replicas in rotation at one dispatcher of the plant, and the order in which their turns come. The rotation knows
//! only the requests of its own dispatcher: a replica that has a free slot here may hold requests of other dispatchers.

use std::collections::VecDeque;

/// The replicas that one dispatcher sends requests to.
#[derive(Debug)]
pub(super) struct Rotation {
    /// The number of requests that a replica holds at once.
    slots: usize,
    /// The number of replicas in rotation.
    replicas: usize,
    /// The numbers of the replicas with a free slot, in the order in which their turns come. Replicas that are passed
    /// over for a pause are not among them.
    free: VecDeque<u32>,
    /// The number of slots of each replica that requests of this dispatcher use, by the number of the replica.
    used: Vec<u32>,
}

impl Rotation {
    /// A rotation without replicas, which will have `slots` slots each.
    pub(super) fn new(slots: usize) -> Self {
        Self { slots, replicas: 0, free: VecDeque::new(), used: Vec::new() }
    }

    /// The number of slots of all replicas in rotation.
    pub(super) fn capacity(&self) -> usize {
        self.replicas * self.slots
    }

    /// The replica whose turn it is; `None` if no replica has a free slot.
    pub(super) fn first(&self) -> Option<u32> {
        self.free.front().copied()
    }

    /// Adds a new replica, which takes its turn after all others.
    pub(super) fn add(&mut self, number: u32) {
        self.replicas += 1;
        // Starts need not end in the order of the numbers.
        self.used.resize(self.used.len().max(number as usize + 1), 0);
        self.free.push_back(number);
    }

    /// Takes a replica out of the rotation for good.
    pub(super) fn remove(&mut self, number: u32) {
        self.replicas -= 1;
        self.free.retain(|&free| free != number);
    }

    /// Takes a slot of replica `number`, whose turn it is. The replica takes its next turn after all others.
    pub(super) fn take_slot(&mut self, number: u32) {
        self.free.pop_front();
        let used = &mut self.used[number as usize];
        *used += 1;
        if (*used as usize) < self.slots {
            self.free.push_back(number);
        }
    }

    /// Frees a slot of a replica, whose turn comes after all others if it had no free slot.
    pub(super) fn free_slot(&mut self, number: u32) {
        // A replica whose slots were not all taken still waits for its turn, or for the end of its pause.
        if self.used[number as usize] as usize == self.slots {
            self.free.push_back(number);
        }
        self.used[number as usize] -= 1;
    }

    /// Passes over the replica whose turn it is, until [`Rotation::end_pause`].
    pub(super) fn begin_pause(&mut self) {
        self.free.pop_front();
    }

    /// Ends the pause of replica `number`, whose turn comes after all others.
    pub(super) fn end_pause(&mut self, number: u32) {
        self.free.push_back(number);
    }
}
