//! The replicas that have a free slot, in the order in which they are picked. Knows nothing of the reason for the order.

use super::Balance;
use std::collections::{BTreeSet, VecDeque};

/// The place of a replica in the order. The smallest is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    /// What counts first: the load under `least-loaded`, and 0 under `round-robin`. [`Turn::TRIAL`] comes after both.
    pub(super) rank: u32,
    /// The replica's pass of stride scheduling.
    pub(super) pass: u64,
    /// The replica's place among those of the same pass, which no two replicas share.
    pub(super) place: u64,
    /// The replica's place in memory.
    pub(super) slot: u32,
}

impl Turn {
    /// The rank of an ejected replica that may be tried if no ready one has a free slot.
    pub(super) const TRIAL: u32 = u32::MAX;
}

/// The set of turns.
///
/// Under `round-robin`, the replica that was picked last mostly gets the last turn. Such turns are in a ring: the cost of
/// adding one at its end, and of taking the first, does not depend on the number of replicas. All other turns are in a
/// tree, where it grows by the logarithm.
#[derive(Debug, Default)]
pub(super) struct Turns {
    has_ring: bool,
    /// Turns in ascending order.
    ring: VecDeque<Turn>,
    tree: BTreeSet<Turn>,
}

impl Turns {
    /// An empty set.
    pub(super) fn new(balance: Balance) -> Self {
        // Under `least-loaded`, every answer takes a turn from the middle, which costs more in a ring than in a tree.
        Self { has_ring: balance == Balance::RoundRobin, ..Self::default() }
    }

    /// Replaces the turn `current` of a replica by `next`; `None` stands for a replica without a free slot.
    pub(super) fn replace(&mut self, current: Option<Turn>, next: Option<Turn>) {
        if current == next {
            return;
        }
        if let Some(turn) = current {
            self.remove(&turn);
        }
        if let Some(turn) = next {
            self.insert(turn);
        }
    }

    fn insert(&mut self, turn: Turn) {
        let is_last = self.ring.back().is_none_or(|last| *last < turn);
        if self.has_ring && is_last && turn.rank != Turn::TRIAL {
            self.ring.push_back(turn);
        } else {
            self.tree.insert(turn);
        }
    }

    fn remove(&mut self, turn: &Turn) {
        if self.ring.front() == Some(turn) {
            self.ring.pop_front();
        } else if (self.tree.is_empty() || !self.tree.remove(turn))
            && let Ok(index) = self.ring.binary_search(turn)
        {
            // A replica in the middle of the ring is ejected, busy or passed over, which is rare.
            self.ring.remove(index);
        }
    }

    /// The next turn.
    pub(super) fn first(&self) -> Option<&Turn> {
        match (self.ring.front(), self.tree.first()) {
            (Some(in_ring), Some(in_tree)) => Some(in_ring.min(in_tree)),
            (in_ring, in_tree) => in_ring.or(in_tree),
        }
    }

    /// All turns, the next one first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Turn> {
        let (mut ring, mut tree) = (self.ring.iter().peekable(), self.tree.iter().peekable());
        std::iter::from_fn(move || match (ring.peek(), tree.peek()) {
            (Some(in_ring), Some(in_tree)) if in_ring > in_tree => tree.next(),
            (Some(_), _) => ring.next(),
            (None, _) => tree.next(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn turns_are_in_ascending_order_wherever_they_are_kept(
            has_ring in any::<bool>(),
            steps in prop::collection::vec((0..9_usize, prop::option::of(0..30_u64)), 0..200),
        ) {
            let mut turns = Turns { has_ring, ..Turns::default() };
            let mut current = [None; 9];
            for (index, pass) in steps {
                let next = pass.map(|pass| Turn { rank: 0, pass, place: index as u64, slot: index as u32 });
                turns.replace(current[index], next);
                current[index] = next;
                let mut expected: Vec<Turn> = current.into_iter().flatten().collect();
                expected.sort();
                prop_assert_eq!(turns.first(), expected.first());
                prop_assert_eq!(turns.iter().copied().collect::<Vec<_>>(), expected);
            }
        }
    }
}
