//! A replica that several dispatchers share. It computes requests as the plant's replicas do, keeps the claims of
//! dispatchers, and grants slots. Sends nothing by itself: it returns messages. All instants are nanoseconds since the
//! start of the simulation.

use super::case::Service;
use super::message::{Backlog, News, Note, ToDispatcher, ToReplica};
use crate::simulate::requests::PlantRequest;
use std::collections::VecDeque;
use std::time::Duration;

/// The time for which a granted slot stays reserved. It is longer than a round trip. A dispatcher that does not use the
/// slot in that time has died.
pub(super) const LEASE: u64 = 100_000_000;

/// The age from which on a note of a dispatcher no longer counts.
const NOTE_LASTS: u64 = 2_000_000_000;

/// A request that the replica holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    request: PlantRequest,
    dispatched: u64,
    dispatcher: usize,
}

/// A forward pass that has begun. Its requests are answered when it ends.
#[derive(Debug, Clone)]
pub(super) struct Pass {
    pub(super) ends: u64,
    requests: Vec<Held>,
}

/// What the replica does after a message: messages to dispatchers, and passes that begin.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) messages: Vec<(usize, ToDispatcher)>,
    pub(super) passes: Vec<Pass>,
    /// The dispatchers that are granted a slot now. Each lease ends after [`LEASE`].
    pub(super) leases: Vec<usize>,
}

/// What a replica knows about one dispatcher.
#[derive(Debug, Clone, Default)]
struct Peer {
    note: Note,
    noted_at: u64,
    /// The number of slots that the dispatcher's requests take.
    held: usize,
    /// The ends of the leases of the slots that the dispatcher was granted and has not used, the earliest first.
    leases: VecDeque<u64>,
}

/// A replica.
#[derive(Debug)]
pub(super) struct Replica {
    service: Service,
    /// Whether the replica takes requests. Otherwise it drains.
    pub(super) is_open: bool,
    peers: Vec<Peer>,
    /// The requests that wait for a forward pass.
    waiting: VecDeque<Held>,
    idle_workers: usize,
    /// The ends of the running passes.
    ends: Vec<u64>,
}

impl Replica {
    pub(super) fn new(service: Service, dispatchers: usize) -> Self {
        let peers = vec![Peer::default(); dispatchers];
        Self { idle_workers: service.workers, service, is_open: true, peers, waiting: VecDeque::new(), ends: vec![] }
    }

    /// The number of slots that no request takes; 0 for a replica that drains.
    pub(super) fn idle_slots(&self) -> usize {
        let held: usize = self.peers.iter().map(|peer| peer.held).sum();
        if self.is_open { self.service.slots - held } else { 0 }
    }

    /// The state of the replica for a dispatcher.
    pub(super) fn news(&self, dispatcher: usize, now: u64) -> News {
        let mut news = News::default();
        for (index, peer) in self.peers.iter().enumerate().filter(|(index, _)| *index != dispatcher) {
            news.taken_by_others += peer.held + peer.leases.len();
            news.is_claimed |= peer.note.claim.slots > 0;
            if peer.noted_at + NOTE_LASTS > now && index != dispatcher {
                news.waiting_at_others.punctual += peer.note.backlog.punctual;
                news.waiting_at_others.late += peer.note.backlog.late;
            }
        }
        news
    }

    /// Handles a message of a dispatcher.
    pub(super) fn receive(&mut self, dispatcher: usize, note: Note, message: ToReplica, now: u64) -> Effects {
        let mut effects = Effects::default();
        let peer = &mut self.peers[dispatcher];
        if note.version > peer.note.version {
            (peer.note, peer.noted_at) = (note, now);
        }
        match message {
            ToReplica::Request { request, dispatched, is_granted } => {
                if is_granted {
                    peer.leases.pop_front();
                }
                if !self.is_open {
                    effects.messages.push((dispatcher, ToDispatcher::Gone { request: Some(request) }));
                } else if self.free() == 0 {
                    let free_in = self.free_in(now);
                    effects.messages.push((dispatcher, ToDispatcher::Busy { request, free_in }));
                } else {
                    self.peers[dispatcher].held += 1;
                    self.waiting.push_back(Held { request, dispatched, dispatcher });
                    self.begin_passes(now, &mut effects);
                    // The note may claim more slots than the one that the request takes.
                    self.offer_free_slots(now, &mut effects);
                }
            }
            ToReplica::Claim if !self.is_open => {
                effects.messages.push((dispatcher, ToDispatcher::Gone { request: None }));
            }
            ToReplica::Claim if self.free() > 0 && self.peers[dispatcher].note.claim.slots > 0 => {
                self.grant(dispatcher, now, &mut effects);
                effects.messages.push((dispatcher, ToDispatcher::Grant { is_reply: true }));
            }
            ToReplica::Claim => effects.messages.push((dispatcher, ToDispatcher::Queued)),
            ToReplica::Update => self.offer_free_slots(now, &mut effects),
            ToReplica::Return => {
                self.peers[dispatcher].leases.pop_front();
                self.offer_free_slots(now, &mut effects);
            }
            ToReplica::Probe => effects.messages.push((dispatcher, ToDispatcher::State)),
        }
        effects
    }

