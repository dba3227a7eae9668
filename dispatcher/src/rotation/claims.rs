//! What a dispatcher has claimed at one replica, as far as the replica's answers tell. Pure: time is an argument.

use std::time::Instant;

/// The claim of this dispatcher at a replica, and those of others.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Claims {
    /// Whether there is a channel to the replica for claims.
    pub(super) is_open: bool,
    /// Whether the replica has no such channel, so that requests are sent to it without a claim.
    pub(super) is_refused: bool,
    /// The end of the time for which the replica is not asked for a slot; `None` if it may be asked.
    pub(super) rests_until: Option<Instant>,
    /// The number of slots that the dispatcher claims.
    pub(super) slots: usize,
    /// Whether a slot seemed free when the replica was asked for one; `None` if no answer is outstanding.
    pub(super) asked: Option<bool>,
    /// Whether other dispatchers claim slots.
    pub(super) others_claim: bool,
}

impl Claims {
    /// Whether the replica has a claim or a question that it has not answered.
    pub(super) fn is_pending(&self) -> bool {
        self.slots > 0 || self.asked.is_some()
    }

    /// Whether the replica may be asked for a slot.
    pub(super) fn may_ask(&self) -> bool {
        !self.is_pending() && self.rests_until.is_none()
    }

    /// Forgets all that concerned the channel, which has ended.
    pub(super) fn close(&mut self) {
        (self.is_open, self.slots, self.asked, self.others_claim) = (false, 0, None, false);
    }

    /// Ends the rest if it ends by `now`.
    pub(super) fn end_rest(&mut self, now: Instant) {
        if self.rests_until.is_some_and(|until| until <= now) {
            (self.rests_until, self.is_refused) = (None, false);
        }
    }
}
