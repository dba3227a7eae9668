//! What ends when: a priority queue for times that are only ever taken in ascending order.
//!
//! Source: R. Brown, "Calendar queues", CACM 31 (1988). A ring of days, in each of which
//! few ends fall, so that adding and taking cost much the same however many there are. What lies beyond the ring's year
//! waits in a heap.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Days in a year; a power of two.
const DAYS: usize = 8192;

/// What can stand in a [`Calendar`].
pub trait Dated: Ord + Copy {
    /// When it is due, nanoseconds.
    fn date(&self) -> u64;
}

/// Entries by date.
#[derive(Debug)]
pub struct Calendar<T> {
    /// A day lasts 2 to the power of this many nanoseconds.
    shift: u32,
    days: Vec<Vec<T>>,
    /// One bit a day: whether there is anything in it.
    occupied: [u64; DAYS / 64],
    /// The day of the latest entry that was taken; no entry is older.
    today: u64,
    later: BinaryHeap<Reverse<T>>,
    /// The earliest of all.
    next: Option<T>,
    length: usize,
}

impl<T: Dated> Calendar<T> {
    /// For entries of which most lie no more than `year` nanoseconds ahead.
    pub fn new(year: u64) -> Self {
        Self {
            shift: (year / DAYS as u64).max(1).ilog2(),
            days: (0..DAYS).map(|_| Vec::new()).collect(),
            occupied: [0; DAYS / 64],
            today: 0,
            later: BinaryHeap::new(),
            next: None,
            length: 0,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The earliest.
    pub fn peek(&self) -> Option<&T> {
        self.next.as_ref()
    }

    /// Adds an entry, which is not older than the last that was taken.
    pub fn push(&mut self, entry: T) {
        self.length += 1;
        match self.next {
            Some(next) if next <= entry => self.store(entry),
            earlier => {
                self.next = Some(entry);
                if let Some(earlier) = earlier {
                    self.store(earlier);
                }
            }
        }
    }

    /// Takes the earliest.
    pub fn pop(&mut self) -> Option<T> {
        let taken = self.next.take()?;
        self.length -= 1;
        self.today = taken.date() >> self.shift;
        self.next = self.take();
        Some(taken)
    }

    fn store(&mut self, entry: T) {
        let day = entry.date() >> self.shift;
        if day >= self.today + DAYS as u64 {
            return self.later.push(Reverse(entry));
        }
        let index = day as usize % DAYS;
        self.days[index].push(entry);
        self.occupied[index / 64] |= 1 << (index % 64);
    }

    /// Takes the earliest of the stored ones.
    fn take(&mut self) -> Option<T> {
        let Some(index) = self.first_occupied() else { return self.later.pop().map(|later| later.0) };
        let day = &mut self.days[index];
        let (position, &entry) = day.iter().enumerate().min_by_key(|(_, entry)| **entry).expect("it is occupied");
        if self.later.peek().is_some_and(|later| later.0 < entry) {
            return self.later.pop().map(|later| later.0);
        }
        day.swap_remove(position);
        if day.is_empty() {
            self.occupied[index / 64] &= !(1 << (index % 64));
        }
        Some(entry)
    }

    /// From today on; days before it belong to the end of the year.
    fn first_occupied(&self) -> Option<usize> {
        let today = self.today as usize % DAYS;
        let (word, bit) = (today / 64, today % 64);
        let rest = self.occupied[word] & (u64::MAX << bit);
        if rest != 0 {
            return Some(word * 64 + rest.trailing_zeros() as usize);
        }
        let words = self.occupied.len();
        // The first word comes once more in the end, for its days before today.
        (1..=words)
            .map(|step| (word + step) % words)
            .find(|&word| self.occupied[word] != 0)
            .map(|word| word * 64 + self.occupied[word].trailing_zeros() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Dated for u64 {
        fn date(&self) -> u64 {
            *self
        }
    }

    proptest! {
        #[test]
        fn it_gives_what_a_heap_gives(
            year in 1..10_000_000_u64,
            steps in prop::collection::vec((any::<bool>(), 0..60_u32, any::<u64>()), 1..500),
        ) {
            let (mut calendar, mut heap, mut now) = (Calendar::new(year), BinaryHeap::new(), 0);
            for (adds, bits, random) in steps {
                if adds {
                    // Near and far, over many years.
                    let date = now + (random & ((1 << (bits % 40)) - 1));
                    calendar.push(date);
                    heap.push(Reverse(date));
                } else {
                    prop_assert_eq!(calendar.peek().copied(), heap.peek().map(|date| date.0));
                    let taken = calendar.pop();
                    prop_assert_eq!(taken, heap.pop().map(|date| date.0));
                    now = taken.unwrap_or(now);
                }
                prop_assert_eq!(calendar.len(), heap.len());
            }
        }
    }
}
