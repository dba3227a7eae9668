//! The plant: a dispatcher and its replicas as a discrete-event system in virtual time. Queue, admission and rotation
//! are the dispatcher's; replicas take time to start, hold as many requests as they have slots, work them off in passes, and
//! finish what they hold when they are taken out. Knows nothing of policies.

use super::line::Line;
use super::meter::Meter;
use super::requests::Request;
use super::trial::{Moment, Requests};
use super::work::Work;
use crate::pods::{Pod, Stage, Usage};
use admission::service_time::ServiceTime;
use admission::{Admission, Order, QueueState, SpareCapacity, TimeLeft};
use law::observation::{Observation, Replicas};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::iter::Peekable;
use std::time::{Duration, Instant};

/// Between two samples of processor use, as metrics-server takes them.
const USAGE_PERIOD: u64 = 15_000_000_000;

/// What is modelled.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who goes first.
    pub order: Order,
    /// Arrival → answer: in time.
    pub objective: Duration,
    /// Arrival → answer: given up.
    pub deadline: Duration,
    /// Requests that may wait.
    pub queue_length: usize,
    /// Requests that a replica holds at once.
    pub slots: usize,
    /// Passes that it makes at once.
    pub workers: usize,
    /// Requests that one pass takes at most.
    pub batch: usize,
    /// What each further request of a pass adds to its time, as a part of what it would take alone.
    pub batch_growth: f64,
    /// Service time of a request.
    pub work: Work,
    /// Asked for → ready.
    pub startup: Duration,
    /// Replicas that can be placed; the others wait for room.
    pub room: usize,
    /// Passes at once beyond this many slow each other down in proportion.
    pub cores: f64,
}

impl Settings {
    /// Requests per second of a replica whose slots are always full, and how long one of its passes takes, seconds. With
    /// fewer slots than two batches for each worker it is a little less.
    pub fn full_speed(&self) -> (f64, f64) {
        let size = self.batch.min(self.slots / self.workers) as f64;
        let pass = self.work.mean() * (1.0 + (size - 1.0) * self.batch_growth);
        (self.workers as f64 * size / pass, pass)
    }
}

/// What happened to the requests so far, and what it cost.
#[derive(Debug, Clone)]
pub struct Tally {
    /// That arrived.
    pub offered: u64,
    /// Answered within the objective.
    pub in_time: u64,
    /// Refused at admission.
    pub shed: u64,
    /// Never handed out, or not answered before the deadline.
    pub expired: u64,
    /// Replicas × time, starting ones included.
    pub replica_time: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Ready { since: u64 },
    Draining,
    Gone,
}

#[derive(Debug, Clone)]
struct Replica {
    phase: Phase,
    created: u64,
    in_flight: usize,
    /// Held, but in no pass yet.
    waiting: VecDeque<Held>,
    /// Passes that it could begin.
    idle: usize,
    /// Since when it has held requests, or its last answer if that was later.
    works_since: u64,
    /// Work done in whole requests, and at the last two samples of processor use.
    busy: u64,
    sampled: Option<(u64, u64)>,
    usage: Option<f64>,
}

/// A request at a replica.
#[derive(Debug, Clone, Copy)]
struct Held {
    request: Request,
    dispatched: u64,
}

/// Work in progress, the earliest end first. The other fields break ties in a fixed order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Job {
    ends: u64,
    /// The last of its pass to end. All of a pass end at once.
    is_last: bool,
    dispatched: u64,
    arrived: u64,
    replica: u32,
}

/// The system at one instant.
pub struct Plant {
    settings: Settings,
    now: u64,
    objective: u64,
    deadline: u64,
    line: Line,
    spare: SpareCapacity,
    service_time: ServiceTime,
    /// As the dispatcher knows it, nanoseconds; 0 before the first answer.
    mean_work: u64,
    /// Of [`ServiceTime`]'s clock.
    epoch: Instant,
    last_dispatch: u64,
    /// By number, in the order of creation; the first `gone` of them are no more.
    replicas: Vec<Replica>,
    alive: Vec<u32>,
    /// Free slots, in the order of their last turns.
    free: VecDeque<u32>,
    /// Slots of ready replicas.
    capacity: usize,
    jobs: BinaryHeap<Reverse<Job>>,
    /// Held by replicas.
    in_flight: usize,
    /// Passes under way.
    passes: usize,
    /// Ends of starts.
    starts: VecDeque<(u64, u32)>,
    desired: usize,
    startup: Option<Duration>,
    next_sample: u64,
    last_sample: u64,
    meter: Meter,
    tally: Tally,
    counted_until: u64,
    /// Requests in the system × time, and until when that is counted.
    request_nanoseconds: u128,
}

