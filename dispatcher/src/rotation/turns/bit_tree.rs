//! A set of small numbers. The smallest number from a given one on is found in one step for each six bits of the largest
//! number. Knows nothing of what the numbers stand for.

use std::ops::Range;

/// Bits in a word.
const BITS: usize = u64::BITS as usize;

/// The largest number of levels, enough for 2^24 numbers.
const MAX_LEVELS: usize = 4;

/// The set.
///
/// The words of the first level have a bit for each number. Each further level has a bit for each word of the level
/// below that is not zero. The last level has one word.
#[derive(Debug)]
pub(super) struct BitTree {
    /// The words of all levels, those of the first level first.
    words: Vec<u64>,
    /// The index of the first word of each level.
    starts: [usize; MAX_LEVELS],
    levels: usize,
}

impl BitTree {
    /// An empty set that may hold the numbers below `bound`.
    ///
    /// # Panics
    /// If `bound` is above 2^24.
    pub(super) fn new(bound: usize) -> Self {
        let (mut starts, mut levels, mut words) = ([0; MAX_LEVELS], 0, 0);
        let mut width = bound;
        while levels == 0 || width > 1 {
            width = width.div_ceil(BITS).max(1);
            starts[levels] = words;
            words += width;
            levels += 1;
        }
        Self { words: vec![0; words], starts, levels }
    }

    /// Whether `number` is in the set. It need not be below the bound.
    pub(super) fn contains(&self, number: usize) -> bool {
        let word = number / BITS;
        // A word of another level is not meant.
        (self.levels == 1 || word < self.starts[1]) && self.words.get(word).is_some_and(|word| word & bit(number) != 0)
    }

    /// Adds `number`.
    ///
    /// # Panics
    /// If `number` is not below the bound.
    pub(super) fn insert(&mut self, mut number: usize) {
        for start in &self.starts[..self.levels] {
            let word = &mut self.words[start + number / BITS];
            let was_zero = *word == 0;
            *word |= bit(number);
            if !was_zero {
                return;
            }
            number /= BITS;
        }
    }

    /// Removes `number`. Returns whether the set is empty now.
    ///
    /// # Panics
    /// If `number` is not below the bound.
    pub(super) fn remove(&mut self, mut number: usize) -> bool {
        for start in &self.starts[..self.levels] {
            let word = &mut self.words[start + number / BITS];
            *word &= !bit(number);
            if *word != 0 {
                return false;
            }
            number /= BITS;
        }
        true
    }

    /// The smallest number that is not below `from`.
    pub(super) fn first_from(&self, from: usize) -> Option<usize> {
        let mut index = from;
        for (level, start) in self.starts[..self.levels].iter().enumerate() {
            let end = self.starts[..self.levels].get(level + 1).copied().unwrap_or(self.words.len());
            let rest = self.words[*start..end].get(index / BITS)? & (u64::MAX << (index % BITS));
            if rest != 0 {
                return Some(self.descend(level, index / BITS * BITS + rest.trailing_zeros() as usize));
            }
            index = index / BITS + 1;
        }
        None
    }

    /// The smallest number below the bit `index` of `level`.
    fn descend(&self, level: usize, index: usize) -> usize {
        let below = self.starts[..level].iter().rev();
        below.fold(index, |index, start| index * BITS + self.words[start + index].trailing_zeros() as usize)
    }

    /// The numbers of a range in ascending order.
    pub(super) fn range(&self, range: Range<usize>) -> impl Iterator<Item = usize> {
        let mut from = range.start;
        std::iter::from_fn(move || {
            let found = self.first_from(from).filter(|&found| found < range.end)?;
            from = found + 1;
            Some(found)
        })
    }
}

fn bit(number: usize) -> u64 {
    1 << (number % BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::Index;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn the_set_answers_as_a_search_tree_does(
            bound in prop_oneof![1..70_usize, 4000..5000_usize, 262_100..262_200_usize],
            steps in prop::collection::vec((any::<bool>(), any::<Index>(), any::<Index>()), 0..200),
        ) {
            let (mut set, mut expected) = (BitTree::new(bound), BTreeSet::new());
            for (is_new, which, from) in steps {
                if is_new || expected.is_empty() {
                    let number = which.index(bound);
                    set.insert(number);
                    expected.insert(number);
                } else {
                    let number = *which.get(&expected.iter().copied().collect::<Vec<_>>());
                    expected.remove(&number);
                    prop_assert_eq!(set.remove(number), expected.is_empty());
                }
                let from = from.index(bound);
                prop_assert_eq!(set.contains(from), expected.contains(&from));
                prop_assert_eq!(set.first_from(from), expected.range(from..).next().copied());
                prop_assert_eq!(set.first_from(bound), None);
                prop_assert!(!set.contains(usize::MAX));
                prop_assert!(set.range(0..from).eq(expected.range(..from).copied()));
            }
        }
    }
}
