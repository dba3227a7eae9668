//! The simulation of several dispatchers that share replicas: delivers messages after the delay of the network, ends
//! forward passes and leases, lets faults happen, and measures. All instants are nanoseconds since the start of the
//! simulation.

use super::case::{Case, Fault, SECONDS};
use super::dispatcher::{Dispatcher, Outbox, Settings};
use super::message::{News, Note, ToDispatcher, ToReplica};
use super::outcome::Outcome;
use super::protocol::Protocol;
use super::replica::{Effects, Pass, Replica};
use crate::simulate::plant::ingress::Ingress;
use crate::simulate::requests::{self, PlantRequest};
use crate::simulate::streams::Stream;
use admission::Order;
use admission::grants::LEASE;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;
use workload::arrivals::ArrivalProcess;

/// The objective of all cases.
pub(super) const OBJECTIVE: Duration = Duration::from_millis(500);

/// The deadline of all cases.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);

/// The time between two calls of [`Dispatcher::dispatch`].
const TICK: u64 = 20_000_000;

/// The greatest time until a dispatcher learns of a change of the replicas, in nanoseconds.
const STALENESS: u64 = 2_000_000_000;

/// The time between two replacements of a replica during a rollout, in nanoseconds.
const ROLLOUT_STEP: u64 = 10_000_000_000;

#[derive(Debug)]
enum Event {
    ToReplica { replica: usize, dispatcher: usize, note: Note, message: ToReplica },
    ToDispatcher { dispatcher: usize, replica: usize, news: News, message: ToDispatcher },
    PassEnds { replica: usize, pass: Pass },
    LeaseEnds { replica: usize, dispatcher: usize },
    Publish { dispatcher: usize, replica: usize, is_known: bool },
    Replace { replica: usize },
    Death,
    Wake { dispatcher: usize },
    Tick,
}

/// An event and its instant. Events of the same instant happen in the order in which they were scheduled.
#[derive(Debug)]
struct Scheduled {
    at: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
/// The earliest event is the greatest, because [`BinaryHeap`] returns the greatest first.
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// The settings of one simulation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trial {
    pub(super) case: Case,
    pub(super) protocol: Protocol,
    pub(super) dispatchers: usize,
    /// The mean time of a message from one machine to another. Each takes half to one and a half times as long.
    pub(super) delay: Duration,
    pub(super) seed: u64,
}

struct System {
    now: u64,
    delay: u64,
    full_rate: f64,
    /// The time for which a request holds its slot if all slots are always taken, in seconds.
    slot_seconds: f64,
    dispatchers: Vec<Dispatcher>,
    replicas: Vec<Replica>,
    is_dead: Vec<bool>,
    ingress: Ingress,
    events: BinaryHeap<Scheduled>,
    scheduled: u64,
    rng: ChaCha8Rng,
    /// The instant of the next [`Event::Wake`] of each dispatcher.
    wakes: Vec<u64>,
    /// The number of requests that wait at dispatchers.
    waiting: usize,
    /// The number of slots of open replicas that no request takes.
    idle: usize,
    /// The number of messages on their way.
    in_transit: usize,
    /// The number of slots of open replicas.
    slots: usize,
    slots_each: usize,
    /// Whether idle slots are counted, which ends with the arrivals.
    is_counting: bool,
    outcome: Outcome,
}

impl Trial {
    /// Runs the simulation until every request is answered or has expired.
    pub(super) fn run(&self) -> Outcome {
        let workload = self.case.load.workload(self.case.requests_per_second());
        let times = self.case.service.times();
        let mut system = System::new(self);
        for request in requests::generate(&workload, ArrivalProcess::Poisson, &times, self.seed) {
            system.run_until(request.arrived);
            system.arrive(request);
        }
        system.is_counting = false;
        system.run_until(system.now + 2 * DEADLINE.as_nanos() as u64);
        for counts in system.dispatchers.iter().map(|dispatcher| dispatcher.counts) {
            system.outcome.expired += counts.expired;
            system.outcome.answered += counts.answers;
            system.outcome.in_time += counts.in_time;
        }
        system.outcome
    }
}