impl Plant {
    /// `replicas` are ready at the start.
    pub fn new(settings: Settings, replicas: usize) -> Self {
        let epoch = Instant::now();
        let (objective, deadline) = (settings.objective.as_nanos() as u64, settings.deadline.as_nanos() as u64);
        let mut plant = Self {
            now: 0,
            line: Line::new(settings.order, objective, deadline),
            objective,
            deadline,
            spare: SpareCapacity::new(settings.deadline / 2),
            service_time: ServiceTime::new(epoch),
            mean_work: 0,
            epoch,
            last_dispatch: 0,
            replicas: Vec::new(),
            alive: Vec::new(),
            free: VecDeque::new(),
            capacity: 0,
            jobs: BinaryHeap::new(),
            in_flight: 0,
            passes: 0,
            starts: VecDeque::new(),
            desired: 0,
            startup: None,
            next_sample: USAGE_PERIOD,
            last_sample: 0,
            meter: Meter::default(),
            tally: Tally { offered: 0, in_time: 0, shed: 0, expired: 0, replica_time: Duration::ZERO },
            counted_until: 0,
            request_nanoseconds: 0,
            settings,
        };
        plant.scale(replicas);
        for number in std::mem::take(&mut plant.starts) {
            plant.make_ready(number.1);
        }
        plant
    }

    /// Runs to `until`, fed from `requests`, in the order of their arrival.
    pub fn run(&mut self, requests: &mut Peekable<impl Iterator<Item = Request>>, until: Duration) {
        let until = until.as_nanos() as u64;
        loop {
            let arrival = requests.peek().map_or(u64::MAX, |request| request.arrived);
            let end = self.jobs.peek().map_or(u64::MAX, |job| job.0.ends);
            let other = self.next_sample.min(self.starts.front().map_or(u64::MAX, |start| start.0));
            let next = arrival.min(end).min(other);
            if next > until {
                break;
            }
            self.pass(next);
            if next == other {
                self.do_other();
            } else if next == end {
                self.finish();
            } else if let Some(request) = requests.next() {
                self.arrive(request);
            }
        }
        self.pass(until);
        self.tally.expired += self.line.demote(self.now, self.mean_work) as u64;
        self.count_time();
    }

    /// Lets what is in the system come to its end, without further arrivals.
    pub fn finish_all(&mut self) {
        let last = self.now + self.settings.deadline.as_nanos() as u64;
        self.run(&mut std::iter::empty().peekable(), Duration::from_nanos(last));
    }

    /// Asks for so many replicas. Those that are too many leave: starting ones first, then the newest.
    pub fn scale(&mut self, desired: usize) {
        self.count_time();
        self.desired = desired;
        let placed = desired.min(self.settings.room);
        while self.alive.len() < placed {
            let number = self.replicas.len() as u32;
            let (created, sampled) = (self.now, None);
            self.replicas.push(Replica {
                phase: Phase::Starting,
                created,
                in_flight: 0,
                waiting: VecDeque::new(),
                idle: self.settings.workers,
                works_since: 0,
                busy: 0,
                sampled,
                usage: None,
            });
            self.alive.push(number);
            self.starts.push_back((self.now + self.settings.startup.as_nanos() as u64, number));
        }
        while self.alive.len() > placed {
            let starting = self.alive.iter().rposition(|&number| self.phase(number) == Phase::Starting);
            let number = self.alive.remove(starting.unwrap_or(self.alive.len() - 1));
            if self.phase(number) != Phase::Starting {
                self.capacity -= self.settings.slots;
                self.free.retain(|&slot| slot != number);
            }
            self.starts.retain(|start| start.1 != number);
            let replica = &mut self.replicas[number as usize];
            replica.phase = if replica.in_flight == 0 { Phase::Gone } else { Phase::Draining };
        }
    }

