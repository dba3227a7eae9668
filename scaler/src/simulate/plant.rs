//! The plant: a dispatcher and its replicas as a discrete-event system in virtual time. Queue, admission and rotation
//! are the dispatcher's; replicas take time to start, work on as many requests as they have slots, and finish what they
//! hold when they are taken out. Knows nothing of policies.

use super::calendar::{Calendar, Dated};
use super::line::Line;
use super::meter::Meter;
use super::trial::Moment;
use super::work::Work;
use crate::policy::{Observation, Pod, Replicas, Usage};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use service::admission::{self, Facts, Order, Patience, Spare};
use service::service_time::ServiceTime;
use std::collections::VecDeque;
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
    /// Requests that a replica takes at once.
    pub slots: usize,
    /// Service time of a request.
    pub work: Work,
    /// Asked for → ready.
    pub startup: Duration,
    /// Replicas that can be placed; the others wait for room.
    pub room: usize,
    /// Busy slots beyond this many slow each other down in proportion.
    pub cores: f64,
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
    /// Work done in whole requests, and at the last two samples of processor use.
    busy: u64,
    sampled: Option<(u64, u64)>,
    usage: Option<f64>,
}

/// Work in progress, the earliest end first. The other fields break ties in a fixed order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Job {
    ends: u64,
    started: u64,
    arrived: u64,
    replica: u32,
}

impl Dated for Job {
    fn date(&self) -> u64 {
        self.ends
    }
}

/// The system at one instant.
pub struct Plant {
    settings: Settings,
    now: u64,
    objective: u64,
    deadline: u64,
    line: Line,
    spare: Spare,
    service_time: ServiceTime,
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
    jobs: Calendar<Job>,
    /// Ends of starts.
    starts: VecDeque<(u64, u32)>,
    desired: usize,
    startup: Option<Duration>,
    next_sample: u64,
    last_sample: u64,
    rng: ChaCha8Rng,
    meter: Meter,
    tally: Tally,
    counted_until: u64,
    /// Requests in the system × time, and until when that is counted.
    request_nanoseconds: u128,
}

impl Plant {
    /// `replicas` are ready at the start.
    pub fn new(settings: Settings, replicas: usize, seed: u64) -> Self {
        let epoch = Instant::now();
        let (objective, deadline) = (settings.objective.as_nanos() as u64, settings.deadline.as_nanos() as u64);
        // Ends lie closest together when everybody works.
        let most = settings.room.saturating_mul(settings.slots).clamp(1, 100_000);
        let spacing = settings.work.mean() * 1e9 / most as f64;
        let mut plant = Self {
            now: 0,
            line: Line::new(settings.order, objective, deadline),
            objective,
            deadline,
            spare: Spare::new(settings.deadline / 2),
            service_time: ServiceTime::new(epoch),
            epoch,
            last_dispatch: 0,
            replicas: Vec::new(),
            alive: Vec::new(),
            free: VecDeque::new(),
            capacity: 0,
            jobs: Calendar::new(spacing as u64),
            starts: VecDeque::new(),
            desired: 0,
            startup: None,
            next_sample: USAGE_PERIOD,
            last_sample: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
            meter: Meter::new(),
            tally: Tally { offered: 0, in_time: 0, shed: 0, expired: 0, replica_time: Duration::ZERO },
            counted_until: 0,
            request_nanoseconds: 0,
            settings,
        };
        // Its stream differs from that of the arrivals.
        plant.rng.set_stream(1);
        plant.scale(replicas);
        for number in std::mem::take(&mut plant.starts) {
            plant.make_ready(number.1);
        }
        plant
    }

