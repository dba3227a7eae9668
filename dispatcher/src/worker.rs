//! The one task that owns queue and rotation. Everybody else sends it messages; it sends back outcomes.

use crate::discovery::Published;
use crate::forward::{self, Connection, Failure};
use crate::history::History;
use crate::queue::{Entry, Queue, Ticket};
use crate::rate::Rate;
use crate::rotation::{Address, Balance, Demands, Rotation, State, Verdict};
use crate::turn::{Outcome, Report, Terms, Turn, Waiting};
use admission::service_time::ServiceTime;
use admission::{Admission, Order, QueueState, SpareCapacity, TimeLeft};
use hyper::StatusCode;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use service::wire::{Code, Fault, metric};
use std::collections::{BTreeSet, HashMap};
use std::pin::Pin;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tower::retry::budget::{Budget, TpsBudget};

/// Attempts that one request may cost; those that reached no replica, or a busy one, are not counted.
const MAX_ATTEMPTS: usize = 4;

/// Replicas that one body may be holding when they die.
const MAX_DEATHS: u32 = 2;

/// Over this much of the past, retries may be a fifth of the requests and [`FREE_RETRIES_PER_SECOND`] more.
const BUDGET_WINDOW: Duration = Duration::from_secs(10);
const BUDGET_SHARE: f32 = 0.2;
const FREE_RETRIES_PER_SECOND: u32 = 10;

/// A replica that has answered nothing for this many service times, and for [`LEAST_QUIET`], is asked whether it lives.
const QUIET_SERVICE_TIMES: u32 = 4;
const LEAST_QUIET: Duration = Duration::from_millis(300);

/// For the answer of a replica that is out, or new.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// For the answer of a replica that has gone quiet: with [`LEAST_QUIET`] under a second.
const CHECK_TIMEOUT: Duration = Duration::from_millis(400);

/// Failed attempts are logged this often at most, with their number.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(1);

/// The worker sleeps no longer than this.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// How the worker decides.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Who goes first.
    pub order: Order,
    /// To whom.
    pub balance: Balance,
    /// Jobs that may wait.
    pub queue_length: usize,
    /// The longest that a request may take.
    pub deadline: Duration,
}

/// A request that waits for its turn.
#[derive(Debug)]
pub struct Job {
    /// When it was accepted.
    pub accepted: Instant,
    /// Where its turn goes.
    pub reply: oneshot::Sender<Outcome>,
    /// There was no free slot when it came.
    had_to_wait: bool,
    history: History,
}

impl Job {
    /// A job that was never tried, and where its turn will come.
    pub fn new(accepted: Instant) -> (Self, Waiting) {
        let (reply, waiting) = oneshot::channel();
        (Self { accepted, reply, had_to_wait: false, history: History::default() }, waiting)
    }

    /// Nobody waits for it any more. Once this is true it stays so, and a withdrawal may have come already.
    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn demands(&self) -> Demands<'_> {
        Demands { tried: self.history.tried(), is_suspect: self.history.deaths() > 0 }
    }

    fn refuse(self, fault: Fault) {
        // A client that left no longer listens.
        let _gone = self.reply.send(Err(fault.into()));
    }
}

/// What the worker is asked.
#[derive(Debug)]
pub enum Message {
    /// To answer a request.
    Submit(Entry<Job>),
    /// To bring the gauges up to date and say how things stand.
    Snapshot(oneshot::Sender<Snapshot>),
}

/// What has happened.
#[derive(Debug)]
enum Event {
    /// A client left, or its deadline passed.
    Withdrawn(Ticket),
    Probed(Address, Option<usize>),
    Published(BTreeSet<Address>),
}

/// How things stand, for `/status`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Snapshot {
    /// Requests waiting.
    pub queue_length: usize,
    /// Of those, the ones that can no longer meet the objective.
    pub queue_late_length: usize,
    /// Running mean of dispatched → answered, seconds; absent until something was answered.
    pub service_time_seconds: Option<f64>,
    /// Requests that came, refused ones included, over the last seconds.
    pub arrivals_per_second: f64,
    /// Requests that replicas answered, over the last seconds.
    pub answers_per_second: f64,
    /// Until what waits now will have been answered.
    pub backlog_seconds: f64,
    /// Everybody in the rotation.
    pub replicas: Vec<ReplicaStatus>,
}