    /// Everything that a scaler can see.
    pub fn observe(&self) -> Observation {
        let ready = self.alive.iter().filter(|&&number| self.phase(number) != Phase::Starting).count();
        Observation {
            at: Duration::from_nanos(self.now),
            queue_length: self.line.len() as f64,
            in_flight: self.in_flight as f64,
            request_seconds: self.request_nanoseconds as f64 / 1e9,
            capacity: self.capacity as f64,
            arrivals: self.tally.offered as f64,
            service: self.meter.service.cumulative(),
            work: self.meter.work.cumulative(),
            latency: self.meter.latency.cumulative(),
            replicas: Replicas {
                desired: self.desired,
                ready,
                starting: self.alive.len() - ready,
                blocked: self.desired - self.alive.len(),
            },
            startup: self.startup,
        }
    }

    /// What the Kubernetes HPA can see beside it.
    pub fn pods(&self) -> Vec<Pod> {
        self.alive.iter().map(|&number| self.pod(&self.replicas[number as usize])).collect()
    }

    /// The instant in short.
    pub fn moment(&self) -> Moment {
        Moment {
            at: Duration::from_nanos(self.now),
            desired: self.desired,
            ready: self.capacity / self.settings.slots,
            offered: self.tally.offered,
            requests: Some(Requests {
                queue_length: self.line.len(),
                in_time: self.tally.in_time,
                pending: (self.line.len() + self.in_flight) as u64,
            }),
        }
    }

    /// How it went so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Latencies of answers, microseconds.
    pub fn latencies(&self) -> &hdrhistogram::Histogram<u64> {
        &self.meter.latencies
    }

    fn phase(&self, number: u32) -> Phase {
        self.replicas[number as usize].phase
    }

    fn pod(&self, replica: &Replica) -> Pod {
        let since = |then: u64| Duration::from_nanos(self.now - then);
        Pod {
            age: since(replica.created),
            stage: match replica.phase {
                Phase::Ready { since: then } => Stage::Ready(since(then)),
                _ => Stage::Pending,
            },
            request: 1.0,
            usage: replica.usage.map(|cores| Usage {
                cores,
                age: since(self.last_sample),
                window: Duration::from_nanos(USAGE_PERIOD),
            }),
        }
    }

    fn arrive(&mut self, request: Request) {
        self.tally.offered += 1;
        if let Some(&number) = self.free.front()
            && self.line.is_empty()
        {
            self.spare.record(false, Duration::from_nanos(self.now - self.last_dispatch));
            return self.start(number, request);
        }
        self.tally.expired += self.line.demote(self.now, self.mean_work) as u64;
        let facts = QueueState {
            punctual: self.line.punctual(),
            late: self.line.late(),
            slot_is_free: !self.free.is_empty(),
            capacity: self.capacity,
            service_time: self.service_time.mean(),
            spare: self.spare.share(),
        };
        let time_left = TimeLeft { objective: self.settings.objective, deadline: self.settings.deadline };
        if self.line.len() >= self.settings.queue_length
            || Admission::decide(self.settings.order, &facts, time_left) != Admission::Admit
        {
            self.tally.shed += 1;
            return;
        }
        self.line.push(request);
        self.dispatch();
    }

    fn finish(&mut self) {
        let Reverse(job) = self.jobs.pop().expect("an end was seen");
        let (took, latency) = (job.ends - job.dispatched, job.ends - job.arrived);
        self.service_time.record(Duration::from_nanos(took), self.epoch + Duration::from_nanos(self.now));
        self.mean_work = self.service_time.mean().map_or(0, |mean| mean.as_nanos() as u64);
        if latency <= self.objective {
            self.tally.in_time += 1;
        } else if latency > self.deadline {
            self.tally.expired += 1;
        }
        let replica = &mut self.replicas[job.replica as usize];
        let worked = job.ends - std::mem::replace(&mut replica.works_since, job.ends);
        self.meter.answered(took, worked, latency);
        self.in_flight -= 1;
        replica.in_flight -= 1;
        if job.is_last {
            self.passes -= 1;
            replica.idle += 1;
            if !replica.waiting.is_empty() {
                self.begin_pass(job.replica);
            }
        }
        let replica = &mut self.replicas[job.replica as usize];
        match replica.phase {
            Phase::Draining if replica.in_flight == 0 => replica.phase = Phase::Gone,
            Phase::Draining => {}
            _ => {
                self.free.push_back(job.replica);
                self.dispatch();
            }
        }
    }