impl System {
    fn new(trial: &Trial) -> Self {
        let Trial { case, protocol, dispatchers, delay, seed } = *trial;
        let settings = Settings {
            protocol,
            dispatchers,
            slots: case.service.slots,
            order: Order::LateLast,
            objective: OBJECTIVE,
            deadline: DEADLINE,
        };
        // Every second dispatcher gets twice the requests of the others.
        let weights = (0..dispatchers).map(|index| 1 + index as u32 % 2).collect();
        let replacements =
            if case.fault == Fault::Rollout { SECONDS * 1_000_000_000 / ROLLOUT_STEP as usize } else { 0 };
        let all = case.replicas + replacements;
        let slot_seconds = case.service.slots as f64 / case.service.requests_per_second() + 2.0 * delay.as_secs_f64();
        let mut system = Self {
            now: 0,
            delay: delay.as_nanos() as u64,
            full_rate: case.requests_per_second(),
            slot_seconds,
            dispatchers: (0..dispatchers).map(|id| Dispatcher::new(id, settings, all)).collect(),
            replicas: (0..all).map(|_| Replica::new(case.service, dispatchers)).collect(),
            is_dead: vec![false; dispatchers],
            ingress: Ingress::weighted(weights, seed),
            events: BinaryHeap::new(),
            scheduled: 0,
            rng: Stream::Messages.rng(seed),
            wakes: vec![0; dispatchers],
            waiting: 0,
            idle: case.replicas * case.service.slots,
            in_transit: 0,
            slots: case.replicas * case.service.slots,
            slots_each: case.service.slots,
            is_counting: true,
            outcome: Outcome::default(),
        };
        for replica in case.replicas..all {
            system.replicas[replica].is_open = false;
            system.schedule((replica - case.replicas + 1) as u64 * ROLLOUT_STEP, Event::Replace { replica });
        }
        for dispatcher in 0..dispatchers {
            for replica in 0..case.replicas {
                system.with_dispatcher(dispatcher, |it, now, outbox| it.publish(replica, true, now, outbox));
            }
        }
        if case.fault == Fault::DispatcherDies && dispatchers > 1 {
            system.schedule(SECONDS as u64 * 500_000_000, Event::Death);
        }
        system.schedule(TICK, Event::Tick);
        system
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        self.events.push(Scheduled { at, number: self.scheduled, event });
    }

    /// The instant at which a message arrives that is sent now.
    fn arrival(&mut self) -> u64 {
        self.now + self.rng.random_range(self.delay / 2..=self.delay + self.delay / 2)
    }

    fn run_until(&mut self, until: u64) {
        while self.events.peek().is_some_and(|next| next.at <= until) {
            let Some(Scheduled { at, event, .. }) = self.events.pop() else { break };
            self.advance_to(at);
            self.handle(event);
        }
        self.advance_to(until);
    }

    fn advance_to(&mut self, time: u64) {
        if self.is_counting {
            let seconds = (time - self.now) as f64 / 1e9;
            self.outcome.idle_slot_seconds += seconds * self.idle.min(self.waiting) as f64;
            let stuck = self.idle.saturating_sub(self.in_transit).min(self.waiting);
            self.outcome.stuck_slot_seconds += seconds * stuck as f64;
            self.outcome.slot_seconds += seconds * self.slots as f64;
        }
        self.now = time;
    }

    fn arrive(&mut self, request: PlantRequest) {
        self.outcome.offered += 1;
        let index = self.ingress.next();
        let true_seconds = (self.waiting as f64 + 1.0) / self.full_rate + self.slot_seconds - OBJECTIVE.as_secs_f64();
        let refused = self.with_dispatcher(index, |it, now, outbox| it.arrive(request, now, outbox));
        if let Some(retry_after) = refused {
            self.outcome.refused += 1;
            self.outcome.retry_after += retry_after.as_secs_f64();
            self.outcome.true_retry_after += true_seconds.max(0.0);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::ToReplica { replica, dispatcher, note, message } => {
                self.in_transit -= 1;
                self.with_replica(replica, |it, now| it.receive(dispatcher, note, message, now));
            }
            Event::ToDispatcher { dispatcher, .. } if self.is_dead[dispatcher] => self.in_transit -= 1,
            Event::ToDispatcher { dispatcher, replica, news, message } => {
                self.in_transit -= 1;
                self.outcome.busy += u64::from(matches!(message, ToDispatcher::Busy { .. }));
                self.with_dispatcher(dispatcher, |it, now, outbox| it.receive(replica, news, message, now, outbox));
            }
            Event::PassEnds { replica, pass } => self.with_replica(replica, |it, now| it.end_pass(pass, now)),
            Event::LeaseEnds { replica, dispatcher } => {
                self.with_replica(replica, |it, now| it.end_leases(dispatcher, now));
            }
            Event::Publish { dispatcher, replica, is_known } if !self.is_dead[dispatcher] => {
                self.with_dispatcher(dispatcher, |it, now, outbox| it.publish(replica, is_known, now, outbox));
            }
            Event::Publish { .. } => {}
            Event::Replace { replica: new } => self.replace(new),
            Event::Death => self.let_dispatcher_die(),
            Event::Wake { dispatcher } => {
                if self.wakes[dispatcher] == self.now && !self.is_dead[dispatcher] {
                    self.with_dispatcher(dispatcher, |it, now, outbox| it.dispatch(now, outbox));
                }
            }
            Event::Tick => {
                self.schedule(self.now + TICK, Event::Tick);
                for dispatcher in 0..self.dispatchers.len() {
                    if !self.is_dead[dispatcher] {
                        self.with_dispatcher(dispatcher, |it, now, outbox| it.dispatch(now, outbox));
                    }
                }
            }
        }
    }

