//! The slots of one replica, and who gets them: the requests that take slots, the claims of dispatchers, and the slots
//! that are granted to a dispatcher and not yet used. Pure: time is an argument. It knows nothing of HTTP.

use crate::claim::Claim;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// The time for which a granted slot stays reserved. It is longer than a round trip on a busy machine. A dispatcher that
/// does not use the slot in that time has died.
pub const LEASE: Duration = Duration::from_millis(100);

/// The age from which on the backlog of a dispatcher no longer counts.
const BACKLOG_LASTS: Duration = Duration::from_secs(2);

/// The requests that wait at one dispatcher, or at several together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Requests that can still meet the objective.
    pub punctual: usize,
    /// Requests that can no longer meet the objective.
    pub late: usize,
}

impl Backlog {
    /// The number of requests of both classes.
    pub fn sum(self) -> usize {
        self.punctual + self.late
    }

    /// The backlog with one request less, a punctual one if there is any.
    fn without_next(self) -> Self {
        if self.punctual > 0 {
            Self { punctual: self.punctual - 1, ..self }
        } else {
            Self { late: self.late.saturating_sub(1), ..self }
        }
    }
}

/// What a replica knows of the other dispatchers, when it tells one dispatcher of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Others {
    /// The number of slots that requests and grants of the others take.
    pub taken: usize,
    /// Whether one of the others claims a slot.
    pub claim: bool,
}

/// The slots of a replica. `K` is the name of a dispatcher.
#[derive(Debug)]
pub struct Grants<K> {
    slots: usize,
    /// The number of slots that are taken or granted.
    used: usize,
    dispatchers: BTreeMap<K, Dispatcher>,
}

/// What the replica knows about one dispatcher.
#[derive(Debug, Default)]
struct Dispatcher {
    /// The number of slots that its requests take.
    held: usize,
    /// The ends of its grants that it has not used, the earliest first.
    leases: VecDeque<Instant>,
    /// Its claim, and the instant at which that arrived.
    claim: Option<(Claim, Instant)>,
    /// Its backlog, and the instant at which it told that.
    backlog: Option<(Backlog, Instant)>,
}

impl Dispatcher {
    /// The claim and its instant, if it is for any slot.
    fn open_claim(&self) -> Option<(Claim, Instant)> {
        self.claim.filter(|(claim, _)| claim.slots > 0)
    }

    fn is_unknown(&self) -> bool {
        self.held == 0 && self.leases.is_empty() && self.claim.is_none() && self.backlog.is_none()
    }
}

impl<K: Copy + Ord> Grants<K> {
    /// `slots` free slots.
    pub fn new(slots: usize) -> Self {
        Self { slots, used: 0, dispatchers: BTreeMap::new() }
    }

    /// The number of slots.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// The number of slots that are neither taken nor granted.
    pub fn free(&self) -> usize {
        self.slots.saturating_sub(self.used)
    }

    /// The number of slots that requests take.
    pub fn held(&self) -> usize {
        self.dispatchers.values().map(|dispatcher| dispatcher.held).sum()
    }

    /// The dispatchers but `asking`, as far as they concern it.
    pub fn others(&self, asking: K) -> Others {
        let mut others = Others::default();
        for (_, dispatcher) in self.dispatchers.iter().filter(|(name, _)| **name != asking) {
            others.taken += dispatcher.held + dispatcher.leases.len();
            others.claim |= dispatcher.open_claim().is_some();
        }
        others
    }

    /// Takes `count` slots for a request of `dispatcher`, or none. If the request uses a grant, the grant is one of these
    /// slots. Returns whether the slots were taken.
    pub fn take(&mut self, dispatcher: K, count: usize, uses_grant: bool) -> bool {
        let granted =
            self.dispatchers.get(&dispatcher).filter(|known| uses_grant && !known.leases.is_empty()).is_some();
        if count > self.free() + usize::from(granted) {
            return false;
        }
        let known = self.dispatchers.entry(dispatcher).or_default();
        if granted {
            // The newest one, so that one that was given for a request which never came ends in time.
            known.leases.pop_back();
            self.used -= 1;
        }
        known.held += count;
        self.used += count;
        true
    }