    fn dispatch(&mut self) {
        if self.line.is_empty() {
            return;
        }
        self.tally.expired += self.line.demote(self.now, self.mean_work) as u64;
        while let Some(&number) = self.free.front() {
            let Some(request) = self.line.pop(self.now, self.mean_work) else { break };
            let is_late = request.arrived + self.objective < self.now + self.mean_work;
            let gap = Duration::from_nanos(self.now - self.last_dispatch);
            self.spare.record(request.arrived != self.now && !is_late, gap);
            self.start(number, request);
        }
    }

    /// The first free slot, which is replica `number`'s, takes a request.
    fn start(&mut self, number: u32, request: Request) {
        self.free.pop_front();
        self.last_dispatch = self.now;
        self.in_flight += 1;
        let replica = &mut self.replicas[number as usize];
        replica.in_flight += 1;
        if replica.in_flight == 1 {
            replica.works_since = self.now;
        }
        replica.waiting.push_back(Held { request, dispatched: self.now });
        if replica.idle > 0 {
            self.begin_pass(number);
        }
    }

    /// As many of those that wait at the replica as one pass takes, at least one.
    fn begin_pass(&mut self, number: u32) {
        self.passes += 1;
        let replica = &mut self.replicas[number as usize];
        replica.idle -= 1;
        let size = replica.waiting.len().min(self.settings.batch);
        let work = |held: &Held| held.request.work as f64;
        let first = replica.waiting.front().map_or(0.0, work);
        let others: f64 = replica.waiting.iter().take(size).skip(1).map(work).sum();
        let slowdown = (self.passes as f64 / self.settings.cores).max(1.0);
        let took = ((first + self.settings.batch_growth * others) * slowdown) as u64;
        replica.busy += took;
        for (index, Held { request, dispatched }) in replica.waiting.drain(..size).enumerate() {
            let (ends, is_last) = (self.now + took, index + 1 == size);
            self.jobs.push(Reverse(Job { ends, is_last, dispatched, arrived: request.arrived, replica: number }));
        }
    }

    /// A replica becomes ready, or processor use is sampled.
    fn do_other(&mut self) {
        if let Some(&(ends, number)) = self.starts.front()
            && ends == self.now
        {
            self.starts.pop_front();
            self.startup = Some(self.settings.startup);
            self.make_ready(number);
            self.dispatch();
            return;
        }
        for &number in &self.alive {
            let replica = &mut self.replicas[number as usize];
            let before = replica.sampled.replace((self.now, replica.busy));
            replica.usage = before.map(|(then, busy)| (replica.busy - busy) as f64 / (self.now - then) as f64);
        }
        (self.last_sample, self.next_sample) = (self.now, self.now + USAGE_PERIOD);
    }

    fn make_ready(&mut self, number: u32) {
        self.replicas[number as usize].phase = Phase::Ready { since: self.now };
        self.capacity += self.settings.slots;
        self.free.extend(std::iter::repeat_n(number, self.settings.slots));
    }

    fn pass(&mut self, until: u64) {
        self.request_nanoseconds += (self.line.len() + self.in_flight) as u128 * u128::from(until - self.now);
        self.now = until;
    }