    /// Runs to `until`, fed from `arrivals`, which ascend (nanoseconds since the start).
    pub fn run<A: Iterator<Item = u64>>(&mut self, arrivals: &mut std::iter::Peekable<A>, until: Duration) {
        let until = until.as_nanos() as u64;
        loop {
            let arrival = arrivals.peek().copied().unwrap_or(u64::MAX);
            let end = self.jobs.peek().map_or(u64::MAX, |job| job.ends);
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
            } else {
                arrivals.next();
                self.arrive();
            }
        }
        self.pass(until);
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
            in_flight: self.jobs.len() as f64,
            request_seconds: self.request_nanoseconds as f64 / 1e9,
            capacity: self.capacity as f64,
            arrivals: self.tally.offered as f64,
            service: self.meter.service.cumulative(),
            latency: self.meter.latency.cumulative(),
            replicas: Replicas {
                desired: self.desired,
                ready,
                starting: self.alive.len() - ready,
                blocked: self.desired - self.alive.len(),
            },
            startup: self.startup,
            pods: self.alive.iter().map(|&number| self.pod(&self.replicas[number as usize])).collect(),
        }
    }

    /// The instant in short.
    pub fn moment(&self) -> Moment {
        Moment {
            at: Duration::from_nanos(self.now),
            desired: self.desired,
            ready: self.capacity / self.settings.slots,
            queue_length: self.line.len(),
            offered: self.tally.offered,
            in_time: self.tally.in_time,
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
            ready_for: match replica.phase {
                Phase::Ready { since: then } => Some(since(then)),
                _ => None,
            },
            usage: replica.usage.map(|cores| Usage {
                cores,
                age: since(self.last_sample),
                window: Duration::from_nanos(USAGE_PERIOD),
            }),
        }
    }

    fn arrive(&mut self) {
        self.tally.offered += 1;
        if let Some(&number) = self.free.front()
            && self.line.is_empty()
        {
            self.spare.given(false, Duration::from_nanos(self.now - self.last_dispatch));
            return self.start(number, self.now);
        }
        let service_time = self.service_time.mean();
        let nanoseconds = service_time.unwrap_or_default().as_nanos() as u64;
        self.tally.expired += self.line.demote(self.now, nanoseconds) as u64;
        let facts = Facts {
            punctual: self.line.punctual(),
            late: self.line.late(),
            slot_is_free: !self.free.is_empty(),
            capacity: self.capacity,
            service_time,
            spare: self.spare.share(),
        };
        let patience = Patience { objective: self.settings.objective, deadline: self.settings.deadline };
        if self.line.len() >= self.settings.queue_length
            || admission::refuse(self.settings.order, &facts, patience).is_some()
        {
            self.tally.shed += 1;
            return;
        }
        self.line.push(self.now);
        self.dispatch();
    }

    fn finish(&mut self) {
        let job = self.jobs.pop().expect("an end was seen");
        let (took, latency) = (job.ends - job.started, job.ends - job.arrived);
        self.service_time.measured(Duration::from_nanos(took), self.epoch + Duration::from_nanos(self.now));
        self.meter.answered(took, latency);
        if latency <= self.objective {
            self.tally.in_time += 1;
        } else if latency > self.deadline {
            self.tally.expired += 1;
        }
        let replica = &mut self.replicas[job.replica as usize];
        replica.busy += took;
        replica.in_flight -= 1;
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
        let service_time = self.service_time.mean().unwrap_or_default().as_nanos() as u64;
        self.tally.expired += self.line.demote(self.now, service_time) as u64;
        while let Some(&number) = self.free.front() {
            let Some(arrived) = self.line.pop(self.now, service_time) else { break };
            let is_late = arrived + self.objective < self.now + service_time;
            let gap = Duration::from_nanos(self.now - self.last_dispatch);
            self.spare.given(arrived != self.now && !is_late, gap);
            self.start(number, arrived);
        }
    }

    /// The first free slot, which is replica `number`'s, takes what came at `arrived`.
    fn start(&mut self, number: u32, arrived: u64) {
        self.free.pop_front();
        self.last_dispatch = self.now;
        let crowd = (self.jobs.len() + 1) as f64 / self.settings.cores;
        let work = self.settings.work.draw(&mut self.rng);
        let work = if crowd > 1.0 { (work as f64 * crowd) as u64 } else { work };
        self.replicas[number as usize].in_flight += 1;
        self.jobs.push(Job { ends: self.now + work, started: self.now, arrived, replica: number });
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
        self.request_nanoseconds += (self.line.len() + self.jobs.len()) as u128 * u128::from(until - self.now);
        self.now = until;
    }

    fn count_time(&mut self) {
        let replicas = self.alive.len() as u32;
        self.tally.replica_time += Duration::from_nanos(self.now - self.counted_until) * replicas;
        self.counted_until = self.now;
    }
}
