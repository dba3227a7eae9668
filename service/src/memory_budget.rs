//! The bytes that the requests of this process may hold together. A tenant can have a part of them that no other tenant
//! can take.

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

/// The bytes that the requests of this process may hold together: bodies, kept headers and tasks.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    shared: Arc<AtomicIsize>,
    own: Option<Arc<OwnPart>>,
}

/// The bytes of a budget that only one tenant can take.
#[derive(Debug, Default)]
struct OwnPart {
    size: AtomicIsize,
    /// The bytes that are left. Below 0 after the part has shrunk while its bytes were held.
    left: AtomicIsize,
}

impl MemoryBudget {
    /// A budget of `bytes`. Its clones share these bytes.
    pub fn new(bytes: usize) -> Self {
        let bytes = isize::try_from(bytes).unwrap_or(isize::MAX);
        Self { shared: Arc::new(AtomicIsize::new(bytes)), own: None }
    }

    /// The same bytes for a tenant, which has none for itself at first; see [`MemoryBudget::set_own_part`].
    pub fn for_tenant(&self) -> Self {
        Self { shared: self.shared.clone(), own: Some(Arc::default()) }
    }

    /// Sets the number of bytes that only this tenant can take. It takes them before the others. The budget may be exceeded
    /// by the difference to the number before, until requests return the bytes that they hold at present.
    ///
    /// # Panics
    /// If the budget is not one of [`MemoryBudget::for_tenant`].
    pub fn set_own_part(&self, bytes: usize) {
        let own = self.own.as_ref().expect("only a tenant has a part of its own");
        let bytes = isize::try_from(bytes).unwrap_or(isize::MAX);
        let more = bytes - own.size.swap(bytes, Ordering::Relaxed);
        self.shared.fetch_sub(more, Ordering::Relaxed);
        own.left.fetch_add(more, Ordering::Relaxed);
    }

    /// The bytes that are left for this tenant.
    pub fn left(&self) -> usize {
        let of = |part: &AtomicIsize| part.load(Ordering::Relaxed).max(0) as usize;
        of(&self.shared) + self.own.as_ref().map_or(0, |own| of(&own.left))
    }

    /// Takes `bytes` and returns the number of them that are from the tenant's own part. Returns `None` if fewer are left.
    fn take(&self, bytes: usize) -> Option<usize> {
        let from_own = self.own.as_ref().map_or(0, |own| {
            let take = |left: isize| left.max(0).min(bytes as isize);
            let update = |left: isize| Some(left - take(left));
            own.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update).map_or(0, take) as usize
        });
        let rest = (bytes - from_own) as isize;
        let less = |left: isize| (left >= rest).then(|| left - rest);
        if rest == 0 || self.shared.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            return Some(from_own);
        }
        self.give_back(from_own, 0);
        None
    }

    fn give_back(&self, to_own: usize, to_shared: usize) {
        self.shared.fetch_add(to_shared as isize, Ordering::Relaxed);
        if let Some(own) = &self.own {
            own.left.fetch_add(to_own as isize, Ordering::Relaxed);
        }
    }
}

/// Bytes that are taken from a [`MemoryBudget`] until this value is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: MemoryBudget,
    bytes: usize,
    /// The bytes that are from the tenant's own part.
    own_bytes: usize,
}

impl Reservation {
    /// A reservation of no bytes of `budget`.
    pub fn empty(budget: MemoryBudget) -> Self {
        Self { budget, bytes: 0, own_bytes: 0 }
    }

    /// Takes `more` bytes and returns true. Returns false and changes nothing if fewer are left.
    pub fn grow(&mut self, more: usize) -> bool {
        let taken = self.budget.take(more);
        if let Some(from_own) = taken {
            self.bytes += more;
            self.own_bytes += from_own;
        }
        taken.is_some()
    }

    /// Takes or returns bytes, so that `bytes` are reserved, and returns true. Returns false and changes nothing if too
    /// few are left.
    pub fn resize(&mut self, bytes: usize) -> bool {
        match bytes.checked_sub(self.bytes) {
            Some(0) => true,
            Some(more) => self.grow(more),
            None => {
                let less = self.bytes - bytes;
                let to_shared = less.min(self.bytes - self.own_bytes);
                self.budget.give_back(less - to_shared, to_shared);
                self.own_bytes -= less - to_shared;
                self.bytes = bytes;
                true
            }
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserve(budget: &MemoryBudget, bytes: usize) -> Option<Reservation> {
        let mut reservation = Reservation::empty(budget.clone());
        reservation.grow(bytes).then_some(reservation)
    }

    #[test]
    fn a_reservation_takes_and_returns_only_the_difference() {
        let budget = MemoryBudget::new(10);
        let mut reservation = Reservation::empty(budget.clone());
        for (bytes, has_room, left) in [(4, true, 6), (4, true, 6), (11, false, 6), (10, true, 0), (3, true, 7)] {
            assert_eq!(reservation.resize(bytes), has_room, "{bytes}");
            assert_eq!(budget.left(), left, "{bytes}");
        }
        drop(reservation);
        assert_eq!(budget.left(), 10);
    }

    #[test]
    fn a_tenant_cannot_take_the_part_of_another() {
        let budget = MemoryBudget::new(100);
        let [greedy, polite] = [budget.for_tenant(), budget.for_tenant()];
        greedy.set_own_part(20);
        polite.set_own_part(20);
        let held = reserve(&greedy, 80).expect("a tenant may have all but the parts of the others");
        assert!(reserve(&greedy, 1).is_none());
        assert!(reserve(&polite, 21).is_none());
        assert_eq!((greedy.left(), polite.left()), (0, 20), "a reservation that fails takes nothing");
        let other = reserve(&polite, 20).expect("its own part");
        drop(held);
        let more = reserve(&polite, 60).expect("what is shared");
        assert!(reserve(&polite, 1).is_none());
        drop((other, more));
        assert_eq!((greedy.left(), polite.left(), budget.left()), (80, 80, 60));
    }

    #[test]
    fn no_byte_is_lost_or_made_when_parts_change_while_bytes_are_held() {
        let budget = MemoryBudget::new(100);
        let [first, second] = [budget.for_tenant(), budget.for_tenant()];
        first.set_own_part(50);
        let mut held = reserve(&first, 80).expect("100 bytes are left");
        // The first tenant is removed, and another one comes.
        first.set_own_part(0);
        second.set_own_part(40);
        assert_eq!((first.left(), second.left()), (30, 70));
        drop(reserve(&second, 40).expect("its own part"));
        assert!(held.resize(60), "bytes can always be returned");
        drop(held);
        assert_eq!((first.left(), second.left(), budget.left()), (60, 100, 60));
    }
}
