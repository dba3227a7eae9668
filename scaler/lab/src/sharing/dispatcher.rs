//! One of several dispatchers that share replicas: its queue, its view of the replicas, and its part of the protocol.
//! Sends nothing by itself: it returns messages. All instants are nanoseconds since the start of the simulation.

use super::message::{News, Note, ToDispatcher, ToReplica};
use super::protocol::{Estimate, Protocol};
use super::view::View;
use crate::simulate::plant::queue::PlantQueue;
use crate::simulate::requests::PlantRequest;
use admission::claim::{Claim, RENEWAL};
use admission::grants::Backlog;
use admission::optimism::Optimism;
use admission::own_slots::OwnSlots;
use admission::peers::Peers;
use admission::service_time::ServiceTime;
use admission::{Admission, Order, QueueState, SpareCapacity, TimeLeft};
use std::time::{Duration, Instant};

/// The time for which [`Protocol::Blind`] passes over a replica that was busy, in nanoseconds.
const BUSY_PAUSE: u64 = 10_000_000;

/// The time between two rounds of probes while requests wait, in nanoseconds.
const PROBE_PAUSE: u64 = 5_000_000;

/// The number of replicas that are probed at once (Prequal's `r_probe`).
const PROBES: usize = 3;

/// The least time between two exchanges of backlogs, in nanoseconds.
const EXCHANGE: u64 = 50_000_000;

/// A request that gets a slot within this time, in nanoseconds, has only waited for the reply to a claim. It is longer
/// than a round trip.
const ASKING: u64 = 5_000_000;

/// The number of replicas that a dispatcher asks for a slot at once for each waiting request.
const ASKS: usize = 2;

/// The settings that all dispatchers share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) protocol: Protocol,
    pub(super) dispatchers: usize,
    pub(super) slots: usize,
    pub(super) order: Order,
    pub(super) objective: Duration,
    pub(super) deadline: Duration,
}

/// Messages to replicas, each with the replica's number.
pub(super) type Outbox = Vec<(usize, Note, ToReplica)>;

/// What became of requests at a dispatcher.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) expired: u64,
    pub(super) answers: u64,
    pub(super) in_time: u64,
}

/// A dispatcher.
pub(super) struct Dispatcher {
    id: usize,
    settings: Settings,
    queue: PlantQueue,
    views: Vec<View>,
    spare: SpareCapacity,
    mean_service: ServiceTime,
    service: u64,
    epoch: Instant,
    last_dispatch: u64,
    turns: u64,
    version: u64,
    own_slots: OwnSlots,
    counted_until: u64,
    /// The requests at other dispatchers, as the last message said.
    waiting_at_others: Backlog,
    /// The backlog that the dispatcher last told, and the instant of that.
    told_backlog: Backlog,
    exchanged_at: u64,
    board_read_at: u64,
    optimism: Optimism,
    next_probes: u64,
    pub(super) counts: Counts,
}

impl Dispatcher {
    pub(super) fn new(id: usize, settings: Settings, replicas: usize) -> Self {
        let epoch = Instant::now();
        let (objective, deadline) = (settings.objective.as_nanos() as u64, settings.deadline.as_nanos() as u64);
        Self {
            id,
            queue: PlantQueue::new(settings.order, objective, deadline),
            views: vec![View::default(); replicas],
            spare: SpareCapacity::new(settings.deadline / 2),
            mean_service: ServiceTime::new(epoch),
            service: 0,
            epoch,
            last_dispatch: 0,
            turns: 0,
            version: 0,
            own_slots: OwnSlots::default(),
            counted_until: 0,
            waiting_at_others: Backlog::default(),
            told_backlog: Backlog::default(),
            exchanged_at: 0,
            board_read_at: 0,
            optimism: Optimism::default(),
            next_probes: 0,
            counts: Counts::default(),
            settings,
        }
    }

