//! The plant: a discrete-event model of dispatchers and their replicas in virtual time.
//!
//! The plant decides on admission with the dispatcher's code, and its queues and rotations behave like the dispatcher's.
//! Replicas take time to start, hold as many requests as they have slots, and compute the requests in forward passes.
//! Replicas that are stopped first finish the requests that they hold. The events are arrivals, completions, ends of
//! starts, deaths of replicas, ends of pauses after a refusal, creations of replicas that wait for their turn, and samples of
//! CPU usage. The plant knows nothing of laws.
//!
//! Messages take no time. So a dispatcher learns at once that a replica is ready, that all of its slots are taken, or
//! that it has died.
//!
//! All instants in the plant are nanoseconds since the start of the simulation.

mod dispatcher;
pub mod disturbances;
pub(crate) mod ingress;
mod lifecycle;
pub mod metrics;
pub mod queue;
mod replica;
mod rotation;
pub mod settings;
pub mod totals;

use super::requests::PlantRequest;
use super::streams::Stream;
use super::timeline::{RequestCounts, TimelineSample};
use crate::pods::Pod;
use dispatcher::PlantDispatcher;
use ingress::Ingress;
use law::observation::{Observation, Replicas};
use lifecycle::{Lifecycle, PhaseEnd};
use metrics::DispatcherMetrics;
use rand_chacha::ChaCha8Rng;
use replica::{CPU_SAMPLE_PERIOD, HeldRequest, PlantReplica, ReplicaPhase};
use scaler::target::startup_mean;
use settings::PlantSettings;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::iter::Peekable;
use std::time::Duration;
use totals::PlantTotals;

/// The instant of an event that is not scheduled.
const NEVER: u64 = u64::MAX;

/// The time for which a dispatcher passes over a replica that had no free slot, in nanoseconds. It is the dispatcher's
/// (`BUSY_PAUSE` in `dispatcher/src/rotation.rs`).
const BUSY_PAUSE: u64 = 10_000_000;

/// The completion of a request: its answer, scheduled for the end of its forward pass. Completions are ordered by
/// `ends`. The other fields break ties, so that equal simulations give equal results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Completion {
    ends: u64,
    /// Whether this is the last completion of its forward pass. All requests of a pass end at the same instant.
    is_last_of_pass: bool,
    dispatched: u64,
    arrived: u64,
    /// The number of the replica.
    replica: u32,
    /// The index of the dispatcher.
    dispatcher: u16,
}

/// The pause of a replica that had no free slot for a dispatcher's request. The dispatcher passes it over until the
/// pause `ends`.
#[derive(Debug, Clone, Copy)]
struct Pause {
    ends: u64,
    /// The number of the replica.
    replica: u32,
    /// The index of the dispatcher.
    dispatcher: u16,
}

/// The state of the simulated dispatchers and their replicas.
pub struct Plant {
    settings: PlantSettings,
    now: u64,
    objective: u64,
    deadline: u64,
    ingress: Ingress,
    dispatchers: Vec<PlantDispatcher>,
    /// All replicas that were ever started, in order of start. The index is the number of the replica.
    replicas: Vec<PlantReplica>,
    /// The numbers of the starting and ready replicas.
    alive: Vec<u32>,
    /// The instant from which on the next replica may be created.
    next_creation: u64,
    completions: BinaryHeap<Reverse<Completion>>,
    /// The number of requests that wait at dispatchers or that replicas hold.
    pending: usize,
    /// The number of requests that replicas hold.
    in_flight: usize,
    /// The number of forward passes that run now.
    passes: usize,
    lifecycle: Lifecycle,
    /// The pauses of all dispatchers, the earliest end first. All pauses take the same time, so they end in order.
    pauses: VecDeque<Pause>,
    /// The number of desired replicas.
    desired: usize,
    /// The running mean of the start-up times, as the scaler's targets measure it; `None` until a start has ended. The
    /// starts of the first replicas have ended before the simulation.
    startup: Option<Duration>,
    /// The random numbers for the service times of requests that are sent again.
    retry_rng: ChaCha8Rng,
    next_cpu_sample: u64,
    last_cpu_sample: u64,
    metrics: DispatcherMetrics,
    totals: PlantTotals,
    /// The instant up to which [`PlantTotals::replica_time`] is counted.
    counted_until: u64,
    /// The sum of the times that all requests have spent in the system until `now`, in nanoseconds.
    request_nanoseconds: u128,
}