    /// Frees a slot of `dispatcher`, and grants it to the dispatcher whose claim is next. Returns that dispatcher.
    pub fn release(&mut self, dispatcher: K, now: Instant) -> Option<K> {
        let known = self.dispatchers.get_mut(&dispatcher)?;
        known.held = known.held.checked_sub(1)?;
        self.used -= 1;
        self.forget_if_unknown(dispatcher);
        self.offer(now)
    }

    /// Sets the claim of `dispatcher`. Returns the dispatchers that are granted a slot by that: free slots go to claims.
    pub fn claim(&mut self, dispatcher: K, claim: Claim, now: Instant) -> Vec<K> {
        self.set_claim(dispatcher, claim, now);
        self.offer_all(now)
    }

    /// Sets the claim of `dispatcher`, which asks for a slot. Returns whether it is granted one.
    pub fn ask(&mut self, dispatcher: K, claim: Claim, now: Instant) -> bool {
        self.set_claim(dispatcher, claim, now);
        let is_granted = claim.slots > 0 && self.free() > 0;
        if is_granted {
            self.grant(dispatcher, now);
        }
        is_granted
    }

    /// Takes back a grant that `dispatcher` does not need, and its claim. Returns the dispatchers that are granted a slot
    /// by that.
    pub fn give_back(&mut self, dispatcher: K, now: Instant) -> Vec<K> {
        if let Some(known) = self.dispatchers.get_mut(&dispatcher) {
            self.used -= usize::from(known.leases.pop_back().is_some());
            known.claim = None;
            self.forget_if_unknown(dispatcher);
        }
        self.offer_all(now)
    }

    /// Records the backlog of `dispatcher`. Returns the dispatchers that should be told the backlog of all others now, each
    /// with that: `dispatcher` itself, and those whose late requests waited for the punctual ones of `dispatcher` only.
    pub fn tell(&mut self, dispatcher: K, backlog: Backlog, now: Instant) -> Vec<(K, Backlog)> {
        let had_punctual = self.backlog(dispatcher, now).punctual > 0;
        self.dispatchers.entry(dispatcher).or_default().backlog = (backlog.sum() > 0).then_some((backlog, now));
        self.forget_if_unknown(dispatcher);
        let mut all = Backlog::default();
        for &name in self.dispatchers.keys() {
            let backlog = self.backlog(name, now);
            all.punctual += backlog.punctual;
            all.late += backlog.late;
        }
        let others = |of: Backlog| Backlog { punctual: all.punctual - of.punctual, late: all.late - of.late };
        let mut told = vec![(dispatcher, others(backlog))];
        if had_punctual && backlog.punctual == 0 {
            let names = self.dispatchers.keys().filter(|name| **name != dispatcher);
            told.extend(names.filter_map(|&name| {
                let waiting = self.backlog(name, now);
                let others = others(waiting);
                (waiting.late > 0 && others.punctual == 0).then_some((name, others))
            }));
        }
        told
    }

    /// The backlog that `dispatcher` has told, if that still counts.
    fn backlog(&self, dispatcher: K, now: Instant) -> Backlog {
        let told = self.dispatchers.get(&dispatcher).and_then(|known| known.backlog);
        told.filter(|(_, at)| *at + BACKLOG_LASTS > now).map(|(backlog, _)| backlog).unwrap_or_default()
    }

    /// Ends the grants of `dispatcher` that are due. If there is one, the dispatcher has died or has no processor: its
    /// claim and its backlog are forgotten, so that no further slot waits for it. Returns `None` if none is due, and
    /// otherwise the dispatchers that are granted a slot by that.
    pub fn end_leases(&mut self, dispatcher: K, now: Instant) -> Option<Vec<K>> {
        let known = self.dispatchers.get_mut(&dispatcher)?;
        let before = known.leases.len();
        known.leases.retain(|&end| end > now);
        let ended = before - known.leases.len();
        if ended == 0 {
            return None;
        }
        self.used -= ended;
        (known.claim, known.backlog) = (None, None);
        self.forget_if_unknown(dispatcher);
        Some(self.offer_all(now))
    }

    /// The earliest end of a grant of `dispatcher` that it has not used; `None` if there is none.
    pub fn next_end(&self, dispatcher: K) -> Option<Instant> {
        self.dispatchers.get(&dispatcher)?.leases.front().copied()
    }

