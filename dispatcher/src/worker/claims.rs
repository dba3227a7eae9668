//! How the worker shares replicas with other dispatchers: it claims slots, uses those that replicas grant, and tells the
//! others how many requests wait here.

use super::Worker;
use crate::queue::SequenceNumber;
use crate::request::QueuedRequest;
use crate::rotation::{MAX_CAPACITY, ReplicaId};
use crate::sharing::ASKING;
use crate::slot_channel::{self, ChannelEnd, ChannelEvent};
use admission::Order;
use admission::claim::RENEWAL;
use admission::grants::Backlog;
use service::slot_channel::{FromDispatcher, FromReplica, SlotClaim, SlotEvent};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// The number of replicas that are asked at once for each waiting request.
const ASKS: usize = 2;

/// The time by which each replica with a claim prolongs the time between two renewals, if that is longer than [`RENEWAL`]
/// then. So the renewals of thousands of claims take a tenth of a core at most.
const RENEWAL_FOR_EACH: Duration = Duration::from_micros(200);

/// The time for which a replica is not asked whose grant found no request that may be sent there, such as one that failed
/// there.
const UNFIT_PAUSE: Duration = Duration::from_millis(10);

/// The time for which a replica is not asked that has closed its channel. One that closes each at once would otherwise be
/// asked without end.
const CLOSED_PAUSE: Duration = Duration::from_millis(50);

/// The time for which a replica is not asked that has not answered a question, and for which requests are sent without a
/// claim to one whose channel has failed.
const FAILED_PAUSE: Duration = Duration::from_secs(1);

/// The time for which requests are sent without a claim to a replica that has no channel, such as one of an older version.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// The channel to a replica.
#[derive(Debug)]
pub(super) struct Channel {
    sender: mpsc::UnboundedSender<FromDispatcher>,
    /// The next request when the replica was last told a claim.
    told_next: Option<SequenceNumber>,
}

impl Worker {
    /// The number of waiting requests that may be sent. Late requests wait while punctual ones wait at other dispatchers.
    pub(super) fn sendable(&self, now: Instant) -> usize {
        let late = if self.sharing.others_have_punctual(now) { self.queue.late_len() } else { 0 };
        self.queue.len() - late
    }

    /// Opens a channel to `replica`, unless there is one or the replica has none.
    pub(super) fn open_channel(&mut self, replica: ReplicaId, now: Instant) {
        if self.channels.contains_key(&replica) || !self.rotation.can_have_channel(replica) {
            return;
        }
        let Some(address) = self.rotation.replica(replica).map(|replica| replica.address.clone()) else { return };
        let sender = slot_channel::open(address, self.dispatcher_id, replica, self.channel_events.clone());
        self.channels.insert(replica, Channel { sender, told_next: None });
        self.rotation.set_channel(replica, true, now);
    }

    /// Closes the channel to a replica that gets no further request.
    pub(super) fn close_channel(&mut self, replica: ReplicaId) {
        self.channels.remove(&replica);
    }

    pub(super) fn handle_channel_event(&mut self, replica: ReplicaId, event: ChannelEvent) {
        let now = Instant::now();
        match event {
            ChannelEvent::Message(message) if self.channels.contains_key(&replica) => {
                self.handle_slot_message(replica, message, now);
            }
            // The replica has just been withdrawn. The end of the channel gives a grant back.
            ChannelEvent::Message(_) => {}
            ChannelEvent::Ended(end) => {
                if self.channels.remove(&replica).is_none() {
                    return;
                }
                self.rotation.set_channel(replica, false, now);
                match end {
                    ChannelEnd::Closed => self.rotation.rest(replica, now + CLOSED_PAUSE, false),
                    // It probably hangs. If it were used without a question, it would get requests before all others.
                    ChannelEnd::Silent => self.rotation.rest(replica, now + FAILED_PAUSE, false),
                    ChannelEnd::Failed => self.rotation.rest(replica, now + FAILED_PAUSE, true),
                    ChannelEnd::Refused => self.rotation.rest(replica, now + REFUSED_PAUSE, true),
                }
            }
        }
    }