impl Plant {
    /// A plant with empty queues and `replicas` ready replicas. `seed` is that of its random numbers.
    pub fn new(settings: PlantSettings, replicas: usize, seed: u64) -> Self {
        let dispatchers = settings.disturbances.dispatchers;
        let mut plant = Self {
            now: 0,
            objective: settings.objective.as_nanos() as u64,
            deadline: settings.deadline.as_nanos() as u64,
            ingress: Ingress::new(dispatchers, seed),
            dispatchers: (0..dispatchers).map(|_| PlantDispatcher::new(&settings)).collect(),
            replicas: Vec::new(),
            alive: Vec::new(),
            next_creation: 0,
            completions: BinaryHeap::new(),
            pending: 0,
            in_flight: 0,
            passes: 0,
            lifecycle: Lifecycle::new(&settings, seed),
            pauses: VecDeque::new(),
            desired: 0,
            startup: None,
            retry_rng: Stream::Retries.rng(seed),
            next_cpu_sample: CPU_SAMPLE_PERIOD,
            last_cpu_sample: 0,
            metrics: DispatcherMetrics::default(),
            totals: PlantTotals::default(),
            counted_until: 0,
            request_nanoseconds: 0,
            settings,
        };
        plant.desired = replicas;
        (0..plant.placed()).for_each(|_| plant.start_replica());
        let starts: Vec<PhaseEnd> = std::iter::from_fn(|| plant.lifecycle.take_due(NEVER)).collect();
        for PhaseEnd { at, replica } in starts {
            plant.make_ready(replica, Duration::from_nanos(at));
        }
        plant
    }

    /// Runs until the time `until` since the start of the simulation. Takes from `requests` all that arrive until then.
    /// `requests` must be in order of arrival.
    pub fn run(&mut self, requests: &mut Peekable<impl Iterator<Item = PlantRequest>>, until: Duration) {
        let until = until.as_nanos() as u64;
        loop {
            let arrival = requests.peek().map_or(NEVER, |request| request.arrived);
            let completion = self.completions.peek().map_or(NEVER, |completion| completion.0.ends);
            let phase_end = self.lifecycle.first().map_or(NEVER, |end| end.at);
            let pause = self.pauses.front().map_or(NEVER, |pause| pause.ends);
            let rare = phase_end.min(pause).min(self.creation()).min(self.next_cpu_sample);
            let next = arrival.min(completion).min(rare);
            if next > until {
                break;
            }
            self.advance_to(next);
            if next == rare {
                self.handle_rare_event();
            } else if next == completion {
                self.complete_next();
            } else if let Some(request) = requests.next() {
                self.arrive(request);
            }
        }
        self.advance_to(until);
        for dispatcher in 0..self.dispatchers.len() {
            self.demote_and_expire(dispatcher);
        }
        self.count_replica_time();
    }

    /// Runs without further arrivals until every request is answered or expires.
    pub fn finish_all(&mut self) {
        let mut none = std::iter::empty().peekable();
        let last_deadline = self.now + self.settings.deadline.as_nanos() as u64;
        self.run(&mut none, Duration::from_nanos(last_deadline));
        // A replica may have got a request just before its deadline, and still work on it.
        while self.in_flight > 0 {
            let Reverse(completion) = self.completions.peek().expect("a replica that holds a request works");
            let ends = Duration::from_nanos(completion.ends);
            self.run(&mut none, ends);
        }
    }

    /// Sets the number of desired replicas. Creates replicas if there are too few, as fast as the settings permit. Stops
    /// replicas if there are too many: first the starting replicas, and then the newest.
    pub fn scale(&mut self, desired: usize) {
        self.desired = desired;
        self.create_replicas();
        while self.alive.len() > self.placed() {
            self.stop_replica();
        }
    }