/// One replica in `/status`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ReplicaStatus {
    /// Where it is.
    pub address: String,
    /// ready, ejected or draining.
    pub state: &'static str,
    /// Requests that it takes at once.
    pub capacity: usize,
    /// Sent, unanswered.
    pub in_flight: usize,
}

/// How to reach the worker.
#[derive(Debug, Clone)]
pub struct Handle {
    /// Bounded: a sender waits when the worker is behind, so requests then wait in their sockets.
    pub messages: mpsc::Sender<Message>,
    events: mpsc::UnboundedSender<Event>,
}

impl Handle {
    /// Gives up the place of a job that nobody waits for any more.
    pub fn withdraw(&self, ticket: Ticket) {
        // A worker that is gone holds no place.
        let _gone = self.events.send(Event::Withdrawn(ticket));
    }
}

/// Asks a replica, within a time, whether it is ready, and for what capacity.
pub type Probe = fn(Address, Duration) -> Pin<Box<dyn Future<Output = Option<usize>> + Send>>;

/// Starts the worker on the present runtime. It ends when every [`Handle`] is gone and every job is answered.
pub fn spawn(rules: Rules, published: Published) -> Handle {
    spawn_with(rules, published, |address, timeout| Box::pin(async move { forward::probe(&address, timeout).await }))
}

fn spawn_with(rules: Rules, mut published: Published, probe: Probe) -> Handle {
    let (messages, inbox) = mpsc::channel(1024);
    // Unbounded, as neither a drop nor an end can wait; bounded by what was admitted: each request, attempt and probe
    // sends one, and the published set changes at its own pace.
    let (events, happened) = mpsc::unbounded_channel();
    let (reports, reported) = mpsc::unbounded_channel();
    let now = Instant::now();
    let mut worker = Worker {
        queue: Queue::new(rules.order, rules.queue_length),
        rotation: Rotation::new(rules.balance),
        in_flight: HashMap::new(),
        next_turn: 0,
        connections: HashMap::new(),
        budget: TpsBudget::new(BUDGET_WINDOW, FREE_RETRIES_PER_SECOND, BUDGET_SHARE),
        service_time: ServiceTime::new(now),
        // Half of the longest wait: a burst is let in, and an overload that lasts is refused before long.
        spare: SpareCapacity::new(rules.deadline / 2),
        last_dispatch: now,
        arrivals: Rate::new(now),
        answers: Rate::new(now),
        complaints: 0,
        last_complaint: now.checked_sub(COMPLAINT_INTERVAL).unwrap_or(now),
        meters: Meters::new(),
        events: events.clone(),
        reports,
        probe,
        rules,
    };
    worker.rotation.publish(&published.borrow_and_update().clone(), now);
    tokio::spawn(worker.run(inbox, happened, reported));
    let told = events.clone();
    tokio::spawn(async move {
        // A static list has no sender to wait for.
        while published.changed().await.is_ok() {
            let set = published.borrow_and_update().clone();
            if told.send(Event::Published(set)).is_err() {
                return;
            }
        }
    });
    Handle { messages, events }
}

struct Worker {
    rules: Rules,
    queue: Queue<Job>,
    rotation: Rotation,
    /// Turns under way.
    in_flight: HashMap<u64, InFlight>,
    next_turn: u64,
    /// Open and idle, by replica; as many as it has had requests at once.
    connections: HashMap<Address, Vec<Connection>>,
    budget: TpsBudget,
    service_time: ServiceTime,
    spare: SpareCapacity,
    last_dispatch: Instant,
    arrivals: Rate,
    answers: Rate,
    /// Failed attempts that were not yet logged, and when some were.
    complaints: u64,
    last_complaint: Instant,
    meters: Meters,
    /// Where probes say how they ended.
    events: mpsc::UnboundedSender<Event>,
    /// Where turns do.
    reports: mpsc::UnboundedSender<Report>,
    probe: Probe,
}

