//! The one task that owns queue, replicas and idle connections. Other tasks send it messages. It admits requests, gives
//! out permits, and acts on the reports about attempts. It decides nothing by itself: admission, retries and the choice
//! of a replica are decided by pure code that it asks.

use crate::discovery::Published;
use crate::failure::Failure;
use crate::failure_log::FailureLog;
use crate::forward;
use crate::load::Load;
use crate::meters::{ShedReason, WorkerMeters, count_retry, count_shed};
use crate::permit::{Assignment, AttemptReport, Permit, PermitSender};
use crate::pool::Pool;
use crate::queue::{Entry, Queue, SequenceNumber};
use crate::request::{DispatchedRequest, QueuedRequest};
use crate::retry::{self, Decision};
use crate::rotation::{Address, Balance, HealthSignal, ProbeEffect, Rotation};
use crate::status::Status;
use admission::{Admission, Order, QueueState, TimeLeft};
use hyper::StatusCode;
use service::wire::{Code, RequestError};
use std::collections::{BTreeSet, HashMap};
use std::pin::Pin;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tower::retry::budget::{Budget, TpsBudget};

/// A replica that has held requests for this many service times without answering any, and for at least
/// [`MIN_STALL_TIMEOUT`], is checked for liveness.
const STALL_SERVICE_TIMES: u32 = 4;

/// See [`STALL_SERVICE_TIMES`].
const MIN_STALL_TIMEOUT: Duration = Duration::from_millis(300);

/// How long a new or ejected replica may take to answer a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a silent replica may take to answer a liveness check. With [`MIN_STALL_TIMEOUT`] it is under a second, so
/// that a replica that hangs is ejected within a second.
const LIVENESS_CHECK_TIMEOUT: Duration = Duration::from_millis(400);

/// Messages to the worker that may wait. A sender waits when there are more, so that requests then wait in their
/// sockets.
const MAX_MESSAGES: usize = 1024;

/// The worker looks for due probes at least this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// How requests are queued and dispatched.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The order in which waiting requests are dispatched.
    pub order: Order,
    /// How a replica is chosen among those with a free slot.
    pub balance: Balance,
    /// Number of requests that may wait.
    pub queue_length: usize,
    /// The longest time that a request may take.
    pub deadline: Duration,
}

/// A message to the worker.
#[derive(Debug)]
pub enum Message {
    /// Admits a request to the queue, or refuses it.
    Submit(Entry<QueuedRequest>),
    /// Sets the gauges and sends the status.
    Status(oneshot::Sender<Status>),
}

/// A message that cannot wait until the worker has room for it, because a destructor or a finished task sends it.
#[derive(Debug)]
enum Event {
    /// A client has left, or its deadline has passed.
    Withdrawn(SequenceNumber),
    /// A probe has ended: with the capacity of a ready replica, or `None`.
    Probed(Address, Option<usize>),
    /// Discovery has published another set.
    Published(BTreeSet<Address>),
}

/// Sends messages to the worker.
#[derive(Debug, Clone)]
pub struct Handle {
    /// Bounded by [`MAX_MESSAGES`].
    pub messages: mpsc::Sender<Message>,
    events: mpsc::UnboundedSender<Event>,
}

impl Handle {
    /// Removes a request whose client has left, or whose deadline has passed, from the queue.
    pub fn withdraw(&self, sequence_number: SequenceNumber) {
        // A worker that has ended holds no requests.
        let _ended = self.events.send(Event::Withdrawn(sequence_number));
    }
}

/// Asks a replica whether it is ready, within a time. Returns its capacity, or `None`.
pub type Probe = fn(Address, Duration) -> Pin<Box<dyn Future<Output = Option<usize>> + Send>>;

/// Starts the worker on the current runtime. It ends when every [`Handle`] is gone and every request is answered.
pub fn spawn(settings: Settings, published: Published) -> Handle {
    spawn_with(settings, published, |address, timeout| Box::pin(async move { forward::probe(&address, timeout).await }))
}

fn spawn_with(settings: Settings, mut published: Published, probe: Probe) -> Handle {
    let (messages, inbox) = mpsc::channel(MAX_MESSAGES);
    // Unbounded, because a destructor cannot wait. Admitted requests bound them: each request, attempt and probe sends
    // one message. Published sets are rare.
    let (events, event_inbox) = mpsc::unbounded_channel();
    let (reports, report_inbox) = mpsc::unbounded_channel();
    let mut worker = Worker::new(settings, probe, events.clone(), reports);
    worker.rotation.publish(&published.borrow_and_update().clone(), Instant::now());
    tokio::spawn(worker.run(inbox, event_inbox, report_inbox));
    tokio::spawn(pass_on_published_sets(published, events.clone()));
    Handle { messages, events }
}

