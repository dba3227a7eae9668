//! The one task that owns queue and rotation. Everybody else sends it messages; it sends back outcomes.

use crate::discovery::Published;
use crate::forward::{self, Answer, Attempt, Failure, Forwarder, Picture};
use crate::queue::{Bounds, Entry, Full, Queue, Ticket};
use crate::rotation::{Address, Rotation, State, Verdict};
use hyper::StatusCode;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use service::wire::{Code, Fault, metric};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tower::retry::budget::{Budget, TpsBudget};

/// Attempts that one request may cost, `503 busy` not counted.
const MAX_ATTEMPTS: usize = 4;

/// Replicas that one body may be holding when they die.
const MAX_DEATHS: u32 = 2;

/// Over this much of the past, retries may be a fifth of the requests and [`FREE_RETRIES_PER_SECOND`] more.
const BUDGET_WINDOW: Duration = Duration::from_secs(10);
const BUDGET_SHARE: f32 = 0.2;
const FREE_RETRIES_PER_SECOND: u32 = 10;

/// Weight of a new answer in the running mean of service times.
const SERVICE_TIME_WEIGHT: f64 = 0.1;

/// A request on its way to a replica.
#[derive(Debug)]
pub struct Job {
    /// What to send.
    pub picture: Arc<Picture>,
    /// When it was accepted.
    pub accepted: Instant,
    /// Where the outcome goes.
    pub reply: oneshot::Sender<Outcome>,
    tried: Vec<Address>,
    deaths: u32,
}

impl Job {
    /// Nobody waits for the outcome any more. Once this is true it stays so, and a withdrawal may have come already.
    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    /// A job that was never tried.
    pub fn new(picture: Arc<Picture>, accepted: Instant, reply: oneshot::Sender<Outcome>) -> Self {
        Self { picture, accepted, reply, tried: Vec::new(), deaths: 0 }
    }
}

/// What became of a job.
pub type Outcome = Result<Answer, Fault>;

/// What the worker is told.
#[derive(Debug)]
pub enum Message {
    /// A new request.
    Submit(Entry<Job>),
    /// Somebody wants to know how things stand.
    Snapshot(oneshot::Sender<Snapshot>),
}

/// How things stand, for `/status`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Snapshot {
    /// Requests waiting.
    pub queue_length: usize,
    /// Running mean of dispatched → answered, seconds; absent until something was answered.
    pub service_time_seconds: Option<f64>,
    /// Everybody in the rotation.
    pub replicas: Vec<ReplicaStatus>,
}

/// One replica in `/status`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ReplicaStatus {
    /// Where it is.
    pub address: Address,
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
    /// Places given up by clients that left. Unbounded, as a drop cannot wait; each admitted job sends one at most.
    pub withdrawn: mpsc::UnboundedSender<Ticket>,
}

/// Starts the worker on the present runtime. It ends when every [`Handle`] is gone and every job is answered.
pub fn spawn(bounds: Bounds, published: Published) -> Handle {
    let (messages, inbox) = mpsc::channel(1024);
    let (withdrawn, withdrawals) = mpsc::unbounded_channel();
    let worker = Worker {
        queue: Queue::new(bounds),
        rotation: Rotation::default(),
        in_flight: HashMap::new(),
        attempts: JoinSet::new(),
        probes: JoinSet::new(),
        forwarder: Forwarder::default(),
        budget: TpsBudget::new(BUDGET_WINDOW, FREE_RETRIES_PER_SECOND, BUDGET_SHARE),
        service_time: None,
        gauges: Gauges::new(),
    };
    tokio::spawn(worker.run(inbox, withdrawals, published));
    Handle { messages, withdrawn }
}

struct Worker {
    queue: Queue<Job>,
    rotation: Rotation,
    /// Jobs that are with a replica.
    in_flight: HashMap<Ticket, Entry<Job>>,
    attempts: JoinSet<(Ticket, Address, Attempt)>,
    probes: JoinSet<(Address, Option<usize>)>,
    forwarder: Forwarder,
    budget: TpsBudget,
    service_time: Option<Duration>,
    gauges: Gauges,
}