/// A job that is with a replica.
struct InFlight {
    ticket: Ticket,
    objective: Instant,
    deadline: Instant,
    accepted: Instant,
    history: History,
    address: Address,
    /// Ends the turn if the replica stalls; gone once it did, closed when nobody waits for its end.
    recall: Option<oneshot::Sender<()>>,
}

impl InFlight {
    /// The job, waiting again.
    fn again(self, reply: oneshot::Sender<Outcome>) -> Entry<Job> {
        let Self { ticket, objective, deadline, accepted, history, .. } = self;
        let job = Job { accepted, reply, had_to_wait: true, history };
        Entry { ticket, objective, deadline, job }
    }
}

impl Worker {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Message>,
        mut happened: mpsc::UnboundedReceiver<Event>,
        mut reported: mpsc::UnboundedReceiver<Report>,
    ) {
        let sleep = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(sleep);
        let mut open = true;
        while open || !self.in_flight.is_empty() || !self.queue.is_empty() {
            tokio::select! {
                biased;
                Some(report) = reported.recv() => self.ended(report),
                Some(event) = happened.recv() => self.note(event),
                message = inbox.recv(), if open => match message {
                    Some(message) => self.take(message),
                    None => open = false,
                },
                () = &mut sleep => {}
            }
            // Whatever else has come by now costs no turn of its own.
            while let Ok(report) = reported.try_recv() {
                self.ended(report);
            }
            let now = Instant::now();
            self.advance(now);
            let wake = self.rotation.wakes_at(now, self.patience()).map_or(now + LONGEST_SLEEP, |at| at.max(now));
            // Too early a wake-up is harmless, and cheaper than moving the timer at each request.
            let planned = sleep.deadline().into_std();
            if wake < planned || planned <= now {
                sleep.as_mut().reset(wake.into());
            }
        }
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Withdrawn(ticket) => self.withdraw(ticket),
            Event::Probed(address, capacity) => self.probed(&address, capacity),
            Event::Published(addresses) => {
                tracing::info!(replicas = addresses.len(), "the published set changed");
                self.rotation.publish(&addresses, Instant::now());
                self.connections.retain(|address, _| addresses.contains(address));
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Submit(entry) => self.admit(entry),
            Message::Snapshot(reply) => {
                self.meters.set(&self.queue, &self.rotation);
                // Whoever asked may have left.
                let _gone = reply.send(self.snapshot());
            }
        }
    }

    /// How long a replica may hold requests without answering any.
    fn patience(&self) -> Duration {
        LEAST_QUIET.max(self.service_time.mean().unwrap_or_default() * QUIET_SERVICE_TIMES)
    }

    /// Hands out whatever can be handed out, and asks after replicas that are out or quiet.
    fn advance(&mut self, now: Instant) {
        let service_time = self.service_time.mean().unwrap_or_default();
        self.queue.demote(now, service_time);
        while !self.queue.is_empty() && self.rotation.has_slot(now) {
            // A job that waits for a replica that it has not tried lets others pass to those that it has.
            let rotation = &mut self.rotation;
            let place = |job: &Job| (!job.is_abandoned()).then(|| rotation.pick(job.demands(), now))?;
            let Some((entry, address)) = self.queue.pop(now, service_time, place) else { break };
            self.dispatch(entry, address, now);
        }
        for address in self.rotation.due_probes(now) {
            self.probe(address, PROBE_TIMEOUT);
        }
        for address in self.rotation.due_checks(now, self.patience()) {
            self.probe(address, CHECK_TIMEOUT);
        }
    }

    fn probe(&self, address: Address, timeout: Duration) {
        let (events, asked) = (self.events.clone(), (self.probe)(address.clone(), timeout));
        tokio::spawn(async move {
            let capacity = asked.await;
            // The worker may have ended.
            let _gone = events.send(Event::Probed(address, capacity));
        });
    }

    fn probed(&mut self, address: &Address, capacity: Option<usize>) {
        let before = self.rotation.census().ready;
        let has_stalled = self.rotation.probed(address, capacity, Instant::now(), rand::random());
        if has_stalled {
            tracing::warn!(%address, "a replica has stalled; what it holds goes to others");
            self.take_back(address);
        } else if self.rotation.census().ready > before {
            tracing::info!(%address, capacity, "a replica takes part");
        }
    }

    fn admit(&mut self, mut entry: Entry<Job>) {
        let now = Instant::now();
        if entry.job.is_abandoned() {
            // Its withdrawal may have overtaken it, and would then never take it out again.
            if entry.deadline <= now {
                self.meters.expired.increment(1);
            }
            return;
        }
        self.budget.deposit();
        self.arrivals.happened(now);
        self.queue.demote(now, self.service_time.mean().unwrap_or_default());
        let facts = self.facts(now);
        let time_left = TimeLeft {
            objective: entry.objective.saturating_duration_since(now),
            deadline: entry.deadline.saturating_duration_since(now),
        };
        if let Admission::Refuse { retry_after } = Admission::decide(self.rules.order, &facts, time_left) {
            let fault = format!("{} requests wait already, too many to answer this one in time", self.queue.len());
            return self.shed(entry.job, Code::Overloaded, "overloaded", &fault, retry_after);
        }
        entry.job.had_to_wait = !facts.slot_is_free;
        match self.queue.push(entry) {
            Ok(()) => {
                self.meters.enqueued.increment(1);
                if facts.slot_is_free {
                    // Before the next one is judged by what is free.
                    self.advance(now);
                }
            }
            Err(refused) => {
                let fault = format!("the queue holds {} requests", self.queue.len());
                self.shed(refused.job, Code::QueueFull, "length", &fault, self.time_to_drain());
            }
        }
    }

    fn shed(&self, job: Job, code: Code, reason: &'static str, fault: &str, after: Duration) {
        counter!(metric::SHED, "reason" => reason).increment(1);
        let fault = format!("{fault}; retry in {:.0} s", after.as_secs_f64().ceil().max(1.0));
        job.refuse(Fault::new(code, fault).retry_after(after));
    }

    fn facts(&self, now: Instant) -> QueueState {
        QueueState {
            punctual: self.queue.len() - self.queue.late_len(),
            late: self.queue.late_len(),
            slot_is_free: self.queue.is_empty() && self.rotation.has_slot(now),
            capacity: self.rotation.census().capacity,
            service_time: self.service_time.mean(),
            spare: self.spare.share(),
        }
    }

    fn dispatch(&mut self, entry: Entry<Job>, address: Address, now: Instant) {
        let waited = now.saturating_duration_since(entry.job.accepted);
        self.meters.queue_wait.record(waited);
        let is_late = entry.objective < now + self.service_time.mean().unwrap_or_default();
        self.spare.record(entry.job.had_to_wait && !is_late, now.saturating_duration_since(self.last_dispatch));
        self.last_dispatch = now;
        self.next_turn += 1;
        let id = self.next_turn;
        let connection = self.connections.get_mut(&address).and_then(Vec::pop);
        let (recall, recalled) = oneshot::channel();
        let (reports, deadline) = (self.reports.clone(), entry.deadline);
        let turn = Turn::new(Terms { id, address: address.clone(), connection, waited, deadline, recalled, reports });
        let Entry { ticket, objective, deadline, job } = entry;
        let Job { accepted, reply, history, .. } = job;
        let recall = Some(recall);
        let held = InFlight { ticket, objective, deadline, accepted, history, address, recall };
        self.in_flight.insert(id, held);
        // If its client has just left, the turn reports so itself when it is dropped.
        let _gone = reply.send(Ok(turn));
    }

    fn withdraw(&mut self, ticket: Ticket) {
        if let Some(entry) = self.queue.remove(ticket)
            && entry.deadline <= Instant::now()
        {
            self.meters.expired.increment(1);
        }
        // One that is with a replica keeps its slot until the replica has answered: it is being computed.
    }

    fn ended(&mut self, report: Report) {
        // It may have been recalled just as it ended.
        let Some(held) = self.in_flight.remove(&report.id) else { return };
        let now = Instant::now();
        let verdict = match report.result {
            Ok(_) => Verdict::Answered { capacity: report.capacity },
            Err(failure) => failure.verdict(report.took),
        };
        let worked = self.rotation.release(&held.address, held.history.deaths() > 0, verdict, now, rand::random());
        if let Some(connection) = report.connection
            && self.rotation.knows(&held.address)
        {
            // A clone of the address only for the first.
            match self.connections.get_mut(&held.address) {
                Some(idle) => idle.push(connection),
                None => drop(self.connections.insert(held.address.clone(), vec![connection])),
            }
        }
        match report.result {
            Ok(status) => {
                self.answers.happened(now);
                // A refused picture costs a replica next to nothing and says nothing about the others.
                if status == StatusCode::OK {
                    self.meters.upstream.record(report.took);
                    self.meters.work.record(worked.unwrap_or(report.took));
                    self.service_time.record(report.took, now);
                }
            }
            Err(failure) => self.failed(held, report.again, failure),
        }
    }

    fn failed(&mut self, mut held: InFlight, again: Option<oneshot::Sender<Outcome>>, failure: Failure) {
        if !matches!(failure, Failure::Busy | Failure::Unused) {
            self.complaints += 1;
            let now = Instant::now();
            if now.saturating_duration_since(self.last_complaint) >= COMPLAINT_INTERVAL {
                let failures = std::mem::take(&mut self.complaints);
                tracing::warn!(address = %held.address, failure = failure.as_str(), failures, "attempts fail; the last one");
                self.last_complaint = now;
            }
        }
        let Some(reply) = again.filter(|reply| !reply.is_closed()) else { return };
        held.history.add(&held.address, failure);
        let entry = held.again(reply);
        match self.refusal(&entry.job, failure) {
            Some(fault) => entry.job.refuse(fault),
            None => self.retry(entry, failure),
        }
    }

    fn retry(&mut self, entry: Entry<Job>, failure: Failure) {
        counter!("dispatcher_retries_total", "reason" => failure.as_str()).increment(1);
        self.queue.put_back(entry);
    }

    /// Gives what a stalled replica holds to others. What may not be retried stays: the replica may yet go on.
    fn take_back(&mut self, address: &Address) {
        let mut ids: Vec<u64> =
            self.in_flight.iter().filter(|(_, held)| held.address == *address).map(|(&id, _)| id).collect();
        ids.sort_unstable();
        for id in ids {
            let held = &self.in_flight[&id];
            if held.recall.as_ref().is_none_or(oneshot::Sender::is_closed)
                || held.history.attempts() + 1 >= MAX_ATTEMPTS
                || !self.budget.withdraw()
            {
                continue;
            }
            let held = self.in_flight.get_mut(&id).expect("it was just seen");
            // The turn then reports that it stalled, or, if it has ended meanwhile, how.
            let _ended = held.recall.take().map(|recall| recall.send(()));
        }
    }

    /// Why a job that failed is not tried again; nothing if it is.
    fn refusal(&self, job: &Job, failure: Failure) -> Option<Fault> {
        let fault = |code, message: String| Some(Fault::new(code, message));
        match failure {
            Failure::Deadline => fault(Code::DeadlineExceeded, "the replica did not answer in time".into()),
            // A stalled one was asked about when it was recalled.
            Failure::Busy | Failure::Connect | Failure::Unused | Failure::Stalled => None,
            _ if job.history.deaths() >= MAX_DEATHS => {
                let message = format!("{MAX_DEATHS} replicas died while they held this request; it is not sent again");
                fault(Code::Poison, message)
            }
            _ if job.history.attempts() >= MAX_ATTEMPTS => fault(
                Code::ReplicaFailed,
                format!("{MAX_ATTEMPTS} attempts failed, the last one by {}", failure.as_str()),
            ),
            _ if !self.budget.withdraw() => fault(
                Code::ReplicaFailed,
                format!("the attempt failed by {} and too many requests are being retried", failure.as_str()),
            ),
            _ => None,
        }
    }

    /// Backlog ÷ service rate: how long until what waits now is answered.
    fn time_to_drain(&self) -> Duration {
        let capacity = self.rotation.census().capacity.max(1) as f64;
        let service_time = self.service_time.mean().unwrap_or(Duration::from_millis(100)).as_secs_f64();
        Duration::from_secs_f64(self.queue.len() as f64 * service_time / capacity)
    }

    fn snapshot(&self) -> Snapshot {
        let now = Instant::now();
        let replicas = self.rotation.replicas().iter().map(|replica| ReplicaStatus {
            address: replica.address.to_string(),
            state: match replica.state {
                State::Ready => "ready",
                State::Ejected { .. } => "ejected",
                State::Draining => "draining",
            },
            capacity: replica.capacity,
            in_flight: replica.in_flight,
        });
        Snapshot {
            queue_length: self.queue.len(),
            queue_late_length: self.queue.late_len(),
            service_time_seconds: self.service_time.mean().map(|mean| mean.as_secs_f64()),
            arrivals_per_second: self.arrivals.per_second(now),
            answers_per_second: self.answers.per_second(now),
            backlog_seconds: self.time_to_drain().as_secs_f64(),
            replicas: replicas.collect(),
        }
    }
}