    /// The observation of the plant that a scaler would make now.
    pub fn observe(&self) -> Observation {
        let ready = self.ready();
        Observation {
            at: Duration::from_nanos(self.now),
            is_partial: false,
            queue_length: self.queue_length() as f64,
            in_flight: self.in_flight as f64,
            request_seconds: self.request_nanoseconds as f64 / 1e9,
            // As in the scaler's readings, the most that a dispatcher knows of: all dispatchers send to the same replicas.
            capacity: (ready * self.settings.slots) as f64,
            arrivals: self.totals.offered as f64,
            service: self.metrics.service.cumulative(),
            work: self.metrics.work.cumulative(),
            full_work: self.settings.full_work(),
            latency: self.metrics.latency.cumulative(),
            replicas: Replicas {
                desired: self.desired,
                ready,
                // Replicas that wait for their creation count as starting, as those without a pod do in the scaler.
                starting: self.placed() - ready,
                blocked: self.desired - self.placed(),
                lost: 0,
            },
            age: Duration::ZERO,
            startup: self.startup,
            node_time: None,
            placement: None,
        }
    }

    /// The starting and ready replicas as pods that the Kubernetes HPA observes.
    pub fn pods(&self) -> Vec<Pod> {
        let replicas = self.alive.iter().map(|&number| &self.replicas[number as usize]);
        replicas.map(|replica| replica.pod(self.now, self.last_cpu_sample)).collect()
    }

    /// The state of the plant as a sample of a timeline.
    pub fn timeline_sample(&self) -> TimelineSample {
        TimelineSample {
            at: Duration::from_nanos(self.now),
            desired: self.desired,
            ready: self.ready(),
            offered: self.totals.offered,
            requests: Some(RequestCounts {
                queue_length: self.queue_length(),
                in_time: self.totals.in_time,
                pending: self.pending as u64,
            }),
        }
    }

    /// The numbers of requests by result, and the cost of the replicas, since the start of the simulation.
    pub fn totals(&self) -> &PlantTotals {
        &self.totals
    }

    /// The latencies of all answers, in microseconds.
    pub fn latencies(&self) -> &hdrhistogram::Histogram<u64> {
        &self.metrics.latencies
    }

    /// The number of starting and ready replicas.
    pub fn alive(&self) -> usize {
        self.alive.len()
    }

    /// The number of desired replicas that the cluster can place.
    fn placed(&self) -> usize {
        self.desired.min(self.settings.max_placed)
    }

    /// The number of ready replicas.
    fn ready(&self) -> usize {
        self.alive.iter().filter(|&&number| self.phase(number) != ReplicaPhase::Starting).count()
    }

    /// The number of requests that wait at all dispatchers.
    fn queue_length(&self) -> usize {
        self.pending - self.in_flight
    }

    fn phase(&self, number: u32) -> ReplicaPhase {
        self.replicas[number as usize].phase
    }

    /// The instant at which the next replica is created; [`NEVER`] if none waits for its creation.
    fn creation(&self) -> u64 {
        if self.alive.len() < self.placed() { self.next_creation } else { NEVER }
    }

    /// Creates the replicas whose turn has come.
    fn create_replicas(&mut self) {
        self.count_replica_time();
        while self.creation() <= self.now {
            self.start_replica();
            self.next_creation = self.now + (1e9 / self.settings.starts_per_second) as u64;
        }
    }

    fn start_replica(&mut self) {
        let number = self.replicas.len() as u32;
        self.replicas.push(PlantReplica::new(self.now, self.settings.workers));
        self.alive.push(number);
        self.lifecycle.start(number, self.now);
    }

    fn stop_replica(&mut self) {
        let starting = self.alive.iter().rposition(|&number| self.phase(number) == ReplicaPhase::Starting);
        let number = self.alive.remove(starting.unwrap_or(self.alive.len() - 1));
        if self.phase(number) != ReplicaPhase::Starting {
            self.dispatchers.iter_mut().for_each(|dispatcher| dispatcher.rotation.remove(number));
        }
        let replica = &mut self.replicas[number as usize];
        replica.phase = if replica.in_flight == 0 { ReplicaPhase::Gone } else { ReplicaPhase::Draining };
    }

    fn arrive(&mut self, request: PlantRequest) {
        self.totals.offered += 1;
        let index = self.ingress.next();
        let dispatcher = &mut self.dispatchers[index];
        if let Some(number) = dispatcher.rotation.first()
            && dispatcher.is_idle()
            && self.replicas[number as usize].in_flight < self.settings.slots
        {
            dispatcher.record_dispatch(false, self.now);
            self.pending += 1;
            return self.send_to(number, request, index);
        }
        self.demote_and_expire(index);
        if self.dispatchers[index].admit(request) {
            self.pending += 1;
            self.dispatch(index);
        } else {
            self.totals.shed += 1;
        }
    }

