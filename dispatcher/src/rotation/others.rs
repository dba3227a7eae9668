//! The slots of a replica that other dispatchers take, as far as its answers tell. Pure: time is an argument.

use super::replica::MAX_CAPACITY;
use std::time::{Duration, Instant};

/// Answers that arrive within this time may be handled in another order than the replica gave them. The first one that
/// is handled finds the most own requests in flight, so only lower numbers are believed after it. Without this rule, a
/// replica that answers a whole batch at once would seem to have slots that others take.
const SAME_MOMENT: Duration = Duration::from_millis(5);

/// The least time after which a slot counts as free, so that a wrong time costs few wake-ups.
const LEAST_STEP: Duration = Duration::from_millis(1);

/// What an answer tells about the slots of its replica.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlotNews {
    /// The number of slots that requests other than the answered one take; `None` if the replica does not tell.
    pub taken: Option<usize>,
    /// The time after which a busy replica probably has a free slot; `None` if it does not tell.
    pub retry: Option<Duration>,
    /// The number of slots that requests and grants of other dispatchers take; `None` if the replica does not tell.
    pub others: Option<usize>,
    /// Whether other dispatchers claim slots.
    pub is_claimed: bool,
}

/// The slots that other dispatchers take. Nothing tells when these become free, unless the dispatcher can claim slots of
/// the replica, which then grants it one. Without that, one of them counts as free again each time that the replica has
/// probably answered another request. If that was wrong, the replica is busy and tells the number anew. If the news never
/// got old, a dispatcher would not try a replica again that others had filled and left.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Others {
    slots: usize,
    /// The instant of the first of the answers that arrived in the same moment; `None` before the first.
    told_at: Option<Instant>,
    /// The instant at which the next slot counts as free; `None` if there is none.
    frees_at: Option<Instant>,
    /// The time after which a further slot counts as free.
    step: Duration,
    /// Whether the dispatcher can claim slots of the replica, so that no slot counts as free before the replica tells it.
    is_claimable: bool,
}

impl Others {
    /// The number of slots.
    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    /// The instant at which the next slot counts as free; `None` if there is none.
    pub(super) fn frees_at(&self) -> Option<Instant> {
        self.frees_at
    }

    /// Records that an answer told `slots` slots `now`, and that the replica answers a request every `step`.
    pub(super) fn record(&mut self, slots: usize, now: Instant, step: Duration) {
        let is_same_moment = self.told_at.is_some_and(|at| now.saturating_duration_since(at) < SAME_MOMENT);
        if !is_same_moment {
            self.told_at = Some(now);
        } else if slots > self.slots {
            return;
        }
        self.set(slots, now, step);
    }

    /// Records that the replica itself told `slots` slots `now`, and that it answers a request every `step`, if that is
    /// known anew.
    pub(super) fn record_told(&mut self, slots: usize, now: Instant, step: Option<Duration>) {
        self.told_at = Some(now);
        self.set(slots, now, step.unwrap_or(self.step));
    }

    /// Records that the dispatcher can claim slots of the replica from `now` on, or no longer can.
    pub(super) fn set_claimable(&mut self, is_claimable: bool, now: Instant) {
        self.is_claimable = is_claimable;
        self.set(self.slots, now, self.step);
    }

    /// Records that the replica was busy, and that others take `slots` slots. It probably answers a request every `step`.
    pub(super) fn record_busy(&mut self, slots: usize, now: Instant, step: Duration) {
        self.told_at = Some(now);
        self.set(slots, now, step);
    }

    /// Counts the slots as free that others have probably freed by `now`.
    pub(super) fn forget(&mut self, now: Instant) {
        while let Some(at) = self.frees_at
            && at <= now
        {
            self.slots -= 1;
            self.frees_at = (self.slots > 0).then_some(at + self.step);
        }
    }

    fn set(&mut self, slots: usize, now: Instant, step: Duration) {
        self.step = step.max(LEAST_STEP);
        self.slots = slots.min(MAX_CAPACITY);
        self.frees_at = (slots > 0 && !self.is_claimable).then_some(now + self.step);
    }
}
