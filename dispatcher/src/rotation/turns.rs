//! The replicas that have a free slot, in the order in which they are picked. Knows nothing of the reason for the order.

mod bit_tree;
mod grid;

use super::Balance;
use grid::Grid;
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

/// The number of ascending sequences in which most turns are kept. A pick raises the pass of replicas of the same
/// capacity by the same amount, so their turns make one sequence in the order of picks. Replicas of further capacities
/// cost more, but are in the right order.
const SEQUENCES: usize = 3;

/// The set of turns.
///
/// Most changes neither search nor move other turns, so that their cost does not depend on the number of replicas: a pick
/// mostly gives the last turn of a sequence, and an answer at most changes the rank. All other turns are in a tree, where
/// the cost grows by the logarithm.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Whether the sequences are rings, in which ranks are not changed, and not grids.
    has_ring: bool,
    /// Turns in ascending order.
    rings: [VecDeque<Turn>; SEQUENCES],
    /// Turns with ascending passes and any ranks.
    grids: [Grid; SEQUENCES],
    tree: BTreeSet<Turn>,
    /// The next turn. It is asked for several times between two changes.
    next: Option<Turn>,
}

impl Turns {
    /// An empty set.
    pub(super) fn new(balance: Balance) -> Self {
        // Under `round-robin`, all ready replicas have one rank, and a ring costs less than a grid.
        Self { has_ring: balance == Balance::RoundRobin, ..Self::default() }
    }

    /// Replaces the turn `current` of a replica by `next`; `None` stands for a replica without a free slot.
    pub(super) fn replace(&mut self, current: Option<Turn>, next: Option<Turn>) {
        if current == next {
            return;
        }
        if !self.change_rank(current, next) {
            if let Some(turn) = current {
                self.remove(&turn);
            }
            if let Some(turn) = next {
                // A replica that had no free slot returns with an old pass. That would seldom fit into a further
                // sequence, and would keep later picks out of it.
                self.insert(turn, if current.is_some() { SEQUENCES } else { 1 });
            }
        }
        self.next = self.find_next().copied();
    }

    /// Replaces a turn if only its rank changes and a grid has it.
    fn change_rank(&mut self, current: Option<Turn>, next: Option<Turn>) -> bool {
        let (Some(current), Some(next)) = (current, next) else { return false };
        !self.has_ring
            && (current.pass, current.place) == (next.pass, next.place)
            && self.grids.iter_mut().any(|grid| grid.change_rank(&current, next.rank))
    }

    /// Adds a turn to one of the first `sequences` sequences, or to the tree.
    fn insert(&mut self, turn: Turn, sequences: usize) {
        if self.has_ring {
            let ring = self.rings[..sequences].iter_mut().find(|ring| ring.back().is_none_or(|last| *last < turn));
            match ring {
                // In a ring, a turn of an ejected replica would keep all later picks out of it.
                Some(ring) if turn.rank != Turn::TRIAL => ring.push_back(turn),
                _ => _ = self.tree.insert(turn),
            }
            return;
        }
        let mut homeless = turn;
        for grid in &mut self.grids[..sequences] {
            match grid.insert(homeless) {
                // Either `turn` does not fit, or it has the place of another turn.
                Some(turn) => homeless = turn,
                None => return,
            }
        }
        self.tree.insert(homeless);
    }

    fn remove(&mut self, turn: &Turn) {
        if !self.has_ring {
            if !self.grids.iter_mut().any(|grid| grid.remove(turn)) {
                self.tree.remove(turn);
            }
        } else if let Some(ring) = self.rings.iter_mut().find(|ring| ring.front() == Some(turn)) {
            ring.pop_front();
        } else if self.tree.is_empty() || !self.tree.remove(turn) {
            // A replica in the middle of a ring is ejected, busy or passed over, which is rare.
            for ring in &mut self.rings {
                if let Ok(index) = ring.binary_search(turn) {
                    ring.remove(index);
                }
            }
        }
    }

    /// The next turn.
    pub(super) fn first(&self) -> Option<&Turn> {
        self.next.as_ref()
    }

    fn find_next(&self) -> Option<&Turn> {
        let in_tree = self.tree.first();
        if self.has_ring {
            self.rings.iter().filter_map(VecDeque::front).chain(in_tree).min()
        } else {
            self.grids.iter().filter_map(Grid::first).chain(in_tree).min()
        }
    }

