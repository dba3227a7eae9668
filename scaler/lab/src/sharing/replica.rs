//! A replica that several dispatchers share. It computes requests as the plant's replicas do, and grants its slots as the
//! program does. Sends nothing by itself: it returns messages. All instants are nanoseconds since the start of the
//! simulation.

use super::case::Service;
use super::message::{News, Note, ToDispatcher, ToReplica};
use crate::simulate::requests::PlantRequest;
use admission::grants::Grants;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

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
    /// The dispatchers that are granted a slot now. Each grant ends after [`LEASE`](admission::grants::LEASE).
    pub(super) leases: Vec<usize>,
}

impl Effects {
    /// Tells dispatchers that slots are granted to them.
    fn grant(&mut self, dispatchers: impl IntoIterator<Item = usize>) {
        for dispatcher in dispatchers {
            self.leases.push(dispatcher);
            self.messages.push((dispatcher, ToDispatcher::Grant { is_reply: false }));
        }
    }
}

/// A replica.
#[derive(Debug)]
pub(super) struct Replica {
    service: Service,
    /// Whether the replica takes requests. Otherwise it drains.
    pub(super) is_open: bool,
    grants: Grants<usize>,
    epoch: Instant,
    /// The number of the newest note of each dispatcher. Messages can overtake each other here. Between the programs they
    /// come over one connection.
    versions: Vec<u64>,
    /// The requests that wait for a forward pass.
    waiting: VecDeque<Held>,
    idle_workers: usize,
    /// The ends of the running passes.
    ends: Vec<u64>,
}

impl Replica {
    pub(super) fn new(service: Service, dispatchers: usize) -> Self {
        Self {
            idle_workers: service.workers,
            grants: Grants::new(service.slots),
            service,
            is_open: true,
            epoch: Instant::now(),
            versions: vec![0; dispatchers],
            waiting: VecDeque::new(),
            ends: vec![],
        }
    }

    /// The number of slots that no request takes; 0 for a replica that drains.
    pub(super) fn idle_slots(&self) -> usize {
        if self.is_open { self.service.slots - self.grants.held() } else { 0 }
    }

    /// The state of the replica for a dispatcher.
    pub(super) fn news(&self, dispatcher: usize) -> News {
        let others = self.grants.others(dispatcher);
        News { taken_by_others: others.taken, is_claimed: others.claim }
    }

    /// Handles a message of a dispatcher.
    pub(super) fn receive(&mut self, dispatcher: usize, note: Note, message: ToReplica, now: u64) -> Effects {
        let (mut effects, instant) = (Effects::default(), self.instant(now));
        let is_newest = note.version > self.versions[dispatcher];
        self.versions[dispatcher] = note.version.max(self.versions[dispatcher]);
        match message {
            ToReplica::Request { request, dispatched, is_granted } => {
                if !self.is_open {
                    effects.messages.push((dispatcher, ToDispatcher::Gone { request: Some(request) }));
                } else if self.grants.take(dispatcher, 1, is_granted) {
                    self.waiting.push_back(Held { request, dispatched, dispatcher });
                    self.begin_passes(now, &mut effects);
                } else {
                    let free_in = self.free_in(now);
                    effects.messages.push((dispatcher, ToDispatcher::Busy { request, free_in }));
                }
            }
            ToReplica::Claim if !self.is_open => {
                effects.messages.push((dispatcher, ToDispatcher::Gone { request: None }));
            }
            ToReplica::Claim if is_newest && self.grants.ask(dispatcher, note.claim, instant) => {
                effects.leases.push(dispatcher);
                effects.messages.push((dispatcher, ToDispatcher::Grant { is_reply: true }));
            }
            ToReplica::Claim => effects.messages.push((dispatcher, ToDispatcher::Queued)),
            ToReplica::Update if self.is_open && is_newest => {
                effects.grant(self.grants.claim(dispatcher, note.claim, instant));
            }
            ToReplica::Update => {}
            ToReplica::Return => {
                let granted = self.grants.give_back(dispatcher, instant);
                effects.grant(granted.into_iter().filter(|_| self.is_open));
            }
            ToReplica::Backlog => {
                if is_newest {
                    for (dispatcher, others) in self.grants.tell(dispatcher, note.backlog, instant) {
                        effects.messages.push((dispatcher, ToDispatcher::Backlog { others }));
                    }
                }
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
            let heir = self.grants.release(dispatcher, self.instant(now));
            effects.messages.push((dispatcher, ToDispatcher::Answer { arrived: request.arrived, dispatched }));
            effects.grant(heir.filter(|_| self.is_open));
        }
        self.begin_passes(now, &mut effects);
        effects
    }

    /// Ends the leases of a dispatcher that are due. A dispatcher that has not used a slot in time has died, so its
    /// claims are forgotten.
    pub(super) fn end_leases(&mut self, dispatcher: usize, now: u64) -> Effects {
        let mut effects = Effects::default();
        if let Some(granted) = self.grants.end_leases(dispatcher, self.instant(now)) {
            effects.messages.push((dispatcher, ToDispatcher::Forgotten));
            effects.grant(granted.into_iter().filter(|_| self.is_open));
        }
        effects
    }

    /// Stops taking requests. The dispatchers learn it.
    pub(super) fn close(&mut self) -> Effects {
        self.is_open = false;
        let messages = (0..self.versions.len()).map(|index| (index, ToDispatcher::Gone { request: None })).collect();
        Effects { messages, ..Effects::default() }
    }

    fn instant(&self, now: u64) -> Instant {
        self.epoch + Duration::from_nanos(now)
    }

    /// The time until the first running pass ends.
    fn free_in(&self, now: u64) -> u64 {
        self.ends.iter().min().map_or(0, |ends| ends.saturating_sub(now))
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