impl Worker {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Message>,
        mut withdrawals: mpsc::UnboundedReceiver<Ticket>,
        mut published: Published,
    ) {
        self.rotation.publish(&published.borrow_and_update().clone(), Instant::now());
        let (mut open, mut watching) = (true, true);
        while open || !self.in_flight.is_empty() || !self.queue.is_empty() {
            let now = Instant::now();
            self.advance(now);
            let wake = self.rotation.wakes_at(now).unwrap_or(now + Duration::from_secs(60));
            tokio::select! {
                message = inbox.recv(), if open => match message {
                    Some(Message::Submit(entry)) => self.admit(entry),
                    Some(Message::Snapshot(reply)) => drop(reply.send(self.snapshot())),
                    None => open = false,
                },
                Some(ticket) = withdrawals.recv() => self.withdraw(ticket),
                Some(ended) = self.attempts.join_next() => {
                    let (ticket, address, attempt) = ended.expect("an attempt neither panics nor is aborted");
                    self.ended(ticket, &address, attempt);
                }
                Some(probed) = self.probes.join_next() => {
                    let (address, capacity) = probed.expect("a probe neither panics nor is aborted");
                    self.rotation.probed(&address, capacity, Instant::now(), rand::random());
                    match capacity {
                        Some(capacity) => tracing::info!(%address, capacity, "a replica takes part"),
                        None => tracing::debug!(%address, "a probe found a replica not ready"),
                    }
                }
                changed = published.changed(), if watching => match changed {
                    Ok(()) => {
                        let addresses = published.borrow_and_update().clone();
                        tracing::info!(replicas = addresses.len(), "the published set changed");
                        self.rotation.publish(&addresses, Instant::now());
                    }
                    // A static list has no sender to wait for.
                    Err(_gone) => watching = false,
                },
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    /// Hands out whatever can be handed out, and asks after replicas that are out.
    fn advance(&mut self, now: Instant) {
        while self.rotation.has_slot(now) {
            // A job that waits for a replica that it has not tried lets others pass to those that it has.
            let rotation = &mut self.rotation;
            let place = |job: &Job| (!job.is_abandoned()).then(|| rotation.pick(&job.tried, now))?;
            let Some((entry, address)) = self.queue.pop(now, place) else { break };
            self.dispatch(entry, address, now);
        }
        for address in self.rotation.due_probes(now) {
            self.probes.spawn(async move {
                let capacity = forward::probe(&address).await;
                (address, capacity)
            });
        }
        self.gauges.set(&self.queue, &self.rotation);
    }

    fn admit(&mut self, entry: Entry<Job>) {
        if entry.job.is_abandoned() {
            // Its withdrawal may have overtaken it, and would then never take it out again.
            if entry.deadline <= Instant::now() {
                self.gauges.expired.increment(1);
            }
            return;
        }
        self.budget.deposit();
        match self.queue.push(entry) {
            Ok(()) => self.gauges.enqueued.increment(1),
            Err((full, refused)) => {
                let (fault, reason) = match full {
                    Full::Length => (format!("the queue holds {} requests", self.queue.len()), "length"),
                    Full::Bytes => ("the queue holds as many bytes as it may".into(), "bytes"),
                };
                counter!("dispatcher_shed_total", "reason" => reason).increment(1);
                let wait = self.time_to_drain();
                let message = format!("{fault}; retry in {:.0} s", wait.as_secs_f64().ceil().max(1.0));
                answer(refused.job, Err(Fault::new(Code::QueueFull, message).retry_after(wait)));
            }
        }
    }

    fn dispatch(&mut self, entry: Entry<Job>, address: Address, now: Instant) {
        let waited = now.saturating_duration_since(entry.job.accepted);
        self.gauges.queue_wait.record(waited);
        let (forwarder, picture) = (self.forwarder.clone(), entry.job.picture.clone());
        let (ticket, deadline) = (entry.ticket, entry.deadline);
        self.in_flight.insert(ticket, entry);
        self.attempts.spawn(async move {
            let attempt = forwarder.attempt(&address, &picture, deadline, waited).await;
            (ticket, address, attempt)
        });
    }

    fn withdraw(&mut self, ticket: Ticket) {
        if let Some(entry) = self.queue.remove(ticket)
            && entry.deadline <= Instant::now()
        {
            self.gauges.expired.increment(1);
        }
        // One that is with a replica keeps its slot until the replica has answered: it is being computed.
    }

    fn ended(&mut self, ticket: Ticket, address: &Address, attempt: Attempt) {
        let verdict = match &attempt.outcome {
            Ok(_) => Verdict::Answered { capacity: attempt.capacity },
            Err(failure) => failure.verdict(attempt.took),
        };
        self.rotation.release(address, verdict, Instant::now(), rand::random());
        let mut entry = self.in_flight.remove(&ticket).expect("an attempt's job is in flight");
        match attempt.outcome {
            Ok(reply) => {
                // A refused picture costs a replica next to nothing and says nothing about the others.
                if reply.status == StatusCode::OK {
                    self.gauges.upstream.record(attempt.took);
                    let mean = self.service_time.map_or(attempt.took, |mean| {
                        mean.mul_f64(1.0 - SERVICE_TIME_WEIGHT) + attempt.took.mul_f64(SERVICE_TIME_WEIGHT)
                    });
                    self.service_time = Some(mean);
                }
                answer(entry.job, Ok(reply));
            }
            Err(failure) => {
                if failure != Failure::Busy {
                    tracing::warn!(
                        %address,
                        request_id = entry.job.picture.trace.request_id(),
                        failure = failure.as_str(),
                        "attempt failed"
                    );
                }
                if entry.job.is_abandoned() {
                    return;
                }
                entry.job.deaths += u32::from(failure == Failure::Died);
                if failure != Failure::Busy {
                    entry.job.tried.push(address.clone());
                }
                match self.refusal(&entry.job, failure) {
                    Some(fault) => answer(entry.job, Err(fault)),
                    None => {
                        counter!("dispatcher_retries_total", "reason" => failure.as_str()).increment(1);
                        self.queue.push_front(entry);
                    }
                }
            }
        }
    }

    /// Why a job that failed is not tried again; nothing if it is.
    fn refusal(&self, job: &Job, failure: Failure) -> Option<Fault> {
        let fault = |code, message: String| Some(Fault::new(code, message));
        match failure {
            Failure::Deadline => fault(Code::DeadlineExceeded, "the replica did not answer in time".into()),
            Failure::Busy => None,
            _ if job.deaths >= MAX_DEATHS => {
                let message = format!("{MAX_DEATHS} replicas died while they held this request; it is not sent again");
                fault(Code::Poison, message)
            }
            _ if job.tried.len() >= MAX_ATTEMPTS => fault(
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
        let service_time = self.service_time.unwrap_or(Duration::from_millis(100)).as_secs_f64();
        Duration::from_secs_f64(self.queue.len() as f64 * service_time / capacity)
    }

    fn snapshot(&self) -> Snapshot {
        let replicas = self.rotation.replicas().iter().map(|replica| ReplicaStatus {
            address: replica.address.clone(),
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
            service_time_seconds: self.service_time.map(|mean| mean.as_secs_f64()),
            replicas: replicas.collect(),
        }
    }
}

/// A client that left no longer listens; that is no error.
fn answer(job: Job, outcome: Outcome) {
    let _gone = job.reply.send(outcome);
}

struct Gauges {
    queue_length: Gauge,
    ready: Gauge,
    ejected: Gauge,
    draining: Gauge,
    capacity: Gauge,
    enqueued: Counter,
    expired: Counter,
    queue_wait: Histogram,
    upstream: Histogram,
    in_flight: HashMap<Address, Gauge>,
}

impl Gauges {
    fn new() -> Self {
        let replicas = |state| gauge!(metric::REPLICAS, "state" => state);
        Self {
            queue_length: gauge!(metric::QUEUE_LENGTH),
            ready: replicas("ready"),
            ejected: replicas("ejected"),
            draining: replicas("draining"),
            capacity: gauge!("dispatcher_capacity"),
            enqueued: counter!(metric::ENQUEUED),
            expired: counter!("dispatcher_expired_total"),
            queue_wait: histogram!("dispatcher_queue_wait_seconds"),
            upstream: histogram!(metric::UPSTREAM_DURATION),
            in_flight: HashMap::new(),
        }
    }

    fn set(&mut self, queue: &Queue<Job>, rotation: &Rotation) {
        let census = rotation.census();
        self.queue_length.set(queue.len() as f64);
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
mod tests {
    use super::*;
    use bytes::Bytes;
    use hyper::HeaderMap;
    use service::trace::Trace;
    use std::collections::BTreeSet;
    use tokio::sync::watch;

    fn entry(ticket: u64, reply: oneshot::Sender<Outcome>) -> Entry<Job> {
        let trace = Trace::of(&HeaderMap::new());
        let picture = Picture { body: Bytes::from_static(b"x"), content_type: None, top_k: 1, trace };
        let now = Instant::now();
        let job = Job::new(Arc::new(picture), now, reply);
        Entry { ticket: Ticket(ticket), deadline: now + Duration::from_secs(60), bytes: 1, job }
    }

    #[tokio::test]
    async fn a_job_whose_withdrawal_overtook_it_takes_no_place() {
        let (_nobody, published) = watch::channel(BTreeSet::new());
        let worker = spawn(Bounds { length: 9, bytes: 9 }, published);
        let (left, outcome) = oneshot::channel();
        drop(outcome);
        let (stays, _outcome) = oneshot::channel();
        for submitted in [entry(1, left), entry(2, stays)] {
            worker.messages.send(Message::Submit(submitted)).await.expect("the worker runs");
        }
        let (reply, snapshot) = oneshot::channel();
        worker.messages.send(Message::Snapshot(reply)).await.expect("the worker runs");
        assert_eq!(snapshot.await.expect("it answers").queue_length, 1);
    }
}
