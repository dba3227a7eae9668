//! What a dispatcher knows of one replica. All instants are nanoseconds since the start of the simulation.

use super::message::News;
use super::protocol::Protocol;

/// The time for which the state from a probe counts, in nanoseconds.
const PROBE_LASTS: u64 = 5_000_000;

/// What a dispatcher knows of a replica.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct View {
    pub(super) is_known: bool,
    /// The number of slots that the dispatcher's own requests take, and those on their way.
    pub(super) own: usize,
    pub(super) news: News,
    pub(super) told_at: u64,
    /// The time after which one more of the slots that others take counts as free under [`Protocol::Told`]. Without it, a
    /// dispatcher would never try a replica again that others had filled.
    pub(super) step: u64,
    pub(super) paused_until: u64,
    /// The number of claims that the replica knows of.
    pub(super) claims: usize,
    /// Whether a reply to a claim is outstanding, and whether the replica seemed to have a free slot.
    pub(super) asking: Option<bool>,
    pub(super) last_turn: u64,
    /// The arrival of the request that was next at the last note to the replica, and the instant of the note.
    pub(super) noted: Option<u64>,
    pub(super) noted_at: u64,
}

impl View {
    /// The number of slots that seem free, of `slots` that the dispatcher may use.
    pub(super) fn seems_free(&self, protocol: Protocol, slots: usize, now: u64) -> usize {
        if !self.is_known || self.paused_until > now {
            return 0;
        }
        let taken = match protocol {
            Protocol::Blind | Protocol::Partition => self.own,
            Protocol::Told => self.own + self.probably_taken(now),
            Protocol::Probes if self.told_at + PROBE_LASTS <= now => slots,
            _ => self.own + self.news.taken_by_others,
        };
        slots.saturating_sub(taken)
    }

    /// The slots that other dispatchers probably still take.
    fn probably_taken(&self, now: u64) -> usize {
        self.news.taken_by_others.saturating_sub(((now - self.told_at) / self.step.max(1)) as usize)
    }

    /// The next instant at which a slot of others counts as free; `None` if they take none.
    pub(super) fn next_frees_at(&self, now: u64) -> Option<u64> {
        let step = self.step.max(1);
        (self.probably_taken(now) > 0).then(|| self.told_at + ((now - self.told_at) / step + 1) * step)
    }

    /// Whether other dispatchers use the replica, or want to.
    pub(super) fn is_shared(&self) -> bool {
        self.news.taken_by_others > 0 || self.news.is_claimed
    }
}
