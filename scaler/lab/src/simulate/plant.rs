//! The plant: a discrete-event model of a dispatcher and its replicas in virtual time.
//!
//! The plant decides on admission with the dispatcher's code, and its queue and rotation behave like the dispatcher's.
//! Replicas take time to start, hold as many requests as they have slots, and compute the requests in forward passes.
//! Replicas that are stopped first finish the requests that they hold. The events are arrivals, completions, ends of
//! starts, and samples of CPU usage. The plant knows nothing of laws.
//!
//! All instants in the plant are nanoseconds since the start of the simulation.

pub mod metrics;
pub mod queue;
mod replica;
pub mod settings;

use super::requests::PlantRequest;
use super::timeline::{RequestCounts, TimelineSample};
use crate::pods::Pod;
use admission::service_time::ServiceTime;
use admission::{Admission, QueueState, SpareCapacity, TimeLeft};
use law::observation::{Observation, Replicas};
use metrics::DispatcherMetrics;
use queue::PlantQueue;
use replica::{CPU_SAMPLE_PERIOD, HeldRequest, PlantReplica, ReplicaPhase};
use settings::PlantSettings;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::iter::Peekable;
use std::time::{Duration, Instant};

/// The instant of an event that is not scheduled.
const NEVER: u64 = u64::MAX;

/// The numbers of requests by result, and the cost of the replicas, since the start of the simulation.
#[derive(Debug, Clone)]
pub struct PlantTotals {
    /// The number of requests that arrived.
    pub offered: u64,
    /// The number of requests that were answered within the objective.
    pub in_time: u64,
    /// The number of requests that were refused at admission.
    pub shed: u64,
    /// The number of requests whose deadline passed before their answer.
    pub expired: u64,
    /// The sum of the times of all replicas. Starting replicas count, and draining replicas do not.
    pub replica_time: Duration,
}

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
}

/// The end of a replica's start, when the replica becomes ready.
#[derive(Debug, Clone, Copy)]
struct Start {
    ends: u64,
    /// The number of the replica.
    replica: u32,
}