    /// Lets the requests that wait at the dispatcher `index` become late and expire.
    fn demote_and_expire(&mut self, index: usize) {
        let expired = self.dispatchers[index].demote_and_expire(self.now);
        self.pending -= expired;
        self.totals.expired += expired as u64;
    }

    /// Handles the next completion: counts the answer and frees the slot. After the last completion of a forward pass,
    /// the worker begins another pass.
    fn complete_next(&mut self) {
        let Reverse(completion) = self.completions.pop().expect("run() has seen a completion that is due");
        if self.phase(completion.replica) == ReplicaPhase::Gone {
            // The replica has died during this forward pass.
            return;
        }
        self.count_answer(&completion);
        self.pending -= 1;
        self.in_flight -= 1;
        let replica = &mut self.replicas[completion.replica as usize];
        replica.in_flight -= 1;
        if completion.is_last_of_pass {
            self.passes -= 1;
            replica.idle_workers += 1;
            if !replica.waiting.is_empty() {
                self.begin_pass(completion.replica);
            }
        }
        let replica = &mut self.replicas[completion.replica as usize];
        match replica.phase {
            ReplicaPhase::Draining if replica.in_flight == 0 => replica.phase = ReplicaPhase::Gone,
            ReplicaPhase::Draining => {}
            _ => {
                let index = usize::from(completion.dispatcher);
                self.dispatchers[index].rotation.free_slot(completion.replica);
                self.dispatch(index);
            }
        }
    }

    fn count_answer(&mut self, completion: &Completion) {
        let service = completion.ends - completion.dispatched;
        let latency = completion.ends - completion.arrived;
        self.dispatchers[usize::from(completion.dispatcher)].record_answer(service, self.now);
        if latency <= self.objective {
            self.totals.in_time += 1;
        } else if latency > self.deadline {
            self.totals.expired += 1;
        }
        let replica = &mut self.replicas[completion.replica as usize];
        let work = completion.ends - std::mem::replace(&mut replica.working_since, completion.ends);
        self.metrics.record_answer(service, work, latency);
    }

    /// Sends the requests that wait at the dispatcher `index` to replicas, as long as the dispatcher knows of a free
    /// slot. If other dispatchers have taken all slots of a replica, it refuses the request. The request returns to its
    /// place in the queue, and the dispatcher passes the replica over for a pause.
    fn dispatch(&mut self, index: usize) {
        if self.dispatchers[index].is_idle() {
            return;
        }
        self.demote_and_expire(index);
        while let Some(number) = self.dispatchers[index].rotation.first() {
            let dispatcher = &mut self.dispatchers[index];
            let Some(request) = dispatcher.dispatch_next(self.now) else { break };
            if self.replicas[number as usize].in_flight < self.settings.slots {
                self.send_to(number, request, index);
                continue;
            }
            self.totals.busy += 1;
            dispatcher.requeue(request);
            dispatcher.rotation.begin_pause();
            self.pauses.push_back(Pause { ends: self.now + BUSY_PAUSE, replica: number, dispatcher: index as u16 });
            // A request that returns to the queue counts as punctual at first.
            self.demote_and_expire(index);
        }
    }

    /// Sends a request of the dispatcher `index` to replica `number`, whose turn it is.
    fn send_to(&mut self, number: u32, request: PlantRequest, index: usize) {
        self.dispatchers[index].rotation.take_slot(number);
        self.in_flight += 1;
        let replica = &mut self.replicas[number as usize];
        replica.in_flight += 1;
        if replica.in_flight == 1 {
            replica.working_since = self.now;
        }
        replica.waiting.push_back(HeldRequest { request, dispatched: self.now, dispatcher: index as u16 });
        if replica.idle_workers > 0 {
            self.begin_pass(number);
        }
    }