    fn handle_slot_message(&mut self, replica: ReplicaId, message: FromReplica, now: Instant) {
        let FromReplica { others, claimed, event } = message;
        self.rotation.record_others(replica, others as usize, claimed, now);
        match event {
            SlotEvent::Granted => {
                if self.rotation.end_ask(replica) == Some(true) {
                    self.learn(replica, true);
                }
                self.use_grant(replica, now);
            }
            SlotEvent::Queued => {
                // If no other dispatcher takes or claims a slot, the own requests have them.
                if self.rotation.end_ask(replica) == Some(true) && (others > 0 || claimed) {
                    self.learn(replica, false);
                }
            }
            SlotEvent::Freed => self.use_grant(replica, now),
            SlotEvent::Forgotten => self.rotation.set_claim(replica, 0),
            SlotEvent::Backlog { punctual, late } => {
                let backlog = Backlog { punctual: punctual as usize, late: late as usize };
                self.sharing.record_others(backlog, now);
            }
        }
    }

    /// Gives a slot back that `replica` keeps for a request whose client has left.
    pub(super) fn return_grant(&mut self, replica: ReplicaId) {
        self.rotation.set_claim(replica, 0);
        self.send_to(replica, FromDispatcher::Return);
    }

    /// Records whether a slot of `replica` that had seemed free was free.
    pub(super) fn learn(&mut self, replica: ReplicaId, was_free: bool) {
        let capacity = self.rotation.replica(replica).map_or(MAX_CAPACITY, |replica| replica.capacity);
        self.sharing.optimism.record(was_free, capacity);
        self.rotation.set_margin(self.sharing.optimism.margin());
    }

    /// Sends the next request to `replica`, which keeps a slot for it, or gives the slot back.
    fn use_grant(&mut self, replica: ReplicaId, now: Instant) {
        self.rotation.use_claim(replica);
        let service_time = self.load.service_time();
        self.queue.demote(now, service_time);
        let mut picked = None;
        if self.sendable(now) > 0 {
            let rotation = &mut self.rotation;
            let find_replica = |request: &QueuedRequest| {
                let may = !request.is_abandoned() && rotation.pick_granted(replica, request.constraints(), now);
                may.then_some(replica)
            };
            picked = self.queue.pop(now, service_time, find_replica);
        }
        match picked {
            Some((mut entry, replica)) => {
                // Within this time, the request has only waited for the answer to a question.
                entry.request.waited_for_slot &= entry.request.accepted + ASKING < now;
                self.dispatch(entry, replica, true, now);
            }
            None => {
                self.return_grant(replica);
                // Otherwise the replica would be asked again at once, for the same request.
                if self.sendable(now) > 0 {
                    self.rotation.rest(replica, now + UNFIT_PAUSE, false);
                }
            }
        }
    }

    /// Claims slots for waiting requests, or withdraws the claims if none waits. Returns the instant at which claims are to
    /// be renewed.
    pub(super) fn claim_slots(&mut self, now: Instant) -> Option<Instant> {
        let waiting = self.sendable(now);
        let (mut claimed, mut asking) = self.rotation.claim_counts();
        if waiting == 0 {
            if claimed > 0 {
                self.withdraw_claims(now);
            }
            return None;
        }
        let renewal = self.renew_claims(waiting, claimed, now);
        while asking < ASKS * waiting && claimed < ASKS * waiting + 2 {
            let Some(replica) = self.rotation.next_to_ask(now) else { break };
            self.open_channel(replica, now);
            let slots = self.rotation.ask(replica, waiting);
            let claim = self.claim(slots, now);
            self.tell_claim(replica, FromDispatcher::Ask(claim));
            (claimed, asking) = (claimed + 1, asking + 1);
        }
        renewal
    }

    fn withdraw_claims(&mut self, now: Instant) {
        let claimed: Vec<ReplicaId> = self.rotation.claimed().collect();
        let claim = self.claim(0, now);
        for replica in claimed {
            self.rotation.set_claim(replica, 0);
            self.send_to(replica, FromDispatcher::Claim(claim));
        }
    }

