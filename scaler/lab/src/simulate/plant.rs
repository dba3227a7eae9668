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
            full_work: self.settings.full_work(),
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
mod tests {
    use super::*;
    use crate::laws::windows::queueing::erlang_c;
    use crate::simulate::requests::generate;
    use crate::simulate::service_time::ServiceTimeDistribution;
    use admission::Order;
    use proptest::prelude::*;
    use workload::Workload;
    use workload::arrivals::ArrivalProcess;

    const HOUR: Duration = Duration::from_secs(3600);
    const S: fn(f64) -> Duration = Duration::from_secs_f64;

    fn settings(service_times: ServiceTimeDistribution) -> PlantSettings {
        PlantSettings {
            order: Order::LateLast,
            objective: S(0.5),
            deadline: S(5.0),
            max_queue_length: 1000,
            slots: 1,
            workers: 1,
            max_batch: 1,
            batch_growth: 1.0,
            service_times,
            startup: S(3.0),
            max_placed: usize::MAX,
            cores: f64::INFINITY,
        }
    }

    /// The mean wait in seconds of Poisson arrivals that `replicas` replicas serve in order of arrival. No request is
    /// refused or expires.
    fn mean_wait(
        service_times: ServiceTimeDistribution,
        replicas: usize,
        arrivals_per_second: f64,
        seconds: f64,
    ) -> f64 {
        let unlimited = PlantSettings {
            order: Order::Fifo,
            objective: HOUR,
            deadline: HOUR,
            max_queue_length: usize::MAX,
            ..settings(service_times.clone())
        };
        let mut plant = Plant::new(unlimited, replicas);
        let workload = Workload::constant(arrivals_per_second, S(seconds));
        plant.run(&mut generate(&workload, ArrivalProcess::Poisson, &service_times, 1).peekable(), S(seconds));
        plant.finish_all();
        let seen = plant.observe();
        assert_eq!(seen.arrivals, seen.latency.count(), "no request is refused or expires");
        (seen.latency.sum - seen.service.sum) / seen.arrivals
    }

    /// A request every `seconds`, the first at second `first`, all with a service time of `service_time` seconds.
    fn every(seconds: f64, first: f64, service_time: f64) -> Peekable<impl Iterator<Item = PlantRequest>> {
        let nanoseconds = |seconds: f64| (seconds * 1e9) as u64;
        let request = move |count: u64| PlantRequest {
            arrived: nanoseconds(first) + count * nanoseconds(seconds),
            service_time: nanoseconds(service_time),
        };
        (0..).map(request).peekable()
    }