    /// The number of requests that wait.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// The number of requests in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.views.iter().map(|view| view.own).sum()
    }

    /// Discovery has published a replica, or removed it.
    pub(super) fn publish(&mut self, replica: usize, is_known: bool, now: u64, outbox: &mut Outbox) {
        self.views[replica].is_known = is_known;
        self.dispatch(now, outbox);
    }

    /// Admits a request or refuses it. Returns the time of `Retry-After` if it is refused.
    pub(super) fn arrive(&mut self, request: PlantRequest, now: u64, outbox: &mut Outbox) -> Option<Duration> {
        self.demote_and_expire(now);
        let capacity = self.capacity();
        let slots = match self.settings.protocol.estimate() {
            Estimate::OwnSlots => self.own_slots.slots(capacity),
            Estimate::AllSlots | Estimate::AllRequests => capacity as f64,
        };
        let own = QueueState {
            punctual: self.queue.punctual(),
            late: self.queue.late(),
            slot_is_free: self.queue.is_empty()
                && (0..self.views.len()).any(|replica| self.seems_free(replica, now) > 0),
            slots,
            service_time: self.mean_service.mean(),
            spare: self.spare.share(),
        };
        let time_left = TimeLeft { objective: self.settings.objective, deadline: self.settings.deadline };
        if let Admission::Refuse { retry_after } = self.peers(now).decide(self.settings.order, own, time_left) {
            return Some(retry_after);
        }
        self.queue.push(request);
        self.dispatch(now, outbox);
        None
    }

    /// Handles a message of a replica.
    pub(super) fn receive(&mut self, replica: usize, news: News, message: ToDispatcher, now: u64, outbox: &mut Outbox) {
        self.count_slots(now);
        let view = &mut self.views[replica];
        (view.news, view.told_at) = (news, now);
        // By Little's law, a replica whose slots are full answers a request in this time.
        view.step = self.service / self.settings.slots as u64;
        match message {
            ToDispatcher::Answer { arrived, dispatched } => {
                view.own -= 1;
                if self.settings.protocol == Protocol::Told && view.own + news.taken_by_others < self.settings.slots {
                    view.paused_until = 0;
                }
                self.record_answer(arrived, dispatched, now);
            }
            ToDispatcher::Busy { request, free_in } => {
                view.own -= 1;
                view.paused_until = match self.settings.protocol {
                    Protocol::Blind => now + BUSY_PAUSE,
                    // The first slot that gets free is that of another dispatcher, which waits for it, too.
                    _ => now + free_in,
                };
                self.queue.requeue(request);
                self.learn(false);
            }
            ToDispatcher::Gone { request } => {
                view.is_known = false;
                view.asking = None;
                view.claims = 0;
                if let Some(request) = request {
                    view.own -= 1;
                    self.queue.requeue(request);
                }
            }
            ToDispatcher::Grant { is_reply } => {
                let asked = if is_reply { view.asking.take() } else { None };
                if asked == Some(true) {
                    self.learn(true);
                }
                self.use_grant(replica, now, outbox);
            }
            ToDispatcher::Queued => {
                if view.asking.take() == Some(true) {
                    self.learn(false);
                }
            }
            ToDispatcher::Forgotten => view.claims = 0,
            ToDispatcher::Backlog { others } => (self.waiting_at_others, self.board_read_at) = (others, now),
            ToDispatcher::State if self.settings.protocol == Protocol::Probes => view.asking = None,
            ToDispatcher::State => {}
        }
        self.dispatch(now, outbox);
    }

    /// The next instant at which the dispatcher has to act without a message.
    pub(super) fn wakes_at(&self, now: u64) -> Option<u64> {
        if self.queue.is_empty() {
            return None;
        }
        let is_told = self.settings.protocol == Protocol::Told;
        let frees = self.views.iter().filter(|_| is_told).filter_map(|view| view.next_frees_at(now)).min();
        let pauses = self.views.iter().map(|view| view.paused_until).filter(|&until| until > now).min();
        let probes = (self.settings.protocol == Protocol::Probes && self.next_probes > now).then_some(self.next_probes);
        [frees, pauses, probes].into_iter().flatten().min()
    }

    /// The requests at the other dispatchers, as far as admission knows them.
    fn peers(&self, now: u64) -> Peers {
        if self.settings.protocol.estimate() != Estimate::AllRequests {
            return Peers::default();
        }
        let Backlog { punctual, late } = self.waiting_at_others;
        Peers { punctual, late, age: Duration::from_nanos(now - self.board_read_at) }
    }

    fn capacity(&self) -> usize {
        self.views.iter().filter(|view| view.is_known).count() * self.settings.slots
    }

    fn count_slots(&mut self, now: u64) {
        if !self.queue.is_empty() {
            let held = Duration::from_nanos(now - self.counted_until);
            let share = (self.in_flight() as f64 / self.capacity().max(1) as f64).min(1.0);
            self.own_slots.record(share, held, self.mean_service.mean());
        }
        self.counted_until = now;
    }

    fn demote_and_expire(&mut self, now: u64) {
        self.count_slots(now);
        self.counts.expired += self.queue.demote(now, self.service) as u64;
    }

    fn record_answer(&mut self, arrived: u64, dispatched: u64, now: u64) {
        self.mean_service.record(Duration::from_nanos(now - dispatched), self.epoch + Duration::from_nanos(now));
        self.service = self.mean_service.mean().map_or(0, |mean| mean.as_nanos() as u64);
        let latency = Duration::from_nanos(now - arrived);
        self.counts.answers += 1;
        self.counts.in_time += u64::from(latency <= self.settings.objective);
        self.counts.expired += u64::from(latency > self.settings.deadline);
    }

    /// Learns whether a slot that seemed free was free.
    fn learn(&mut self, was_free: bool) {
        self.optimism.record(was_free, self.settings.slots);
    }

    /// The number of slots of a replica that seem free.
    fn seems_free(&self, replica: usize, now: u64) -> usize {
        let Settings { protocol, dispatchers, slots, .. } = self.settings;
        // In a partition, the slots belong to the dispatchers in turn.
        let is_own = |slot: &usize| (replica * slots + slot) % dispatchers == self.id;
        let slots = if protocol == Protocol::Partition { (0..slots).filter(is_own).count() } else { slots };
        self.views[replica].seems_free(protocol, slots, now)
    }

    /// The replica whose turn it is among those that get a request without being asked.
    fn choose(&self, now: u64) -> Option<usize> {
        let optimism = if self.settings.protocol.claims() { self.optimism } else { Optimism::default() };
        let free = (0..self.views.len()).filter(|&replica| optimism.allows(self.seems_free(replica, now)));
        free.min_by_key(|&replica| self.views[replica].last_turn)
    }

    /// Tells the first replica how many requests wait here, and asks it how many wait at the other dispatchers. All
    /// dispatchers use the same replica for that, which costs few messages however many replicas there are.
    fn exchange_backlogs(&mut self, now: u64, outbox: &mut Outbox) {
        let backlog = self.backlog(now);
        let frees_late = self.told_backlog.punctual > 0 && backlog.punctual == 0 && self.waiting_at_others.late > 0;
        let is_due = self.exchanged_at + EXCHANGE <= now || self.exchanged_at == 0 || frees_late;
        let is_needed = self.backlog(now).sum() + self.waiting_at_others.sum() + self.told_backlog.sum() > 0;
        if self.settings.protocol != Protocol::Board || self.settings.dispatchers == 1 || !is_due || !is_needed {
            return;
        }
        if let Some(replica) = self.board() {
            self.exchanged_at = now;
            self.version += 1;
            self.told_backlog = self.backlog(now);
            let note = Note { version: self.version, backlog: self.told_backlog, ..Note::default() };
            outbox.push((replica, note, ToReplica::Backlog));
        }
    }

    /// The requests that wait because no slot is free. Those that only wait for the replies to the first claims do not
    /// count.
    fn backlog(&self, now: u64) -> Backlog {
        match self.queue.next_arrival() {
            Some((_, arrived)) if arrived + ASKING < now => {
                Backlog { punctual: self.queue.punctual(), late: self.queue.late() }
            }
            _ => Backlog { punctual: 0, late: self.queue.late() },
        }
    }

    /// The replica with which the dispatcher exchanges backlogs.
    fn board(&self) -> Option<usize> {
        self.views.iter().position(|view| view.is_known)
    }

    /// The number of requests that may be sent. Late requests wait while punctual ones wait at other dispatchers.
    fn sendable(&self) -> usize {
        if self.waiting_at_others.punctual > 0 { self.queue.punctual() } else { self.queue.len() }
    }

    /// Sends waiting requests to replicas that seem to have free slots. Asks for slots for the others.
    pub(super) fn dispatch(&mut self, now: u64, outbox: &mut Outbox) {
        self.demote_and_expire(now);
        self.exchange_backlogs(now, outbox);
        while self.sendable() > 0
            && let Some(replica) = self.choose(now)
        {
            if !self.send_next(replica, false, now, outbox) {
                break;
            }
        }
        match self.settings.protocol {
            Protocol::Probes => self.send_probes(now, outbox),
            protocol if protocol.claims() => self.send_claims(now, outbox),
            _ => {}
        }
    }

    /// Sends the next request to a replica. Returns false if there is none that would be answered in time.
    fn send_next(&mut self, replica: usize, is_granted: bool, now: u64, outbox: &mut Outbox) -> bool {
        let Some(request) = self.queue.pop(now, self.service) else { return false };
        let is_late = (request.arrived + self.settings.objective.as_nanos() as u64) < now + self.service;
        let has_waited = if is_granted { request.arrived + ASKING < now } else { request.arrived != now };
        self.spare.record(has_waited && !is_late, Duration::from_nanos(now - self.last_dispatch));
        self.last_dispatch = now;
        self.turns += 1;
        let view = &mut self.views[replica];
        view.last_turn = self.turns;
        view.own += 1;
        let note = Note::default();
        outbox.push((replica, note, ToReplica::Request { request, dispatched: now, is_granted }));
        true
    }

    /// Uses a granted slot, or returns it.
    fn use_grant(&mut self, replica: usize, now: u64, outbox: &mut Outbox) {
        self.demote_and_expire(now);
        let view = &mut self.views[replica];
        view.claims = view.claims.saturating_sub(1);
        if self.sendable() == 0 || !self.send_next(replica, true, now, outbox) {
            self.views[replica].claims = 0;
            let note = self.note(replica, now);
            outbox.push((replica, note, ToReplica::Return));
        }
    }

    /// Claims slots for waiting requests, or withdraws claims if none waits.
    fn send_claims(&mut self, now: u64, outbox: &mut Outbox) {
        let waiting = self.sendable();
        if waiting == 0 {
            for replica in 0..self.views.len() {
                if self.views[replica].claims > 0 && self.views[replica].asking.is_none() {
                    self.views[replica].claims = 0;
                    let note = self.note(replica, now);
                    outbox.push((replica, note, ToReplica::Update));
                }
            }
            return;
        }
        self.refresh_claims(now, outbox);
        let mut asking = self.views.iter().filter(|view| view.asking.is_some()).count();
        let mut claimed = self.views.iter().filter(|view| view.claims > 0).count();
        while asking < ASKS * waiting && claimed < 2 * waiting + 2 {
            let unclaimed = (0..self.views.len()).filter(|&replica| {
                let view = &self.views[replica];
                view.is_known
                    && view.claims == 0
                    && view.asking.is_none()
                    && (self.views[replica].is_shared() || self.seems_free(replica, now) > 0)
            });
            let best = unclaimed.min_by_key(|&replica| {
                let view = &self.views[replica];
                (usize::MAX - self.seems_free(replica, now).min(1), view.last_turn)
            });
            let Some(replica) = best else { break };
            self.turns += 1;
            let seems_free = self.seems_free(replica, now) >= 1;
            let view = &mut self.views[replica];
            let claims = if seems_free { 1 } else { waiting };
            (view.claims, view.asking, view.last_turn) = (claims, Some(seems_free), self.turns);
            let note = self.note(replica, now);
            outbox.push((replica, note, ToReplica::Claim));
            (asking, claimed) = (asking + 1, claimed + 1);
        }
    }

    /// Tells replicas if the next request or the number of waiting requests is not the one of the last note. A claim
    /// with the time of a request that has got a slot elsewhere would be served before older requests.
    fn refresh_claims(&mut self, now: u64, outbox: &mut Outbox) {
        let next = self.queue.next_arrival().map(|(_, arrived)| arrived);
        for replica in 0..self.views.len() {
            let view = &self.views[replica];
            if view.claims == 0
                || view.asking.is_some()
                || view.noted_at + RENEWAL.as_nanos() as u64 > now
                || view.noted == next
            {
                continue;
            }
            self.views[replica].claims = self.sendable();
            let note = self.note(replica, now);
            outbox.push((replica, note, ToReplica::Update));
        }
    }

    fn send_probes(&mut self, now: u64, outbox: &mut Outbox) {
        let is_asking = self.views.iter().any(|view| view.asking.is_some());
        if self.queue.is_empty() || is_asking || self.next_probes > now {
            return;
        }
        self.next_probes = now + PROBE_PAUSE;
        let mut known: Vec<usize> = (0..self.views.len()).filter(|&replica| self.views[replica].is_known).collect();
        known.sort_by_key(|&replica| self.views[replica].last_turn);
        for replica in known.into_iter().take(PROBES * self.queue.len()) {
            self.turns += 1;
            let view = &mut self.views[replica];
            (view.asking, view.last_turn) = (Some(true), self.turns);
            let note = self.note(replica, now);
            outbox.push((replica, note, ToReplica::Probe));
        }
    }

    /// The note of the next message to a replica.
    fn note(&mut self, replica: usize, now: u64) -> Note {
        self.version += 1;
        let next = self.queue.next_arrival();
        let is_late = next.is_some_and(|(is_late, _)| is_late);
        let late_after = self.settings.objective.saturating_sub(Duration::from_nanos(self.service));
        let note = Note {
            version: self.version,
            backlog: Backlog::default(),
            claim: Claim {
                slots: self.views[replica].claims,
                waiting: if is_late { self.queue.late() } else { self.queue.punctual() },
                waited: next.map_or(Duration::ZERO, |(_, arrived)| Duration::from_nanos(now - arrived)),
                late_after: (!is_late).then_some(late_after),
            },
        };
        (self.views[replica].noted, self.views[replica].noted_at) = (next.map(|(_, arrived)| arrived), now);
        note
    }
}
