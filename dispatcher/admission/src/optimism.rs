//! The decision whether a request is sent to a replica that seems to have a free slot, or whether the dispatcher asks
//! the replica first. Pure.

/// The number of slots in a row that must be free, as they seemed, before fewer of them are required. One wrong guess
/// costs at least as many questions, so less than 2 % of all attempts find no slot.
const CONFIRMATIONS: u32 = 50;

/// The number of slots of a replica that must seem free for a request that is sent without asking. It is 1 for a
/// dispatcher that has its replicas for itself, so it never asks. A slot that seemed free and was taken makes the
/// dispatcher ask always. Then each run of 50 slots that are free as they seemed takes one slot off the margin: with many
/// slots that others rarely use, most requests need no question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Optimism {
    margin: usize,
    confirmed: u32,
}

/// Nothing was learnt yet.
impl Default for Optimism {
    fn default() -> Self {
        Self { margin: 1, confirmed: 0 }
    }
}

impl Optimism {
    /// The number of slots of a replica that must seem free for a request that is sent without asking.
    pub fn margin(&self) -> usize {
        self.margin
    }

    /// Whether a request is sent at once to a replica that seems to have `free` free slots.
    pub fn allows(&self, free: usize) -> bool {
        free >= self.margin
    }

    /// Records that a slot of a replica with `capacity` slots seemed free, and whether it was free.
    pub fn record(&mut self, was_free: bool, capacity: usize) {
        if !was_free {
            *self = Self { margin: capacity + 1, confirmed: 0 };
        } else if self.margin > 1 {
            self.confirmed += 1;
            if self.confirmed == CONFIRMATIONS {
                *self = Self { margin: self.margin - 1, confirmed: 0 };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_wrong_guess_a_dispatcher_asks_until_enough_guesses_were_right() {
        let mut optimism = Optimism::default();
        (0..1000).for_each(|_| optimism.record(true, 2));
        assert!(optimism.allows(1) && !optimism.allows(0));
        optimism.record(false, 2);
        for (confirmed, least) in [(49, 3), (1, 2), (49, 2), (1, 1), (500, 1)] {
            (0..confirmed).for_each(|_| optimism.record(true, 2));
            assert!(optimism.allows(least) && !optimism.allows(least - 1), "{optimism:?} {least}");
        }
        (0..30).for_each(|_| optimism.record(true, 2));
        optimism.record(false, 2);
        (0..49).for_each(|_| optimism.record(true, 2));
        assert!(!optimism.allows(2), "the count begins anew");
    }
}