    fn count_time(&mut self) {
        let replicas = self.alive.len() as u32;
        self.tally.replica_time += Duration::from_nanos(self.now - self.counted_until) * replicas;
        self.counted_until = self.now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::requests::stream;
    use law::queueing::erlang_c;
    use proptest::prelude::*;
    use workload::Workload;
    use workload::arrivals::Process;

    const HOUR: Duration = Duration::from_secs(3600);
    const S: fn(f64) -> Duration = Duration::from_secs_f64;

    fn settings(work: Work) -> Settings {
        Settings {
            order: Order::LateLast,
            objective: S(0.5),
            deadline: S(5.0),
            queue_length: 1000,
            slots: 1,
            workers: 1,
            batch: 1,
            batch_growth: 1.0,
            work,
            startup: S(3.0),
            room: usize::MAX,
            cores: f64::INFINITY,
        }
    }

    /// Mean wait, seconds, of Poisson arrivals at so many replicas, first come, first served, nobody refused.
    fn mean_wait(work: Work, replicas: usize, arrivals_per_second: f64, seconds: f64) -> f64 {
        let patient = Settings {
            order: Order::Fifo,
            objective: HOUR,
            deadline: HOUR,
            queue_length: usize::MAX,
            ..settings(work.clone())
        };
        let mut plant = Plant::new(patient, replicas);
        let workload = Workload::constant(arrivals_per_second, S(seconds));
        plant.run(&mut stream(&workload, Process::Poisson, &work, 1).peekable(), S(seconds));
        plant.finish_all();
        let seen = plant.observe();
        assert_eq!(seen.arrivals, seen.latency.count(), "everybody is answered");
        (seen.latency.sum - seen.service.sum) / seen.arrivals
    }

    /// One every so many seconds, from `first` on, each with so much work.
    fn every(seconds: f64, first: f64, work: f64) -> Peekable<impl Iterator<Item = Request>> {
        let nanoseconds = |seconds: f64| (seconds * 1e9) as u64;
        let request = move |count: u64| Request {
            arrived: nanoseconds(first) + count * nanoseconds(seconds),
            work: nanoseconds(work),
        };
        (0..).map(request).peekable()
    }

    fn is_near(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 0.02, "{found} is not within 2 % of {expected}");
    }

    #[test]
    fn waits_agree_with_theory() {
        // M/M/n: C(n, a)·S / (n·(1 − ρ)).
        for (replicas, utilisation) in [(1, 0.7), (3, 0.8), (10, 0.8)] {
            let load = utilisation * replicas as f64;
            let expected = erlang_c(replicas, load) * 0.05 / (replicas as f64 * (1.0 - utilisation));
            is_near(mean_wait(Work::Exponential(S(0.05)), replicas, load / 0.05, 3e6 / (load / 0.05)), expected);
        }
        // M/D/1: ρ·S / (2·(1 − ρ)); M/G/1: that times 1 + cs² (Pollaczek and Khinchine).
        is_near(mean_wait(Work::Constant(S(0.05)), 1, 14.0, 1e5), 0.7 * 0.05 / 0.6);
        is_near(mean_wait(Work::new(S(0.05), 0.5), 1, 14.0, 1e5), 1.25 * 0.7 * 0.05 / 0.6);
    }

    #[test]
    fn replicas_take_time_to_start_and_finish_what_they_hold() {
        let mut plant = Plant::new(settings(Work::Constant(S(0.4))), 1);
        // Every 0.2 s, from 0.1 s on: twice what one replica can do.
        let mut arrivals = every(0.2, 0.1, 0.4);
        plant.run(&mut arrivals, S(1.0));
        plant.scale(2);
        plant.run(&mut arrivals, S(3.9));
        assert_eq!(plant.observe().replicas, Replicas { desired: 2, ready: 1, starting: 1, blocked: 0 });
        assert_eq!(plant.observe().startup, None);
        plant.run(&mut arrivals, S(4.05));
        assert_eq!(plant.observe().replicas, Replicas { desired: 2, ready: 2, starting: 0, blocked: 0 });
        assert_eq!((plant.observe().startup, plant.observe().in_flight), (Some(S(3.0)), 2.0));
        plant.scale(1);
        assert_eq!((plant.observe().replicas.ready, plant.observe().in_flight), (1, 2.0));
        plant.run(&mut arrivals, S(4.5));
        assert_eq!(plant.observe().in_flight, 1.0);
        // One for 1 s, two (the second starting) for 3.05 s, one for 0.45 s.
        assert_eq!(plant.tally().replica_time, S(1.0 + 6.1 + 0.45));
    }