    /// Tells replicas if the next request is not the one of their last claim. With the time of a request that has got a slot
    /// elsewhere, a claim would be served before older requests. Returns the instant of the next renewal.
    fn renew_claims(&mut self, waiting: usize, claimed: usize, now: Instant) -> Option<Instant> {
        if claimed == 0 {
            self.renewed_at = now;
            return None;
        }
        let interval = RENEWAL.max(RENEWAL_FOR_EACH * u32::try_from(claimed).unwrap_or(u32::MAX));
        if now < self.renewed_at + interval {
            return Some(self.renewed_at + interval);
        }
        self.renewed_at = now;
        let next = self.queue.first().map(|(entry, _)| entry.sequence_number);
        let claimed: Vec<ReplicaId> = self.rotation.claimed().collect();
        for replica in claimed {
            let is_asked = self.rotation.is_asked(replica);
            if !is_asked && self.channels.get(&replica).is_some_and(|channel| channel.told_next != next) {
                self.rotation.set_claim(replica, waiting);
                let claim = self.claim(waiting, now);
                self.tell_claim(replica, FromDispatcher::Claim(claim));
            }
        }
        Some(now + interval)
    }

    /// The claim of `slots` slots for the requests that wait now.
    fn claim(&self, slots: usize, now: Instant) -> SlotClaim {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let first = self.queue.first();
        let is_late = first.is_some_and(|(_, is_late)| is_late);
        let waiting = if is_late { self.queue.late_len() } else { self.queue.len() - self.queue.late_len() };
        let microseconds = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let (waited, late_after) = first.map_or((Duration::ZERO, Duration::ZERO), |(entry, _)| {
            let accepted = entry.request.accepted;
            let limit = entry.objective.saturating_duration_since(accepted);
            (now.saturating_duration_since(accepted), limit.saturating_sub(self.load.service_time()))
        });
        SlotClaim {
            slots: number(slots),
            waiting: number(waiting),
            waited_us: microseconds(waited),
            late_after_us: match self.settings.order {
                // No request becomes late.
                Order::Fifo => Some(u64::MAX),
                Order::LateLast => (!is_late).then_some(microseconds(late_after)),
            },
        }
    }

    fn tell_claim(&mut self, replica: ReplicaId, message: FromDispatcher) {
        let next = self.queue.first().map(|(entry, _)| entry.sequence_number);
        if let Some(channel) = self.channels.get_mut(&replica) {
            channel.told_next = next;
        }
        self.send_to(replica, message);
    }

    fn send_to(&self, replica: ReplicaId, message: FromDispatcher) {
        if let Some(channel) = self.channels.get(&replica) {
            // The end of a channel that has just ended is on its way.
            let _ended = channel.sender.send(message);
        }
    }

    /// Tells the others how many requests wait here, if that is due. Returns the instant at which it is due next.
    pub(super) fn exchange_backlogs(&mut self, now: Instant) -> Option<Instant> {
        // A dispatcher without channels has seen no other one.
        if self.channels.is_empty() {
            return None;
        }
        let backlog = self.backlog(now);
        let due = self.sharing.exchange_at(backlog, now)?;
        if due > now {
            return Some(due);
        }
        let board = self.rotation.board()?;
        self.open_channel(board, now);
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        self.send_to(board, FromDispatcher::Backlog { punctual: number(backlog.punctual), late: number(backlog.late) });
        self.sharing.record_told(backlog, now);
        self.sharing.exchange_at(backlog, now)
    }

    /// The requests that wait because no slot is free. Those that only wait for the answer to a first question do not
    /// count.
    fn backlog(&self, now: Instant) -> Backlog {
        let late = self.queue.late_len();
        let only_asks = self.queue.first().is_none_or(|(entry, _)| entry.request.accepted + ASKING >= now);
        Backlog { punctual: if only_asks { 0 } else { self.queue.len() - late }, late }
    }
}

#[cfg(test)]
mod tests;