    /// Begins a forward pass with the requests that wait at replica `number`. At least one request must wait. A pass
    /// takes at most `max_batch` requests.
    fn begin_pass(&mut self, number: u32) {
        self.passes += 1;
        let replica = &mut self.replicas[number as usize];
        replica.idle_workers -= 1;
        let size = replica.waiting.len().min(self.settings.max_batch);
        let service_time = |held: &HeldRequest| held.request.service_time as f64;
        let first = replica.waiting.front().map_or(0.0, service_time);
        let others: f64 = replica.waiting.iter().take(size).skip(1).map(service_time).sum();
        let slowdown = (self.passes as f64 / self.settings.cores).max(1.0);
        let pass = ((first + self.settings.batch_growth * others) * slowdown) as u64;
        replica.busy += pass;
        for (index, HeldRequest { request, dispatched, dispatcher }) in replica.waiting.drain(..size).enumerate() {
            self.completions.push(Reverse(Completion {
                ends: self.now + pass,
                is_last_of_pass: index + 1 == size,
                dispatched,
                arrived: request.arrived,
                replica: number,
                dispatcher,
            }));
        }
    }

    /// Handles the event that is due now: the end of a replica's phase, else the end of a pause, else the creation of a
    /// replica, or else the CPU samples.
    fn handle_rare_event(&mut self) {
        if let Some(PhaseEnd { replica: number, .. }) = self.lifecycle.take_due(self.now) {
            let replica = &self.replicas[number as usize];
            match replica.phase {
                ReplicaPhase::Starting => self.make_ready(number, Duration::from_nanos(self.now - replica.created)),
                ReplicaPhase::Ready { .. } => self.replace_dead(number),
                ReplicaPhase::Draining | ReplicaPhase::Gone => return,
            }
            for index in 0..self.dispatchers.len() {
                self.dispatch(index);
            }
        } else if let Some(pause) = self.pauses.pop_front_if(|pause| pause.ends == self.now) {
            self.end_pause(pause);
        } else if self.creation() <= self.now {
            self.create_replicas();
        } else {
            self.sample_cpu();
        }
    }

    /// Lets a ready replica die, and creates another one in its place. The requests that the replica held return to their
    /// queues. A request that was in a forward pass takes another service time when it is sent again.
    fn replace_dead(&mut self, number: u32) {
        self.count_replica_time();
        self.dispatchers.iter_mut().for_each(|dispatcher| dispatcher.rotation.remove(number));
        self.alive.retain(|&alive| alive != number);
        let replica = &mut self.replicas[number as usize];
        replica.phase = ReplicaPhase::Gone;
        self.passes -= self.settings.workers - replica.idle_workers;
        self.in_flight -= replica.in_flight;
        let waiting = std::mem::take(&mut replica.waiting);
        let mut lost: Vec<(PlantRequest, u16)> = waiting.iter().map(|held| (held.request, held.dispatcher)).collect();
        for Reverse(computed) in self.completions.iter().filter(|completion| completion.0.replica == number) {
            let service_time = self.settings.service_times.draw(&mut self.retry_rng);
            lost.push((PlantRequest { arrived: computed.arrived, service_time }, computed.dispatcher));
        }
        for (request, dispatcher) in lost {
            if !self.dispatchers[usize::from(dispatcher)].retry(request, self.now) {
                self.pending -= 1;
                self.totals.failed += 1;
            }
        }
        self.create_replicas();
    }

    fn end_pause(&mut self, pause: Pause) {
        let index = usize::from(pause.dispatcher);
        if let ReplicaPhase::Ready { .. } = self.phase(pause.replica) {
            self.dispatchers[index].rotation.end_pause(pause.replica);
            self.dispatch(index);
        }
    }

    fn sample_cpu(&mut self) {
        for &number in &self.alive {
            self.replicas[number as usize].sample_cpu(self.now);
        }
        self.last_cpu_sample = self.now;
        self.next_cpu_sample = self.now + CPU_SAMPLE_PERIOD;
    }

    /// Makes a replica ready whose start took `took`.
    fn make_ready(&mut self, number: u32, took: Duration) {
        self.startup = Some(startup_mean(self.startup, took));
        self.lifecycle.live(number, self.now);
        self.replicas[number as usize].phase = ReplicaPhase::Ready { since: self.now };
        self.dispatchers.iter_mut().for_each(|dispatcher| dispatcher.rotation.add(number));
    }

    fn advance_to(&mut self, time: u64) {
        self.request_nanoseconds += self.pending as u128 * u128::from(time - self.now);
        self.now = time;
    }

    fn count_replica_time(&mut self) {
        let replicas = self.alive.len() as u32;
        self.totals.replica_time += Duration::from_nanos(self.now - self.counted_until) * replicas;
        self.counted_until = self.now;
    }
}

#[cfg(test)]
mod tests;