    #[test]
    fn what_cannot_be_placed_is_blocked() {
        let mut plant = Plant::new(Settings { room: 2, ..settings(Work::Constant(S(0.1))) }, 1);
        plant.scale(5);
        assert_eq!(plant.observe().replicas, Replicas { desired: 5, ready: 1, starting: 1, blocked: 3 });
    }

    #[test]
    fn processors_that_are_too_few_slow_everybody_down() {
        let wait = |cores| {
            let mut plant = Plant::new(Settings { cores, ..settings(Work::Constant(S(0.1))) }, 4);
            plant.run(&mut every(0.0, 0.0, 0.1).take(4).peekable(), S(1.0));
            plant.observe().service.sum
        };
        assert!((wait(4.0) - 0.4).abs() < 1e-9);
        // The third and the fourth find three and four at work on two.
        assert!((wait(2.0) - (0.1 + 0.1 + 0.15 + 0.2)).abs() < 1e-9);
    }

    #[test]
    fn full_speed_is_reached() {
        let one = settings(Work::Constant(S(0.05)));
        for settings in [
            one.clone(),
            Settings { slots: 2, ..one.clone() },
            Settings { slots: 16, batch: 8, batch_growth: 0.25, ..one.clone() },
            Settings { slots: 16, workers: 2, batch: 4, batch_growth: 0.5, ..one },
        ] {
            let (rate, _) = settings.full_speed();
            let mut plant = Plant::new(settings, 1);
            plant.run(&mut every(0.001, 0.0, 0.05), S(100.0));
            is_near(plant.observe().service.count() / 100.0, rate);
        }
    }

    #[test]
    fn a_pass_takes_what_waits_and_grows_with_it() {
        let batches = Settings { slots: 4, batch: 3, batch_growth: 0.5, ..settings(Work::Constant(S(0.1))) };
        let mut plant = Plant::new(batches, 1);
        // Five at once: one by itself until 0.1 s, three until 0.3 s, the fifth, which had no slot before 0.1 s, until
        // 0.4 s.
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
    fn processor_use_is_a_mean_over_fifteen_seconds() {
        let mut plant = Plant::new(settings(Work::Constant(S(0.25))), 1);
        let mut arrivals = every(0.5, 0.0, 0.25);
        plant.run(&mut arrivals, S(29.0));
        assert_eq!(plant.pods()[0].usage, None, "one sample is no mean");
        plant.run(&mut arrivals, S(31.0));
        let usage = plant.pods()[0].usage.expect("two samples");
        assert!((usage.cores - 0.5).abs() < 0.02, "{usage:?}");
        assert_eq!((usage.age, usage.window), (S(1.0), S(15.0)));
    }

    proptest! {
        #[test]
        fn every_request_ends_in_one_way(
            order in prop::sample::select(vec![Order::LateLast, Order::Fifo]),
            rates in prop::collection::vec(0..120_u32, 1..20),
            scales in prop::collection::vec(0..5_usize, 1..20),
            variation in 0.0..1.5,
            slots in 1..4_usize,
        ) {
            let work = Work::new(S(0.06), variation);
            let mut plant = Plant::new(Settings { order, slots, queue_length: 50, ..settings(work.clone()) }, 1);
            let workload = Workload { per_second: rates.iter().map(|&rate| f64::from(rate)).collect() };
            let mut arrivals = stream(&workload, Process::Poisson, &work, 3).peekable();
            for (second, &replicas) in scales.iter().cycle().take(rates.len()).enumerate() {
                plant.scale(replicas);
                plant.run(&mut arrivals, S(second as f64 + 1.0));
                let seen = plant.observe();
                prop_assert!(seen.in_flight <= (seen.capacity + 5.0 * slots as f64));
                prop_assert!(seen.queue_length <= 50.0);
            }
            plant.finish_all();
            let (seen, tally) = (plant.observe(), plant.tally().clone());
            prop_assert_eq!((seen.queue_length, seen.in_flight), (0.0, 0.0));
            let answered = seen.latency.count() as u64;
            prop_assert!(tally.in_time <= answered);
            // Those that were answered after their deadline count as given up too.
            prop_assert!(answered + tally.shed <= tally.offered);
            prop_assert!(tally.offered <= answered + tally.shed + tally.expired);
        }
    }
}