    fn assert_near(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 0.02, "{found} is not within 2 % of {expected}");
    }

    #[test]
    fn mean_waits_agree_with_queueing_theory() {
        // M/M/n: the mean wait is C(n, a)·S / (n·(1 − ρ)).
        for (replicas, utilisation) in [(1, 0.7), (3, 0.8), (10, 0.8)] {
            let load = utilisation * replicas as f64;
            let expected = erlang_c(replicas, load) * 0.05 / (replicas as f64 * (1.0 - utilisation));
            assert_near(
                mean_wait(ServiceTimeDistribution::Exponential(S(0.05)), replicas, load / 0.05, 3e6 / (load / 0.05)),
                expected,
            );
        }
        // M/D/1: the mean wait is ρ·S / (2·(1 − ρ)). M/G/1: the mean wait is 1 + cs² times as long (Pollaczek and
        // Khinchine).
        assert_near(mean_wait(ServiceTimeDistribution::Constant(S(0.05)), 1, 14.0, 1e5), 0.7 * 0.05 / 0.6);
        assert_near(mean_wait(ServiceTimeDistribution::new(S(0.05), 0.5), 1, 14.0, 1e5), 1.25 * 0.7 * 0.05 / 0.6);
    }

    #[test]
    fn replicas_take_time_to_start_and_finish_their_requests_before_they_stop() {
        let mut plant = Plant::new(settings(ServiceTimeDistribution::Constant(S(0.4))), 1);
        // A request every 0.2 s, from 0.1 s on, is twice the load that one replica can serve.
        let mut arrivals = every(0.2, 0.1, 0.4);
        plant.run(&mut arrivals, S(1.0));
        plant.scale(2);
        plant.run(&mut arrivals, S(3.9));
        assert_eq!(plant.observe().replicas, Replicas { desired: 2, ready: 1, starting: 1, ..Replicas::default() });
        plant.run(&mut arrivals, S(4.05));
        assert_eq!(plant.observe().replicas, Replicas { desired: 2, ready: 2, starting: 0, ..Replicas::default() });
        assert_eq!((plant.observe().startup, plant.observe().in_flight), (Some(S(3.0)), 2.0));
        plant.scale(1);
        assert_eq!((plant.observe().replicas.ready, plant.observe().in_flight), (1, 2.0));
        plant.run(&mut arrivals, S(4.5));
        assert_eq!(plant.observe().in_flight, 1.0);
        // There is one replica for 1 s, then two replicas for 3.05 s (the second starts during 3 s of it), and then one
        // for 0.45 s.
        assert_eq!(plant.totals().replica_time, S(1.0 + 6.1 + 0.45));
    }

    #[test]
    fn replicas_that_cannot_be_placed_are_blocked() {
        let mut plant =
            Plant::new(PlantSettings { max_placed: 2, ..settings(ServiceTimeDistribution::Constant(S(0.1))) }, 1);
        plant.scale(5);
        assert_eq!(
            plant.observe().replicas,
            Replicas { desired: 5, ready: 1, starting: 1, blocked: 3, ..Replicas::default() }
        );
    }

    #[test]
    fn passes_slow_down_if_there_are_too_few_cores() {
        let wait = |cores| {
            let mut plant =
                Plant::new(PlantSettings { cores, ..settings(ServiceTimeDistribution::Constant(S(0.1))) }, 4);
            plant.run(&mut every(0.0, 0.0, 0.1).take(4).peekable(), S(1.0));
            plant.observe().service.sum
        };
        assert!((wait(4.0) - 0.4).abs() < 1e-9);
        // The third pass is one of three passes on two cores, so it takes 1.5 times as long. The fourth takes twice as
        // long.
        assert!((wait(2.0) - (0.1 + 0.1 + 0.15 + 0.2)).abs() < 1e-9);
    }

    #[test]
    fn a_replica_with_full_slots_reaches_the_full_speed() {
        let one = settings(ServiceTimeDistribution::Constant(S(0.05)));
        for settings in [
            one.clone(),
            PlantSettings { slots: 2, ..one.clone() },
            PlantSettings { slots: 16, max_batch: 8, batch_growth: 0.25, ..one.clone() },
            PlantSettings { slots: 16, workers: 2, max_batch: 4, batch_growth: 0.5, ..one },
        ] {
            let rate = settings.full_speed().requests_per_second;
            let mut plant = Plant::new(settings, 1);
            plant.run(&mut every(0.001, 0.0, 0.05), S(100.0));
            assert_near(plant.observe().service.count() / 100.0, rate);
        }
    }

    #[test]
    fn a_pass_computes_the_waiting_requests_and_takes_longer_for_more() {
        let batches = PlantSettings {
            slots: 4,
            max_batch: 3,
            batch_growth: 0.5,
            ..settings(ServiceTimeDistribution::Constant(S(0.1)))
        };
        let mut plant = Plant::new(batches, 1);
        // Five requests arrive at once. The first is computed alone until 0.1 s, and the next three together until
        // 0.3 s. The fifth gets a slot at 0.1 s and is computed alone until 0.4 s.
        plant.run(&mut every(0.0, 0.0, 0.1).take(5).peekable(), S(0.05));
        assert_eq!((plant.observe().in_flight, plant.observe().queue_length), (4.0, 1.0));
        plant.run(&mut every(0.0, 0.0, 0.1).take(0).peekable(), S(1.0));
        let seen = plant.observe();
        assert_eq!((seen.work.count(), seen.service.count()), (5.0, 5.0));
        assert!((seen.service.sum - (0.1 + 3.0 * 0.3 + 0.3)).abs() < 1e-9, "{}", seen.service.sum);
        assert!((seen.work.sum - 0.4).abs() < 1e-9, "{}", seen.work.sum);
        assert!((seen.latency.sum - (0.1 + 3.0 * 0.3 + 0.4)).abs() < 1e-9, "{}", seen.latency.sum);
    }

    #[test]
    fn cpu_usage_is_a_mean_over_fifteen_seconds() {
        let mut plant = Plant::new(settings(ServiceTimeDistribution::Constant(S(0.25))), 1);
        let mut arrivals = every(0.5, 0.0, 0.25);
        plant.run(&mut arrivals, S(29.0));
        assert_eq!(plant.pods()[0].usage, None, "the mean needs two samples");
        plant.run(&mut arrivals, S(31.0));
        let usage = plant.pods()[0].usage.expect("there are two samples");
        assert!((usage.cores - 0.5).abs() < 0.02, "{usage:?}");
        assert_eq!((usage.age, usage.window), (S(1.0), S(15.0)));
    }

    proptest! {
        #[test]
        fn every_request_is_counted_once(
            order in prop::sample::select(vec![Order::LateLast, Order::Fifo]),
            rates in prop::collection::vec(0..120_u32, 1..20),
            scales in prop::collection::vec(0..5_usize, 1..20),
            variation in 0.0..1.5,
            slots in 1..4_usize,
        ) {
            let service_times = ServiceTimeDistribution::new(S(0.06), variation);
            let common = settings(service_times.clone());
            let mut plant = Plant::new(PlantSettings { order, slots, max_queue_length: 50, ..common }, 1);
            let workload = Workload { per_second: rates.iter().map(|&rate| f64::from(rate)).collect() };
            let mut arrivals = generate(&workload, ArrivalProcess::Poisson, &service_times, 3).peekable();
            for (second, &replicas) in scales.iter().cycle().take(rates.len()).enumerate() {
                plant.scale(replicas);
                plant.run(&mut arrivals, S(second as f64 + 1.0));
                let seen = plant.observe();
                prop_assert!(seen.in_flight <= (seen.capacity + 5.0 * slots as f64));
                prop_assert!(seen.queue_length <= 50.0);
            }
            plant.finish_all();
            let (seen, totals) = (plant.observe(), plant.totals().clone());
            prop_assert_eq!((seen.queue_length, seen.in_flight), (0.0, 0.0));
            let answered = seen.latency.count() as u64;
            prop_assert!(totals.in_time <= answered);
            // A request that is answered after its deadline counts as answered and as expired. So the two sums are
            // bounds of `offered`, and need not equal it.
            prop_assert!(answered + totals.shed <= totals.offered);
            prop_assert!(totals.offered <= answered + totals.shed + totals.expired);
        }
    }
}