    /// Replaces the oldest open replica by the replica `new`. Each dispatcher learns of both changes later.
    fn replace(&mut self, new: usize) {
        let old = self.replicas.iter().position(|replica| replica.is_open).expect("one replica is always open");
        self.replicas[new].is_open = true;
        self.idle += self.slots_each;
        self.with_replica(old, |it, _now| it.close());
        for dispatcher in 0..self.dispatchers.len() {
            let at = self.now + self.rng.random_range(0..STALENESS);
            self.schedule(at, Event::Publish { dispatcher, replica: old, is_known: false });
            self.schedule(at, Event::Publish { dispatcher, replica: new, is_known: true });
        }
    }

    fn let_dispatcher_die(&mut self) {
        let lost = self.dispatchers[0].waiting();
        self.waiting -= lost;
        self.outcome.lost += (lost + self.dispatchers[0].in_flight()) as u64;
        self.is_dead[0] = true;
        self.ingress.remove(0);
    }

    /// Lets a dispatcher act, and sends its messages.
    fn with_dispatcher<T>(&mut self, index: usize, act: impl FnOnce(&mut Dispatcher, u64, &mut Outbox) -> T) -> T {
        let mut outbox = Outbox::new();
        let dispatcher = &mut self.dispatchers[index];
        self.waiting -= dispatcher.waiting();
        let result = act(dispatcher, self.now, &mut outbox);
        self.waiting += dispatcher.waiting();
        if let Some(at) = dispatcher.wakes_at(self.now)
            && (at < self.wakes[index] || self.wakes[index] <= self.now)
        {
            self.wakes[index] = at;
            self.schedule(at, Event::Wake { dispatcher: index });
        }
        for (replica, note, message) in outbox {
            let is_attempt = matches!(message, ToReplica::Request { .. });
            self.outcome.attempts += u64::from(is_attempt);
            self.outcome.small_messages += u64::from(!is_attempt);
            let at = self.arrival();
            self.in_transit += 1;
            self.schedule(at, Event::ToReplica { replica, dispatcher: index, note, message });
        }
        result
    }

    /// Lets a replica act, sends its messages, and schedules the ends of its passes and leases.
    fn with_replica(&mut self, index: usize, act: impl FnOnce(&mut Replica, u64) -> Effects) {
        let replica = &mut self.replicas[index];
        self.idle -= replica.idle_slots();
        let effects = act(replica, self.now);
        self.idle += replica.idle_slots();
        for (dispatcher, message) in effects.messages {
            let news = self.replicas[index].news(dispatcher);
            let is_answer = matches!(message, ToDispatcher::Answer { .. } | ToDispatcher::Busy { .. });
            self.outcome.small_messages += u64::from(!is_answer);
            let at = self.arrival();
            self.in_transit += 1;
            self.schedule(at, Event::ToDispatcher { dispatcher, replica: index, news, message });
        }
        for pass in effects.passes {
            self.schedule(pass.ends, Event::PassEnds { replica: index, pass });
        }
        for dispatcher in effects.leases {
            self.schedule(self.now + LEASE.as_nanos() as u64, Event::LeaseEnds { replica: index, dispatcher });
        }
    }
}