/// The state of the simulated dispatcher and its replicas.
pub struct Plant {
    settings: PlantSettings,
    now: u64,
    objective: u64,
    deadline: u64,
    queue: PlantQueue,
    spare_capacity: SpareCapacity,
    /// The dispatcher's running mean of service times.
    mean_service: ServiceTime,
    /// The mean of `mean_service` in nanoseconds; 0 before the first answer. It is stored, because the queue needs it
    /// for every request.
    mean_service_nanoseconds: u64,
    /// The instant for [`ServiceTime`] that stands for the start of the simulation. [`ServiceTime`] takes instants of
    /// the real clock.
    epoch: Instant,
    last_dispatch: u64,
    /// All replicas that were ever started, in order of start. The index is the number of the replica.
    replicas: Vec<PlantReplica>,
    /// The numbers of the starting and ready replicas.
    alive: Vec<u32>,
    /// The numbers of the ready replicas with a free slot, in the order in which their turns come.
    free_replicas: VecDeque<u32>,
    /// The number of slots of all ready replicas.
    capacity: usize,
    completions: BinaryHeap<Reverse<Completion>>,
    /// The number of requests that replicas hold.
    in_flight: usize,
    /// The number of forward passes that run now.
    passes: usize,
    /// The ends of all starts, the earliest first. All starts take the same time, so they end in order.
    starts: VecDeque<Start>,
    /// The number of desired replicas.
    desired: usize,
    /// The start-up time as measured; `None` until a start has ended. The starts of the first replicas have ended before
    /// the simulation.
    startup: Option<Duration>,
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
    /// A plant with an empty queue and `replicas` ready replicas.
    pub fn new(settings: PlantSettings, replicas: usize) -> Self {
        let epoch = Instant::now();
        let (objective, deadline) = (settings.objective.as_nanos() as u64, settings.deadline.as_nanos() as u64);
        let mut plant = Self {
            now: 0,
            queue: PlantQueue::new(settings.order, objective, deadline),
            objective,
            deadline,
            spare_capacity: SpareCapacity::new(settings.deadline / 2),
            mean_service: ServiceTime::new(epoch),
            mean_service_nanoseconds: 0,
            epoch,
            last_dispatch: 0,
            replicas: Vec::new(),
            alive: Vec::new(),
            free_replicas: VecDeque::new(),
            capacity: 0,
            completions: BinaryHeap::new(),
            in_flight: 0,
            passes: 0,
            starts: VecDeque::new(),
            desired: 0,
            startup: (replicas > 0).then_some(settings.startup),
            next_cpu_sample: CPU_SAMPLE_PERIOD,
            last_cpu_sample: 0,
            metrics: DispatcherMetrics::default(),
            totals: PlantTotals { offered: 0, in_time: 0, shed: 0, expired: 0, replica_time: Duration::ZERO },
            counted_until: 0,
            request_nanoseconds: 0,
            settings,
        };
        plant.scale(replicas);
        for start in std::mem::take(&mut plant.starts) {
            plant.make_ready(start.replica);
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
            let start_or_sample = self.next_cpu_sample.min(self.starts.front().map_or(NEVER, |start| start.ends));
            let next = arrival.min(completion).min(start_or_sample);
            if next > until {
                break;
            }
            self.advance_to(next);
            if next == start_or_sample {
                self.end_start_or_sample_cpu();
            } else if next == completion {
                self.complete_next();
            } else if let Some(request) = requests.next() {
                self.arrive(request);
            }
        }
        self.advance_to(until);
        self.demote_and_expire();
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

    /// Sets the number of desired replicas. Starts replicas if there are too few. Stops replicas if there are too many:
    /// first the starting replicas, and then the newest.
    pub fn scale(&mut self, desired: usize) {
        self.count_replica_time();
        self.desired = desired;
        let placed = desired.min(self.settings.max_placed);
        while self.alive.len() < placed {
            self.start_replica();
        }
        while self.alive.len() > placed {
            self.stop_replica();
        }
    }

    /// The observation of the plant that a scaler would make now.
    pub fn observe(&self) -> Observation {
        let ready = self.alive.iter().filter(|&&number| self.phase(number) != ReplicaPhase::Starting).count();
        Observation {
            at: Duration::from_nanos(self.now),
            is_partial: false,
            queue_length: self.queue.len() as f64,
            in_flight: self.in_flight as f64,
            request_seconds: self.request_nanoseconds as f64 / 1e9,
            capacity: self.capacity as f64,
            arrivals: self.totals.offered as f64,
            service: self.metrics.service.cumulative(),
            work: self.metrics.work.cumulative(),
            latency: self.metrics.latency.cumulative(),
            replicas: Replicas {
                desired: self.desired,
                ready,
                starting: self.alive.len() - ready,
                blocked: self.desired - self.alive.len(),
                lost: 0,
            },
            startup: self.startup,
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
            ready: self.capacity / self.settings.slots,
            offered: self.totals.offered,
            requests: Some(RequestCounts {
                queue_length: self.queue.len(),
                in_time: self.totals.in_time,
                pending: (self.queue.len() + self.in_flight) as u64,
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

    fn phase(&self, number: u32) -> ReplicaPhase {
        self.replicas[number as usize].phase
    }

    fn start_replica(&mut self) {
        let number = self.replicas.len() as u32;
        self.replicas.push(PlantReplica::new(self.now, self.settings.workers));
        self.alive.push(number);
        let ends = self.now + self.settings.startup.as_nanos() as u64;
        self.starts.push_back(Start { ends, replica: number });
    }

    fn stop_replica(&mut self) {
        let starting = self.alive.iter().rposition(|&number| self.phase(number) == ReplicaPhase::Starting);
        let number = self.alive.remove(starting.unwrap_or(self.alive.len() - 1));
        if self.phase(number) != ReplicaPhase::Starting {
            self.capacity -= self.settings.slots;
            self.free_replicas.retain(|&free| free != number);
        }
        self.starts.retain(|start| start.replica != number);
        let replica = &mut self.replicas[number as usize];
        replica.phase = if replica.in_flight == 0 { ReplicaPhase::Gone } else { ReplicaPhase::Draining };
    }

    fn arrive(&mut self, request: PlantRequest) {
        self.totals.offered += 1;
        if let Some(&number) = self.free_replicas.front()
            && self.queue.is_empty()
        {
            self.spare_capacity.record(false, Duration::from_nanos(self.now - self.last_dispatch));
            return self.send_to(number, request);
        }
        self.demote_and_expire();
        if self.is_admitted() {
            self.queue.push(request);
            self.dispatch();
        } else {
            self.totals.shed += 1;
        }
    }

    fn is_admitted(&self) -> bool {
        let state = QueueState {
            punctual: self.queue.punctual(),
            late: self.queue.late(),
            slot_is_free: !self.free_replicas.is_empty(),
            capacity: self.capacity,
            service_time: self.mean_service.mean(),
            spare: self.spare_capacity.share(),
        };
        let time_left = TimeLeft { objective: self.settings.objective, deadline: self.settings.deadline };
        self.queue.len() < self.settings.max_queue_length
            && Admission::decide(self.settings.order, &state, time_left) == Admission::Admit
    }

    fn demote_and_expire(&mut self) {
        self.totals.expired += self.queue.demote(self.now, self.mean_service_nanoseconds) as u64;
    }

    /// Handles the next completion: counts the answer and frees the slot. After the last completion of a forward pass,
    /// the worker begins another pass.
    fn complete_next(&mut self) {
        let Reverse(completion) = self.completions.pop().expect("run() has seen a completion that is due");
        self.count_answer(&completion);
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
                // A replica whose slots were not all taken still waits for its turn.
                if replica.in_flight + 1 == self.settings.slots {
                    self.free_replicas.push_back(completion.replica);
                }
                self.dispatch();
            }
        }
    }

    fn count_answer(&mut self, completion: &Completion) {
        let service = completion.ends - completion.dispatched;
        let latency = completion.ends - completion.arrived;
        self.mean_service.record(Duration::from_nanos(service), self.epoch + Duration::from_nanos(self.now));
        self.mean_service_nanoseconds = self.mean_service.mean().map_or(0, |mean| mean.as_nanos() as u64);
        if latency <= self.objective {
            self.totals.in_time += 1;
        } else if latency > self.deadline {
            self.totals.expired += 1;
        }
        let replica = &mut self.replicas[completion.replica as usize];
        let work = completion.ends - std::mem::replace(&mut replica.working_since, completion.ends);
        self.metrics.record_answer(service, work, latency);
    }

    /// Sends waiting requests to free slots, as long as there are both.
    fn dispatch(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        self.demote_and_expire();
        while let Some(&number) = self.free_replicas.front() {
            let Some(request) = self.queue.pop(self.now, self.mean_service_nanoseconds) else { break };
            let is_late = request.arrived + self.objective < self.now + self.mean_service_nanoseconds;
            let gap = Duration::from_nanos(self.now - self.last_dispatch);
            self.spare_capacity.record(request.arrived != self.now && !is_late, gap);
            self.send_to(number, request);
        }
    }

    /// Sends a request to replica `number`, whose turn it is. The replica takes its next turn after all others.
    fn send_to(&mut self, number: u32, request: PlantRequest) {
        self.free_replicas.pop_front();
        if self.replicas[number as usize].in_flight + 1 < self.settings.slots {
            self.free_replicas.push_back(number);
        }
        self.last_dispatch = self.now;
        self.in_flight += 1;
        let replica = &mut self.replicas[number as usize];
        replica.in_flight += 1;
        if replica.in_flight == 1 {
            replica.working_since = self.now;
        }
        replica.waiting.push_back(HeldRequest { request, dispatched: self.now });
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
        for (index, HeldRequest { request, dispatched }) in replica.waiting.drain(..size).enumerate() {
            self.completions.push(Reverse(Completion {
                ends: self.now + pass,
                is_last_of_pass: index + 1 == size,
                dispatched,
                arrived: request.arrived,
                replica: number,
            }));
        }
    }

    /// Handles the event that is due now: the end of a start, or else the CPU samples.
    fn end_start_or_sample_cpu(&mut self) {
        if let Some(&start) = self.starts.front()
            && start.ends == self.now
        {
            self.starts.pop_front();
            self.startup = Some(self.settings.startup);
            self.make_ready(start.replica);
            self.dispatch();
            return;
        }
        for &number in &self.alive {
            self.replicas[number as usize].sample_cpu(self.now);
        }
        self.last_cpu_sample = self.now;
        self.next_cpu_sample = self.now + CPU_SAMPLE_PERIOD;
    }

    fn make_ready(&mut self, number: u32) {
        self.replicas[number as usize].phase = ReplicaPhase::Ready { since: self.now };
        self.capacity += self.settings.slots;
        self.free_replicas.push_back(number);
    }

    fn advance_to(&mut self, time: u64) {
        self.request_nanoseconds += (self.queue.len() + self.in_flight) as u128 * u128::from(time - self.now);
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