    /// Ends a forward pass, and answers its requests. Each slot goes to the oldest claim. Without
    /// a claim it stays free, and the dispatcher that gets the answer knows that.
    pub(super) fn end_pass(&mut self, pass: Pass, now: u64) -> Effects {
        let mut effects = Effects::default();
        self.ends.retain(|&ends| ends != pass.ends);
        self.idle_workers += 1;
        for Held { request, dispatched, dispatcher } in pass.requests {
            self.peers[dispatcher].held -= 1;
            let heir = if self.is_open { self.next_claimant(now) } else { None };
            if let Some(heir) = heir {
                self.grant(heir, now, &mut effects);
            }
            let is_kept = heir == Some(dispatcher);
            effects.messages.push((dispatcher, ToDispatcher::Answer { arrived: request.arrived, dispatched, is_kept }));
            if let Some(heir) = heir.filter(|_| !is_kept) {
                effects.messages.push((heir, ToDispatcher::Grant { is_reply: false }));
            }
        }
        self.begin_passes(now, &mut effects);
        effects
    }

    /// Ends the leases of a dispatcher that are due. A dispatcher that has not used a slot in time has died, so its
    /// claims are forgotten.
    pub(super) fn end_leases(&mut self, dispatcher: usize, now: u64) -> Effects {
        let mut effects = Effects::default();
        let peer = &mut self.peers[dispatcher];
        let before = peer.leases.len();
        peer.leases.retain(|&ends| ends > now);
        if peer.leases.len() < before {
            peer.note.claim.slots = 0;
            peer.note.backlog = Backlog::default();
            self.offer_free_slots(now, &mut effects);
        }
        effects
    }

    /// Stops taking requests. The dispatchers that wait for a slot learn it.
    pub(super) fn close(&mut self) -> Effects {
        self.is_open = false;
        let claimants = self.peers.iter().enumerate().filter(|(_, peer)| peer.note.claim.slots > 0);
        let messages = claimants.map(|(index, _)| (index, ToDispatcher::Gone { request: None })).collect();
        Effects { messages, ..Effects::default() }
    }

    /// The number of slots that are neither taken nor granted.
    fn free(&self) -> usize {
        let used: usize = self.peers.iter().map(|peer| peer.held + peer.leases.len()).sum();
        self.service.slots.saturating_sub(used)
    }

    /// The time until the first running pass ends.
    fn free_in(&self, now: u64) -> u64 {
        self.ends.iter().min().map_or(0, |ends| ends.saturating_sub(now))
    }

    /// The dispatcher whose claim is next.
    fn next_claimant(&self, now: u64) -> Option<usize> {
        let claimants = self.peers.iter().enumerate().filter(|(_, peer)| peer.note.claim.slots > 0);
        let turn = |peer: &Peer| peer.note.claim.turn(Duration::from_nanos(now - peer.noted_at));
        claimants.min_by_key(|(index, peer)| (turn(peer), *index)).map(|(index, _)| index)
    }

    fn offer_free_slots(&mut self, now: u64, effects: &mut Effects) {
        while self.is_open
            && self.free() > 0
            && let Some(heir) = self.next_claimant(now)
        {
            self.grant(heir, now, effects);
            effects.messages.push((heir, ToDispatcher::Grant { is_reply: false }));
        }
    }

    fn grant(&mut self, dispatcher: usize, now: u64, effects: &mut Effects) {
        let peer = &mut self.peers[dispatcher];
        peer.leases.push_back(now + LEASE);
        peer.note.claim.slots -= 1;
        // The request that gets this slot no longer waits.
        let backlog = &mut peer.note.backlog;
        let class = if backlog.punctual > 0 { &mut backlog.punctual } else { &mut backlog.late };
        *class = class.saturating_sub(1);
        effects.leases.push(dispatcher);
    }

    /// Begins forward passes while workers are idle and requests wait.
    fn begin_passes(&mut self, now: u64, effects: &mut Effects) {
        while self.idle_workers > 0 && !self.waiting.is_empty() {
            self.idle_workers -= 1;
            let size = self.waiting.len().min(self.service.max_batch);
            let requests: Vec<Held> = self.waiting.drain(..size).collect();
            let times = requests.iter().map(|held| held.request.service_time as f64);
            let sum: f64 = times.clone().sum();
            let first = times.clone().next().unwrap_or_default();
            let ends = now + (first + self.service.batch_growth * (sum - first)) as u64;
            self.ends.push(ends);
            effects.passes.push(Pass { ends, requests });
        }
    }
}

impl Backlog {
    pub(super) fn sum(self) -> usize {
        self.punctual + self.late
    }
}