struct Meters {
    started: Instant,
    uptime: Gauge,
    queue_length: Gauge,
    queue_late_length: Gauge,
    ready: Gauge,
    ejected: Gauge,
    draining: Gauge,
    capacity: Gauge,
    enqueued: Counter,
    expired: Counter,
    queue_wait: Histogram,
    upstream: Histogram,
    work: Histogram,
    in_flight: HashMap<Address, Gauge>,
}

impl Meters {
    fn new() -> Self {
        let replicas = |state| gauge!(metric::REPLICAS, "state" => state);
        Self {
            started: Instant::now(),
            uptime: gauge!(metric::UPTIME),
            queue_length: gauge!(metric::QUEUE_LENGTH),
            queue_late_length: gauge!("dispatcher_queue_late_length"),
            ready: replicas("ready"),
            ejected: replicas("ejected"),
            draining: replicas("draining"),
            capacity: gauge!(metric::CAPACITY),
            enqueued: counter!(metric::ENQUEUED),
            expired: counter!("dispatcher_expired_total"),
            queue_wait: histogram!("dispatcher_queue_wait_seconds"),
            upstream: histogram!(metric::UPSTREAM_DURATION),
            work: histogram!(metric::REPLICA_WORK),
            in_flight: HashMap::new(),
        }
    }

    fn set(&mut self, queue: &Queue<Job>, rotation: &Rotation) {
        let census = rotation.census();
        self.uptime.set(self.started.elapsed().as_secs_f64());
        self.queue_length.set(queue.len() as f64);
        self.queue_late_length.set(queue.late_len() as f64);
        self.ready.set(census.ready as f64);
        self.ejected.set(census.ejected as f64);
        self.draining.set(census.draining as f64);
        self.capacity.set(census.capacity as f64);
        for replica in rotation.replicas() {
            if !self.in_flight.contains_key(&replica.address) {
                let gauge = gauge!(metric::IN_FLIGHT, "replica" => replica.address.clone());
                self.in_flight.insert(replica.address.clone(), gauge);
            }
            self.in_flight[&replica.address].set(replica.in_flight as f64);
        }
        self.in_flight.retain(|address, gauge| {
            let present = rotation.replicas().iter().any(|replica| replica.address == *address);
            if !present {
                gauge.set(0.0);
            }
            present
        });
    }
}

#[cfg(test)]
mod tests;