    /// All turns, the next one first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Turn> {
        let rings = self.rings.iter().map(|ring| Box::new(ring.iter()) as Box<dyn Iterator<Item = &Turn>>);
        let grids = self.grids.iter().map(|grid| Box::new(grid.iter()) as Box<dyn Iterator<Item = &Turn>>);
        let tree: Box<dyn Iterator<Item = &Turn>> = Box::new(self.tree.iter());
        let mut sources: Vec<_> = rings.chain(grids).chain([tree]).map(Iterator::peekable).collect();
        std::iter::from_fn(move || {
            let firsts = sources.iter_mut().filter_map(|source| Some((*source.peek()?, source)));
            let (_, source) = firsts.min_by_key(|&(turn, _)| turn)?;
            source.next()
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

    /// What happens to a replica.
    #[derive(Debug, Clone)]
    enum Event {
        /// It is picked. Its pass rises by one of these amounts, and its rank is another one.
        Picked(usize, u32),
        /// Its rank changes.
        Ranked(u32),
        /// It has no free slot any more.
        Full,
        /// It has a free slot again, and the pass that it had.
        Free(u32),
        /// Another replica takes its place in memory, with the pass of the last pick.
        Replaced,
    }

    fn event(ranks: u32) -> impl Strategy<Value = Event> {
        prop_oneof![
            8 => (0..5_usize, 0..ranks).prop_map(|(amount, rank)| Event::Picked(amount, rank)),
            6 => (0..ranks).prop_map(Event::Ranked),
            2 => Just(Event::Full),
            2 => (0..ranks).prop_map(Event::Free),
            1 => Just(Event::Replaced),
        ]
    }

    /// The replicas, and the events with the numbers of their replicas. Sometimes there are more ranks than rows, and
    /// often some replicas are not picked while the columns of all grids are used again.
    fn history() -> impl Strategy<Value = (usize, Vec<(usize, Event)>)> {
        (1..70_usize, prop_oneof![1..5_u32, 100..200_u32]).prop_flat_map(|(replicas, ranks)| {
            let few = 0..replicas.div_ceil(4);
            let events = prop::collection::vec((prop_oneof![1 => 0..replicas, 2 => few], event(ranks)), 0..600);
            (Just(replicas), events)
        })
    }

    proptest! {
        #[test]
        fn turns_are_in_ascending_order_while_replicas_of_several_capacities_are_picked(
            has_ring in any::<bool>(),
            (replicas, events) in history(),
        ) {
            const AMOUNTS: [u64; 5] = [100, 100, 100, 50, 1000];
            let mut turns = Turns { has_ring, ..Turns::default() };
            let first = |index: usize| Turn { rank: 0, pass: 0, place: index as u64, slot: index as u32 };
            // The turn of each replica, and whether it has a free slot.
            let mut all: Vec<(Turn, bool)> = (0..replicas).map(|index| (first(index), false)).collect();
            let mut last_pass = 0;
            for (number, (index, event)) in (replicas as u64..).zip(events) {
                let (turn, is_free) = &mut all[index];
                let before = is_free.then_some(*turn);
                match event {
                    Event::Picked(amount, rank) => {
                        last_pass = last_pass.max(turn.pass);
                        *turn = Turn { rank, pass: last_pass + AMOUNTS[amount], place: number, slot: turn.slot };
                    }
                    Event::Ranked(rank) => turn.rank = rank,
                    Event::Full => *is_free = false,
                    Event::Free(rank) => {
                        turn.rank = rank;
                        *is_free = true;
                    }
                    Event::Replaced => {
                        turns.replace(before, None);
                        *turn = Turn { rank: Turn::TRIAL, pass: last_pass, place: number, slot: turn.slot };
                        turns.replace(None, Some(*turn));
                        *is_free = true;
                        continue;
                    }
                }
                turns.replace(before, is_free.then_some(*turn));
                let mut expected: Vec<Turn> = all.iter().filter(|(_, is_free)| *is_free).map(|(turn, _)| *turn).collect();
                expected.sort();
                prop_assert_eq!(turns.first(), expected.first());
                prop_assert_eq!(turns.iter().copied().collect::<Vec<_>>(), expected);
            }
        }
    }

    #[test]
    fn under_least_loaded_no_turn_of_equal_replicas_is_in_the_tree_however_they_answer() {
        let mut turns = Turns::new(Balance::LeastLoaded);
        let turn = |slot: u32, rank, number| Turn { rank, pass: number, place: number, slot };
        let mut all: Vec<Turn> = (0..100).map(|slot| turn(slot, 0, u64::from(slot) + 1)).collect();
        all.iter().for_each(|turn| turns.replace(None, Some(*turn)));
        for number in 101..2000_u64 {
            let picked = *turns.first().expect("there are turns");
            let next = turn(picked.slot, picked.rank + 1, number);
            turns.replace(Some(picked), Some(next));
            all[picked.slot as usize] = next;
            // Another replica answers, in no particular order.
            let answered = &mut all[(number * 37 % 100) as usize];
            let next = Turn { rank: answered.rank.saturating_sub(1), ..*answered };
            turns.replace(Some(*answered), Some(next));
            *answered = next;
        }
        assert!(turns.tree.is_empty(), "{} of 100 turns", turns.tree.len());
    }
}