    /// Ends the grants, the claim and the backlog of `dispatcher`, which is gone. Its requests keep their slots. Returns the
    /// dispatchers that are granted a slot by that.
    pub fn leave(&mut self, dispatcher: K, now: Instant) -> Vec<K> {
        if let Some(known) = self.dispatchers.get_mut(&dispatcher) {
            self.used -= known.leases.len();
            known.leases.clear();
            (known.claim, known.backlog) = (None, None);
            self.forget_if_unknown(dispatcher);
        }
        self.offer_all(now)
    }

    fn set_claim(&mut self, dispatcher: K, claim: Claim, now: Instant) {
        self.dispatchers.entry(dispatcher).or_default().claim = (claim.slots > 0).then_some((claim, now));
        self.forget_if_unknown(dispatcher);
    }

    /// Grants all free slots to claims, in the order of their turns. Returns the dispatchers of the granted slots.
    pub fn offer_all(&mut self, now: Instant) -> Vec<K> {
        std::iter::from_fn(|| self.offer(now)).collect()
    }

    /// Grants a free slot to the dispatcher whose claim is next. Returns that dispatcher; `None` if no slot is free or
    /// there is no claim.
    fn offer(&mut self, now: Instant) -> Option<K> {
        if self.free() == 0 {
            return None;
        }
        let claims = self.dispatchers.iter().filter_map(|(&name, known)| Some((name, known.open_claim()?)));
        let turn = |&(name, (claim, at)): &(K, (Claim, Instant))| (claim.turn(now.saturating_duration_since(at)), name);
        let (next, _) = claims.min_by_key(turn)?;
        self.grant(next, now);
        Some(next)
    }

    fn grant(&mut self, dispatcher: K, now: Instant) {
        let Some(known) = self.dispatchers.get_mut(&dispatcher) else { return };
        known.leases.push_back(now + LEASE);
        self.used += 1;
        if let Some((claim, _)) = &mut known.claim {
            claim.slots = claim.slots.saturating_sub(1);
        }
        // The request that gets this slot no longer waits.
        if let Some((backlog, _)) = &mut known.backlog {
            *backlog = backlog.without_next();
        }
    }