/// Sends the worker every set that discovery publishes. A static list has no publisher, so this ends at once for it.
async fn pass_on_published_sets(mut published: Published, events: mpsc::UnboundedSender<Event>) {
    while published.changed().await.is_ok() {
        let set = published.borrow_and_update().clone();
        if events.send(Event::Published(set)).is_err() {
            return;
        }
    }
}

struct Worker {
    settings: Settings,
    queue: Queue<QueuedRequest>,
    rotation: Rotation,
    /// Requests with a permit, by the permit's id.
    dispatched: HashMap<u64, DispatchedRequest>,
    last_permit_id: u64,
    pool: Pool,
    retry_budget: TpsBudget,
    load: Load,
    failure_log: FailureLog,
    meters: WorkerMeters,
    probe: Probe,
    /// Cloned for each probe, which sends its result.
    events: mpsc::UnboundedSender<Event>,
    /// Cloned for each permit, which sends its report.
    reports: mpsc::UnboundedSender<AttemptReport>,
}

impl Worker {
    fn new(
        settings: Settings,
        probe: Probe,
        events: mpsc::UnboundedSender<Event>,
        reports: mpsc::UnboundedSender<AttemptReport>,
    ) -> Self {
        let now = Instant::now();
        Self {
            queue: Queue::new(settings.order, settings.queue_length),
            rotation: Rotation::new(settings.balance),
            dispatched: HashMap::new(),
            last_permit_id: 0,
            pool: Pool::default(),
            retry_budget: retry::budget(),
            load: Load::new(settings.deadline, now),
            failure_log: FailureLog::default(),
            meters: WorkerMeters::new(now),
            probe,
            events,
            reports,
            settings,
        }
    }

    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Message>,
        mut events: mpsc::UnboundedReceiver<Event>,
        mut reports: mpsc::UnboundedReceiver<AttemptReport>,
    ) {
        let sleep = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(sleep);
        let mut has_senders = true;
        while has_senders || !self.dispatched.is_empty() || !self.queue.is_empty() {
            // Reports come first: they free slots.
            tokio::select! {
                biased;
                Some(report) = reports.recv() => self.handle_report(report),
                Some(event) = events.recv() => self.handle_event(event),
                message = inbox.recv(), if has_senders => match message {
                    Some(message) => self.handle_message(message),
                    None => has_senders = false,
                },
                () = &mut sleep => {}
            }
            // Slots that are free by now are given out together.
            while let Ok(report) = reports.try_recv() {
                self.handle_report(report);
            }
            let now = Instant::now();
            self.dispatch_waiting(now);
            self.start_due_probes(now);
            let wake_up = self.rotation.next_wake_up(now, self.stall_timeout());
            let wake_up = wake_up.map_or(now + LONGEST_SLEEP, |at| at.max(now));
            // The timer is only moved forward: moving it at every request costs more than a wake-up too many.
            let planned = sleep.deadline().into_std();
            if wake_up < planned || planned <= now {
                sleep.as_mut().reset(wake_up.into());
            }
        }
    }

    fn handle_message(&mut self, message: Message) {
        match message {
            Message::Submit(entry) => self.admit(entry),
            Message::Status(reply) => {
                let now = Instant::now();
                self.meters.set_gauges(&self.queue, &self.rotation, now);
                // The client that asked may have left.
                let _left = reply.send(Status::new(&self.queue, &self.rotation, &self.load, now));
            }
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Withdrawn(sequence_number) => self.withdraw(sequence_number),
            Event::Probed(address, capacity) => self.record_probe(&address, capacity),
            Event::Published(addresses) => {
                tracing::info!(replicas = addresses.len(), "the published set of replicas changed");
                self.rotation.publish(&addresses, Instant::now());
                self.pool.retain(&addresses);
            }
        }
    }

    /// How long a replica may hold requests without answering any before it is checked for liveness.
    fn stall_timeout(&self) -> Duration {
        MIN_STALL_TIMEOUT.max(self.load.service_time() * STALL_SERVICE_TIMES)
    }

    fn start_due_probes(&mut self, now: Instant) {
        for address in self.rotation.due_probes(now) {
            self.start_probe(address, PROBE_TIMEOUT);
        }
        for address in self.rotation.due_liveness_checks(now, self.stall_timeout()) {
            self.start_probe(address, LIVENESS_CHECK_TIMEOUT);
        }
    }

    fn start_probe(&self, address: Address, timeout: Duration) {
        let (events, probe) = (self.events.clone(), (self.probe)(address.clone(), timeout));
        tokio::spawn(async move {
            let capacity = probe.await;
            // A worker that has ended needs no result.
            let _ended = events.send(Event::Probed(address, capacity));
        });
    }

    fn record_probe(&mut self, address: &Address, capacity: Option<usize>) {
        match self.rotation.record_probe(address, capacity, Instant::now(), rand::random()) {
            ProbeEffect::Joined => tracing::info!(%address, capacity, "a replica is ready and takes requests"),
            ProbeEffect::Stalled => {
                tracing::warn!(%address, "a replica has stalled; its requests move to other replicas");
                self.requeue_stalled(address);
            }
            ProbeEffect::Unchanged => {}
        }
    }

    fn admit(&mut self, mut entry: Entry<QueuedRequest>) {
        let now = Instant::now();
        if entry.request.is_abandoned() {
            // The withdrawal may have arrived before the request. Queued now, the request would never be removed.
            if entry.deadline <= now {
                self.meters.expired.increment(1);
            }
            return;
        }
        self.retry_budget.deposit();
        self.load.record_arrival(now);
        self.queue.demote(now, self.load.service_time());
        let state = self.queue_state(now);
        let time_left = TimeLeft {
            objective: entry.objective.saturating_duration_since(now),
            deadline: entry.deadline.saturating_duration_since(now),
        };
        if let Admission::Refuse { retry_after } = Admission::decide(self.settings.order, &state, time_left) {
            let message = format!("{} requests wait already, too many to answer this one in time", self.queue.len());
            count_shed(ShedReason::Overloaded);
            return refuse(entry.request, Code::Overloaded, &message, retry_after);
        }
        entry.request.waited_for_slot = !state.slot_is_free;
        match self.queue.push(entry) {
            Ok(()) => {
                self.meters.enqueued.increment(1);
                if state.slot_is_free {
                    // Now, so that the next admission does not count the same slot as free.
                    self.dispatch_waiting(now);
                }
            }
            Err(refused) => {
                let message = format!("the queue holds {} requests", self.queue.len());
                let retry_after = self.load.time_to_drain(self.queue.len(), self.rotation.totals().capacity);
                count_shed(ShedReason::Length);
                refuse(refused.request, Code::QueueFull, &message, retry_after);
            }
        }
    }

    /// The state of queue and replicas, as far as admission depends on it.
    fn queue_state(&self, now: Instant) -> QueueState {
        QueueState {
            punctual: self.queue.len() - self.queue.late_len(),
            late: self.queue.late_len(),
            slot_is_free: self.queue.is_empty() && self.rotation.has_free_slot(now),
            capacity: self.rotation.totals().capacity,
            service_time: self.load.measured_service_time(),
            spare: self.load.spare_share(),
        }
    }

    /// Gives permits to waiting requests for as long as one of them finds a replica with a free slot.
    fn dispatch_waiting(&mut self, now: Instant) {
        let service_time = self.load.service_time();
        self.queue.demote(now, service_time);
        while !self.queue.is_empty() && self.rotation.has_free_slot(now) {
            let rotation = &mut self.rotation;
            // A request whose client has left is passed over: its withdrawal, which removes it, is on its way.
            let find_replica = |request: &QueuedRequest| {
                if request.is_abandoned() { None } else { rotation.pick(request.constraints(), now) }
            };
            let Some((entry, address)) = self.queue.pop(now, service_time, find_replica) else { break };
            self.dispatch(entry, address, now);
        }
    }

    fn dispatch(&mut self, entry: Entry<QueuedRequest>, address: Address, now: Instant) {
        let Entry { sequence_number, objective, deadline, request } = entry;
        let QueuedRequest { accepted, permit, waited_for_slot, failed } = request;
        let waited = now.saturating_duration_since(accepted);
        self.meters.queue_wait.record(waited);
        self.load.record_dispatch(waited_for_slot, objective, now);
        self.last_permit_id += 1;
        let permit_id = self.last_permit_id;
        let (stall_sender, stall_notice) = oneshot::channel();
        let assignment = Assignment {
            permit_id,
            address: address.clone(),
            connection: self.pool.take(&address),
            waited,
            deadline,
            stall_notice,
            reports: self.reports.clone(),
        };
        let stall_notice = Some(stall_sender);
        let dispatched =
            DispatchedRequest { sequence_number, objective, deadline, accepted, failed, address, stall_notice };
        self.dispatched.insert(permit_id, dispatched);
        // If the client has just left, the permit is dropped, and its destructor reports.
        let _left = permit.send(Ok(Permit::new(assignment)));
    }

    /// Removes a waiting request. A request that a replica has keeps its slot until the replica has answered, because
    /// the replica computes.
    fn withdraw(&mut self, sequence_number: SequenceNumber) {
        if let Some(entry) = self.queue.remove(sequence_number)
            && entry.deadline <= Instant::now()
        {
            self.meters.expired.increment(1);
        }
    }

    fn handle_report(&mut self, report: AttemptReport) {
        let AttemptReport { permit_id, result, capacity, elapsed, connection, next_permit } = report;
        let dispatched = self.dispatched.remove(&permit_id).expect("every permit reports once");
        let now = Instant::now();
        let signal = match result {
            Ok(_) => HealthSignal::Answered { capacity },
            Err(failure) => failure.health_signal(elapsed),
        };
        let was_suspect = dispatched.failed.deaths() > 0;
        let worked = self.rotation.release(&dispatched.address, was_suspect, signal, now, rand::random());
        if let Some(connection) = connection
            && self.rotation.contains(&dispatched.address)
        {
            self.pool.put(&dispatched.address, connection);
        }
        match result {
            Ok(status) => {
                self.load.record_answer(now);
                // A refused image costs a replica next to nothing, so its time says nothing about other images.
                if status == StatusCode::OK {
                    self.meters.upstream.record(elapsed);
                    self.meters.work.record(worked.unwrap_or(elapsed));
                    self.load.record_service_time(elapsed, now);
                }
            }
            Err(failure) => self.handle_failure(dispatched, next_permit, failure, now),
        }
    }

    fn handle_failure(
        &mut self,
        mut dispatched: DispatchedRequest,
        next_permit: Option<PermitSender>,
        failure: Failure,
        now: Instant,
    ) {
        if !matches!(failure, Failure::Busy | Failure::Unused) {
            self.failure_log.record(&dispatched.address, failure, now);
        }
        // A closed channel means that the client has left.
        let Some(next_permit) = next_permit.filter(|permit| !permit.is_closed()) else { return };
        dispatched.failed.record(&dispatched.address, failure);
        let decision = retry::decide(&dispatched.failed, failure, || self.retry_budget.withdraw());
        let entry = dispatched.requeued(next_permit);
        match decision {
            Decision::Retry => {
                count_retry(failure);
                self.queue.requeue(entry);
            }
            Decision::GiveUp(reason) => entry.request.refuse(reason.error()),
        }
    }

    /// Tells the attempts at a stalled replica to end, in order of dispatch. Their requests return to the queue when
    /// the attempts report.
    fn requeue_stalled(&mut self, address: &Address) {
        let at_replica = self.dispatched.iter().filter(|(_, dispatched)| dispatched.address == *address);
        let mut permit_ids: Vec<u64> = at_replica.map(|(&permit_id, _)| permit_id).collect();
        permit_ids.sort_unstable();
        for permit_id in permit_ids {
            let dispatched = self.dispatched.get_mut(&permit_id).expect("nothing was removed since");
            // `None` if the attempt was told before; closed if the client has left.
            if dispatched.stall_notice.as_ref().is_none_or(oneshot::Sender::is_closed)
                || !retry::moves_off_stalled_replica(&dispatched.failed, || self.retry_budget.withdraw())
            {
                continue;
            }
            if let Some(stall_notice) = dispatched.stall_notice.take() {
                // An attempt that has just ended reports its own end instead.
                let _ended = stall_notice.send(());
            }
        }
    }
}

/// Refuses a request at admission, and tells its client when to come back.
fn refuse(request: QueuedRequest, code: Code, message: &str, retry_after: Duration) {
    let message = format!("{message}; retry in {:.0} s", retry_after.as_secs_f64().ceil().max(1.0));
    request.refuse(RequestError::new(code, message).retry_after(retry_after));
}

#[cfg(test)]
mod tests;