    fn forget_if_unknown(&mut self, dispatcher: K) {
        if self.dispatchers.get(&dispatcher).is_some_and(Dispatcher::is_unknown) {
            self.dispatchers.remove(&dispatcher);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// A claim of `slots` slots whose next request has waited for `waited` milliseconds.
    fn claim(slots: usize, waited: u64) -> Claim {
        Claim { slots, waiting: slots, waited: MS(waited), late_after: Some(MS(400)) }
    }

    #[test]
    fn a_free_slot_goes_to_the_request_that_has_waited_longest() {
        let (mut grants, now) = (Grants::new(2), Instant::now());
        assert!(grants.take('a', 1, false) && grants.take('b', 1, false) && !grants.take('b', 1, false));
        assert_eq!(grants.claim('a', claim(3, 20), now), []);
        assert_eq!(grants.claim('b', claim(2, 50), now), []);
        assert_eq!(grants.others('a'), Others { taken: 1, claim: true });
        assert_eq!(grants.release('a', now), Some('b'));
        assert_eq!(grants.others('a'), Others { taken: 2, claim: true });
        assert!(!grants.take('a', 1, true), "the slot is kept for the other dispatcher");
        assert!(grants.take('b', 1, true));
        assert_eq!(grants.claim('b', claim(0, 0), now), []);
        assert_eq!(grants.release('b', now), Some('a'));
        assert!(grants.take('a', 1, true));
    }

    #[test]
    fn a_dispatcher_that_does_not_use_its_grant_loses_its_claim() {
        let (mut grants, now) = (Grants::new(1), Instant::now());
        assert!(grants.ask('a', claim(2, 0), now));
        assert!(!grants.ask('b', claim(1, 0), now));
        assert_eq!(grants.next_end('a'), Some(now + LEASE));
        assert_eq!(grants.end_leases('a', now + MS(99)), None);
        assert_eq!(grants.end_leases('a', now + MS(100)), Some(vec!['b']));
        assert!(!grants.take('a', 1, true), "the slot is another's now");
        assert_eq!(grants.leave('b', now), []);
        assert_eq!((grants.free(), grants.dispatchers.len()), (1, 0));
    }

    #[test]
    fn a_grant_is_one_of_the_slots_of_its_request() {
        let (mut grants, now) = (Grants::new(3), Instant::now());
        assert!(grants.ask('a', claim(1, 0), now));
        assert!(grants.take('a', 3, true));
        assert_eq!((grants.free(), grants.held()), (0, 3));
        assert_eq!(grants.give_back('a', now), []);
        assert_eq!((grants.free(), grants.held()), (0, 3), "there is no grant any more");
    }

    #[test]
    fn the_backlogs_of_others_are_summed_up_and_forgotten() {
        let (mut grants, now) = (Grants::new(1), Instant::now());
        let backlog = |punctual, late| Backlog { punctual, late };
        assert_eq!(grants.tell('a', backlog(3, 1), now), [('a', backlog(0, 0))]);
        assert_eq!(grants.tell('b', backlog(2, 5), now), [('b', backlog(3, 1))]);
        assert_eq!(grants.tell('c', backlog(7, 0), now), [('c', backlog(5, 6))]);
        assert_eq!(grants.tell('a', backlog(0, 0), now), [('a', backlog(9, 5))]);
        assert_eq!(grants.leave('c', now), []);
        assert!(grants.ask('b', claim(9, 0), now));
        let told = grants.tell('a', backlog(0, 0), now);
        assert_eq!(told, [('a', backlog(1, 5))], "the request that gets the slot waits no more");
        assert_eq!(grants.tell('a', backlog(0, 0), now + MS(2000)), [('a', backlog(0, 0))]);
    }

    #[test]
    fn late_requests_learn_at_once_that_no_punctual_one_waits_elsewhere() {
        let (mut grants, now) = (Grants::new(1), Instant::now());
        let backlog = |punctual, late| Backlog { punctual, late };
        for (dispatcher, told) in
            [('a', backlog(0, 4)), ('b', backlog(3, 0)), ('c', backlog(1, 2)), ('d', backlog(1, 0))]
        {
            assert_eq!(grants.tell(dispatcher, told, now).len(), 1, "{dispatcher}");
        }
        assert_eq!(grants.tell('b', backlog(0, 0), now).len(), 1, "others still have punctual requests");
        let told = grants.tell('d', backlog(0, 0), now);
        assert_eq!(told, [('d', backlog(1, 6)), ('c', backlog(0, 4))], "the first one waits for the third");
        let told = grants.tell('c', backlog(0, 1), now);
        assert_eq!(told, [('c', backlog(0, 4)), ('a', backlog(0, 1))]);
    }

    proptest! {
        /// No slot is taken or granted twice, and none is lost.
        #[test]
        fn the_slots_are_never_exceeded_and_all_come_back(
            slots in 1..5_usize,
            steps in prop::collection::vec((0..8_u8, 0..3_u8, 0..4_usize, any::<bool>()), 0..200),
        ) {
            let (mut grants, start) = (Grants::new(slots), Instant::now());
            let mut held = [0_usize; 3];
            for (index, (step, dispatcher, count, flag)) in steps.into_iter().enumerate() {
                let now = start + MS(30) * index as u32;
                let name = usize::from(dispatcher);
                match step {
                    0 | 1 => {
                        let count = count.max(1);
                        if grants.take(dispatcher, count, flag) { held[name] += count; }
                    }
                    2 | 3 => if held[name] > 0 {
                        grants.release(dispatcher, now);
                        held[name] -= 1;
                    },
                    4 => drop(grants.claim(dispatcher, claim(count, 0), now)),
                    5 => drop(grants.ask(dispatcher, claim(count, 0), now)),
                    6 => drop(if flag { grants.give_back(dispatcher, now) } else { grants.leave(dispatcher, now) }),
                    _ => drop(grants.end_leases(dispatcher, now)),
                }
                let leases: usize = grants.dispatchers.values().map(|known| known.leases.len()).sum();
                prop_assert_eq!(grants.held(), held.iter().sum::<usize>());
                prop_assert_eq!(grants.used, grants.held() + leases);
                prop_assert!(grants.used <= slots);
            }
            for dispatcher in 0..3 {
                for _ in 0..held[usize::from(dispatcher)] {
                    grants.release(dispatcher, start);
                }
                grants.leave(dispatcher, start);
            }
            (0..3).for_each(|dispatcher| drop(grants.leave(dispatcher, start)));
            prop_assert_eq!((grants.free(), grants.dispatchers.len()), (slots, 0));
        }
    }
}
