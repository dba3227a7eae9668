//! The worker, which owns the queue, the rotation of replicas and the idle connections. The tasks of requests call it
//! (`shared.rs`), and a task of its own handles messages, probes and timers. It admits requests, gives out permits, and
//! handles the reports about attempts. It decides nothing by itself: pure code decides about admission, retries and the
//! choice of a replica.

mod claims;
mod hedges;
mod probes;
mod rescues;
mod shared;

pub use shared::ReportSender;

use crate::discovery::Published;
use crate::dispatched::Dispatched;
use crate::failure::AttemptFailure;
use crate::failure_log::FailureLog;
use crate::fair::Tenant;
use crate::forward::SlotUse;
use crate::hedge::{Candidate, Hedging};
use crate::load_statistics::LoadStatistics;
use crate::log_limit::LogLimit;
use crate::meters::{ShedReason, WorkerMeters, count_retry, count_shed};
use crate::permit::{Assignment, AttemptReport, Permit, PermitSender};
use crate::pool::Pool;
use crate::probe::probe;
use crate::queue::{Queue, QueueEntry, SequenceNumber};
use crate::replica_counts::ReplicaCounts;
use crate::request::{DispatchedRequest, QueuedRequest, Twin};
use crate::retry::{self, RetryDecision};
use crate::retry_budget::RetryBudget;
use crate::rotation::{
    Address, Balance, EndedAttempt, EndpointChanges, HealthSignal, ProbeAnswer, ReplicaId, ReplicaState, Rotation,
};
use crate::sharing::Sharing;
use crate::slot_channel::ChannelEvent;
use crate::status::Status;
use admission::{Admission, Order, QueueState, TimeLeft, retry_after};
use claims::Channel;
use hyper::StatusCode;
use service::readiness::Latch;
use service::wire::{Code, RequestError};
use shared::SharedWorker;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// The largest number of [`Message`]s that may wait for the worker, and of messages of replicas about their slots. If there
/// are as many, the sender of a further one waits until there is room.
const MAX_MESSAGES: usize = 1024;

/// The longest time that the worker sleeps while no probe, liveness check or pause is pending.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// The settings of queueing and dispatching.
#[derive(Debug, Clone, Copy)]
pub struct DispatchSettings {
    /// The order in which waiting requests are dispatched.
    pub order: Order,
    /// The rule by which a replica is chosen among those with a free slot.
    pub balance: Balance,
    /// The largest number of requests that may wait.
    pub queue_length: usize,
    /// The longest time that a request may take.
    pub deadline: Duration,
    /// Whether a request whose objective is in danger is sent to a second replica, too.
    pub hedge: bool,
}

/// A message to the worker.
#[derive(Debug)]
pub enum Message {
    /// The worker sets the gauges and sends its status on the channel.
    Status(oneshot::Sender<Status>),
    /// The worker sends the address of a ready replica, or `None` if there is none.
    ReadyReplica(oneshot::Sender<Option<Address>>),
    /// The worker sets the gauges and sends the number of requests that all replicas hold. The cost does not depend on
    /// the number of replicas.
    Sums(oneshot::Sender<usize>),
}

/// A message on the channel without a bound. Destructors send these messages, and a destructor cannot wait for room in
/// a channel.
#[derive(Debug)]
enum WorkerEvent {
    /// A request is no longer wanted: its client has left, or its deadline has passed.
    Withdrawn(SequenceNumber),
    /// The pause of a request whose attempt failed is over.
    Paused(QueueEntry<QueuedRequest>),
    /// A probe or a liveness check has ended.
    Probed(ReplicaId, ProbeAnswer),
    /// Discovery has published changes of the set of replicas. The worker sends on the channel once it has applied them.
    Published(EndpointChanges, oneshot::Sender<()>),
}

/// The way to the worker.
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    worker: Arc<SharedWorker>,
    /// The channel for messages, with room for [`MAX_MESSAGES`].
    pub messages: mpsc::Sender<Message>,
    events: mpsc::UnboundedSender<WorkerEvent>,
}

impl WorkerHandle {
    /// Submits a request. The worker admits it to the queue, or refuses it.
    pub fn submit(&self, entry: QueueEntry<QueuedRequest>) {
        self.worker.submit(entry);
    }

    /// Removes a request whose client has left, or whose deadline has passed, from the queue.
    pub fn withdraw(&self, sequence_number: SequenceNumber) {
        // If the worker has ended, it holds no requests.
        let _ended = self.events.send(WorkerEvent::Withdrawn(sequence_number));
    }
}

/// A function that asks the replica at an address whether it is ready, and waits for the answer for the given time at
/// most.
pub type ProbeFn = fn(Address, Duration) -> Pin<Box<dyn Future<Output = ProbeAnswer> + Send>>;

/// Starts the worker on the current runtime. It ends when every [`WorkerHandle`] is gone and every request is answered.
/// `undiscovered` is dropped once discovery has published the first set.
pub fn spawn(settings: DispatchSettings, published: Published, undiscovered: Latch) -> WorkerHandle {
    let probe: ProbeFn = |address, timeout| Box::pin(async move { probe(&address, timeout).await });
    spawn_with(settings, published, undiscovered, probe)
}

fn spawn_with(
    settings: DispatchSettings,
    mut published: Published,
    undiscovered: Latch,
    probe: ProbeFn,
) -> WorkerHandle {
    let (messages, inbox) = mpsc::channel(MAX_MESSAGES);
    // These two channels have no bound, because a destructor cannot wait for room. Admitted requests bound their
    // length: each request, attempt and probe sends at most one message, and discovery one at a time.
    let (events, event_inbox) = mpsc::unbounded_channel();
    let (reports, report_inbox) = mpsc::unbounded_channel();
    let mut worker = Worker::new(settings, probe, events.clone(), reports.clone());
    let mut undiscovered = Some(undiscovered);
    // The replicas of a list or a file are known before the first request.
    if let Ok(changes) = published.try_recv() {
        worker.apply(&changes);
        undiscovered = None;
    }
    let channel_inbox = worker.channel_inbox.take().expect("the worker is new");
    let worker = Arc::new_cyclic(|shared| {
        worker.reports = ReportSender::new(shared.clone(), reports);
        SharedWorker::new(worker)
    });
    tokio::spawn(run(worker.clone(), inbox, event_inbox, channel_inbox, report_inbox));
    tokio::spawn(pass_on_changes(published, undiscovered, events.clone()));
    WorkerHandle { worker, messages, events }
}

/// Sends the worker every change that discovery publishes, one at a time: a source that has more waits. Returns at once
/// if the list of replicas is static, because such a list has no publisher.
async fn pass_on_changes(
    mut published: Published,
    mut undiscovered: Option<Latch>,
    events: mpsc::UnboundedSender<WorkerEvent>,
) {
    while let Some(changes) = published.recv().await {
        let (applied, is_applied) = oneshot::channel();
        if events.send(WorkerEvent::Published(changes, applied)).is_err() || is_applied.await.is_err() {
            return;
        }
        drop(undiscovered.take());
    }
}

/// The worker's own task.
async fn run(
    shared: Arc<SharedWorker>,
    mut inbox: mpsc::Receiver<Message>,
    mut events: mpsc::UnboundedReceiver<WorkerEvent>,
    mut channel_inbox: mpsc::Receiver<(ReplicaId, ChannelEvent)>,
    mut reports: mpsc::UnboundedReceiver<AttemptReport>,
) {
    let sleep = tokio::time::sleep(Duration::ZERO);
    tokio::pin!(sleep);
    let mut has_senders = true;
    while has_senders || shared.lock().has_requests() {
        // Reports are received first, because they free slots.
        tokio::select! {
            biased;
            Some(report) = reports.recv() => shared.lock().handle_report(report),
            Some(event) = events.recv() => shared.lock().handle_event(event),
            Some((replica, event)) = channel_inbox.recv() => shared.lock().handle_channel_event(replica, event),
            message = inbox.recv(), if has_senders => match message {
                Some(message) => shared.lock().handle_message(message),
                None => {
                    has_senders = false;
                    shared.lock().is_ending = true;
                }
            },
            () = shared.wakes.notified() => {}
            () = &mut sleep => {}
        }
        // All reports that have arrived are handled before the next dispatch. Otherwise a request could go to a
        // replica with many requests, although a report has just freed a slot of an idle one.
        while let Ok(report) = reports.try_recv() {
            shared.lock().handle_report(report);
        }
        let now = Instant::now();
        let mut worker = shared.lock();
        let wake_up = worker.settle(now);
        // The timer is set only if it has expired, or if it would expire too late. Setting it for every request
        // would cost more than the wake-ups that find nothing to do.
        let planned = sleep.deadline().into_std();
        if wake_up < planned || planned <= now {
            sleep.as_mut().reset(wake_up.into());
            worker.planned_wake_up = wake_up;
        }
    }
}

struct Worker {
    settings: DispatchSettings,
    queue: Queue<QueuedRequest>,
    rotation: Rotation,
    /// The requests that have a permit, by the id of the permit.
    dispatched: Dispatched,
    last_permit_id: u64,
    /// The requests that may get a second replica; `None` without `--hedge`.
    hedging: Option<Hedging>,
    /// The random number by which replicas know this dispatcher.
    dispatcher_id: u64,
    /// What is known of the other dispatchers.
    sharing: Sharing,
    /// The channels by which slots of replicas are claimed that other dispatchers use, too.
    channels: HashMap<ReplicaId, Channel>,
    /// The channel on which these channels send what they receive. Each has a clone of it.
    channel_events: mpsc::Sender<(ReplicaId, ChannelEvent)>,
    /// The other end of that channel, until the worker's own task has it.
    channel_inbox: Option<mpsc::Receiver<(ReplicaId, ChannelEvent)>>,
    /// The instant at which claims were renewed, or at which there was none.
    renewed_at: Instant,
    pool: Pool,
    retry_budget: RetryBudget,
    load: LoadStatistics,
    /// The instants at which requests at replicas in doubt should move to other replicas, with the ids of their permits.
    /// An entry has no meaning any more once its request is answered or its replica has given a sign of life.
    rescues: BinaryHeap<Reverse<(Instant, u64)>>,
    failure_log: FailureLog,
    ejection_log: LogLimit,
    replica_counts: ReplicaCounts,
    meters: WorkerMeters,
    probe: ProbeFn,
    /// The channel on which probes send their results. Each probe has a clone of it.
    events: mpsc::UnboundedSender<WorkerEvent>,
    /// The way of the reports of permits. Each permit has a clone of it.
    reports: ReportSender,
    /// The instant at which the worker's own task wakes at the latest.
    planned_wake_up: Instant,
    /// Whether every [`WorkerHandle`] is gone. The worker's own task ends after the last request.
    is_ending: bool,
}

impl Worker {
    fn new(
        settings: DispatchSettings,
        probe: ProbeFn,
        events: mpsc::UnboundedSender<WorkerEvent>,
        reports: mpsc::UnboundedSender<AttemptReport>,
    ) -> Self {
        let now = Instant::now();
        let (channel_events, channel_inbox) = mpsc::channel(MAX_MESSAGES);
        Self {
            queue: Queue::new(settings.order, settings.queue_length),
            rotation: Rotation::new(settings.balance),
            dispatched: Dispatched::default(),
            last_permit_id: 0,
            hedging: settings.hedge.then(Hedging::default),
            dispatcher_id: rand::random(),
            sharing: Sharing::default(),
            channels: HashMap::new(),
            channel_events,
            channel_inbox: Some(channel_inbox),
            renewed_at: now,
            pool: Pool::default(),
            retry_budget: RetryBudget::new(now),
            load: LoadStatistics::new(settings.deadline, now),
            rescues: BinaryHeap::new(),
            failure_log: FailureLog::default(),
            ejection_log: LogLimit::new(now),
            replica_counts: ReplicaCounts::default(),
            meters: WorkerMeters::new(now),
            probe,
            events,
            reports: ReportSender::new(Weak::new(), reports),
            planned_wake_up: now,
            is_ending: false,
            settings,
        }
    }

    /// Does what is due at `now`, after one or more events. Returns the instant at which something will be due next.
    fn settle(&mut self, now: Instant) -> Instant {
        self.dispatch_waiting(now);
        let next_renewal = self.claim_slots(now);
        let next_exchange = self.exchange_backlogs(now);
        self.load.record_own_slots(!self.queue.is_empty(), self.rotation.own_slots_share(), now);
        self.start_due_probes(now);
        self.pool.close_expired(now);
        let next_hedge = self.hedge_due_requests(now);
        let next_probe = self.rotation.next_wake_up(now, self.stall_timeout());
        let next_rescue = self.rescues.peek().map(|Reverse((at, _))| *at);
        let wake_ups = [next_probe, next_rescue, self.pool.next_expiry(), next_hedge, next_renewal, next_exchange];
        let wake_up = wake_ups.into_iter().flatten().min();
        wake_up.map_or(now + LONGEST_SLEEP, |at| at.max(now))
    }

    /// Whether requests wait or are at replicas.
    fn has_requests(&self) -> bool {
        !self.dispatched.is_empty() || !self.queue.is_empty()
    }

    fn handle_message(&mut self, message: Message) {
        match message {
            Message::Status(reply) => {
                let now = Instant::now();
                self.meters.set_gauges(&self.queue, &self.rotation, &self.load, now);
                // The client that asked for the status may have left.
                let _left = reply.send(Status::new(&self.queue, &self.rotation, &self.load, &self.replica_counts, now));
            }
            Message::ReadyReplica(reply) => {
                let mut replicas = self.rotation.replicas();
                let ready = replicas.find(|replica| replica.state == ReplicaState::Ready);
                let _left = reply.send(ready.map(|replica| replica.address.clone()));
            }
            Message::Sums(reply) => {
                self.meters.set_gauges(&self.queue, &self.rotation, &self.load, Instant::now());
                let _left = reply.send(self.rotation.in_flight());
            }
        }
    }

    fn handle_event(&mut self, event: WorkerEvent) {
        match event {
            WorkerEvent::Withdrawn(sequence_number) => self.withdraw(sequence_number),
            WorkerEvent::Paused(entry) => self.end_pause(entry),
            WorkerEvent::Probed(replica, answer) => self.record_probe(replica, answer),
            WorkerEvent::Published(changes, applied) => {
                self.apply(&changes);
                // The task that waits for this ends only with the worker.
                let _ended = applied.send(());
                let totals = self.rotation.totals();
                tracing::info!(
                    added = changes.added.len(),
                    removed = changes.removed.len(),
                    replicas = totals.ready + totals.ejected,
                    "discovery has published a change of the replicas"
                );
            }
        }
    }

    /// Applies what discovery has published.
    fn apply(&mut self, changes: &EndpointChanges) {
        for replica in self.rotation.publish(changes, Instant::now()) {
            self.pool.close(replica);
            self.close_channel(replica);
        }
    }

    fn admit(&mut self, mut entry: QueueEntry<QueuedRequest>) {
        let now = Instant::now();
        if entry.request.is_abandoned() {
            // The withdrawal may have been handled before the request arrived. If the request were queued now, nothing
            // would remove it.
            if entry.deadline <= now {
                self.meters.expired.increment(1);
            }
            return;
        }
        self.retry_budget.deposit(now);
        self.load.record_arrival(now);
        self.queue.demote(now, self.load.service_time());
        let state = self.queue_state(entry.tenant, now);
        let time_left = TimeLeft {
            objective: entry.objective.saturating_duration_since(now),
            deadline: entry.deadline.saturating_duration_since(now),
        };
        let peers = self.sharing.peers(now).unwrap_or_default();
        if let Admission::Refuse { retry_after } = peers.decide(self.settings.order, state, time_left) {
            let message = format!("{} requests are waiting, too many to answer this one in time", self.queue.len());
            count_shed(ShedReason::Overloaded);
            return refuse(entry.request, Code::Overloaded, &message, retry_after);
        }
        entry.request.waited_for_slot = !state.slot_is_free;
        let is_punctual = entry.objective >= now + self.load.service_time() && entry.deadline > now;
        // No request waits that this one would pass, so it need not be queued.
        if state.slot_is_free
            && is_punctual
            && self.rotation.has_free_slot(now)
            && let Some(replica) = self.rotation.pick(entry.request.constraints(), now)
        {
            self.meters.enqueued.increment(1);
            return self.dispatch(entry, replica, false, now);
        }
        match self.queue.push(entry) {
            Ok(displaced) => {
                if let Some(displaced) = displaced {
                    self.refuse_for_full_queue(displaced.request);
                }
                self.meters.enqueued.increment(1);
                if state.slot_is_free {
                    // The slot is taken before the next admission, which would otherwise count it as free, too.
                    self.dispatch_waiting(now);
                }
            }
            Err(refused) => self.refuse_for_full_queue(refused.request),
        }
    }

    fn refuse_for_full_queue(&self, request: QueuedRequest) {
        let now = Instant::now();
        let waiting = self.queue.len();
        let others = self.sharing.peers(now).map_or(0, |peers| peers.punctual + peers.late);
        let message = format!("the queue is full with {waiting} requests");
        let retry_after = retry_after::queue_full(waiting + others, self.slots(now), self.load.measured_service_time());
        count_shed(ShedReason::Length);
        refuse(request, Code::QueueFull, &message, retry_after);
    }

    /// The state of the queue and the replicas on which the admission of a request of `tenant` depends. Only the
    /// requests that would be dispatched before it count.
    fn queue_state(&mut self, tenant: Tenant, now: Instant) -> QueueState {
        let (punctual, late) = self.queue.ahead_of(tenant);
        QueueState {
            punctual,
            late,
            slot_is_free: self.queue.is_empty() && self.rotation.seems_free(now),
            slots: self.slots(now),
            service_time: self.load.measured_service_time(),
            spare: self.load.spare_share(),
        }
    }

    /// The slots that serve the requests which are counted: all of them if the requests of the other dispatchers count,
    /// too, and otherwise those that this dispatcher gets.
    fn slots(&self, now: Instant) -> f64 {
        let capacity = self.rotation.totals().capacity;
        if self.sharing.peers(now).is_some() { capacity as f64 } else { self.load.own_slots(capacity) }
    }

    /// Gives permits to waiting requests until none of them finds a replica with a free slot.
    fn dispatch_waiting(&mut self, now: Instant) {
        let service_time = self.load.service_time();
        self.queue.demote(now, service_time);
        while self.sendable(now) > 0 && self.rotation.has_free_slot(now) {
            let rotation = &mut self.rotation;
            // A request whose client has left is passed over. Its withdrawal has been sent and will remove it.
            let find_replica = |request: &QueuedRequest| {
                if request.is_abandoned() { None } else { rotation.pick(request.constraints(), now) }
            };
            let Some((entry, replica)) = self.queue.pop(now, service_time, find_replica) else { break };
            self.dispatch(entry, replica, false, now);
        }
    }

    /// Gives a request a permit for `replica`, in which it has a slot, or which has granted it one before.
    fn dispatch(&mut self, entry: QueueEntry<QueuedRequest>, replica: ReplicaId, uses_grant: bool, now: Instant) {
        let address = self.rotation.replica(replica).expect("a picked replica is in the rotation").address.clone();
        let QueueEntry { sequence_number, tenant, objective, deadline, request } = entry;
        let QueuedRequest { accepted, permit, waited_for_slot, is_counted, failed } = request;
        if !is_counted {
            self.load.record_dispatch(waited_for_slot, objective, now);
        }
        // A request that has failed may be the cause, so it must not be at two replicas.
        let (hedge_sender, hedge) = match &mut self.hedging {
            Some(hedging) if failed.tried().is_empty() => {
                hedging.add(Candidate { permit_id: self.last_permit_id + 1, dispatched: now, objective });
                let (sender, receiver) = oneshot::channel();
                (Some(sender), Some(receiver))
            }
            _ => (None, None),
        };
        let given = self.give_permit(
            DispatchedRequest {
                sequence_number,
                tenant,
                objective,
                deadline,
                accepted,
                waited: Some(now.saturating_duration_since(accepted)),
                uses_grant,
                failed,
                replica,
                address,
                stall_notice: None,
                hedge: hedge_sender,
                twin: None,
            },
            hedge,
            now,
        );
        // If the client has just left, the permit is dropped, and its destructor frees the slot by a report.
        let _left = permit.send(Ok(given));
    }

    /// Makes a permit for `dispatched`, which is given to its replica `now`. The attempt receives a permit for a second
    /// replica on `hedge`.
    fn give_permit(
        &mut self,
        mut dispatched: DispatchedRequest,
        hedge: Option<oneshot::Receiver<Permit>>,
        now: Instant,
    ) -> Permit {
        self.last_permit_id += 1;
        let (stall_sender, stall_notice) = oneshot::channel();
        dispatched.stall_notice = Some(stall_sender);
        let assignment = Assignment {
            permit_id: self.last_permit_id,
            address: dispatched.address.clone(),
            // On a new connection, an end without an answer is never that of an idle connection which the replica has
            // just closed. So a body that kills replicas is recognised at its second attempt at the latest. An idle
            // connection is closed instead, so that the idle ones never exceed the slots.
            connection: self.pool.take(dispatched.replica, now).filter(|_| dispatched.failed.tried().is_empty()),
            waited: now.saturating_duration_since(dispatched.accepted),
            deadline: dispatched.deadline,
            slot: SlotUse { dispatcher: self.dispatcher_id, is_granted: dispatched.uses_grant },
            stall_notice,
            hedge,
            reports: self.reports.clone(),
        };
        self.dispatched.insert(self.last_permit_id, dispatched);
        Permit::new(assignment)
    }

    /// Removes a request from the queue. A request that is no longer in the queue, because it has got a permit, keeps
    /// its slot until its attempt ends, because the replica computes.
    fn withdraw(&mut self, sequence_number: SequenceNumber) {
        if let Some(entry) = self.queue.remove(sequence_number)
            && entry.deadline <= Instant::now()
        {
            self.meters.expired.increment(1);
        }
    }

    fn handle_report(&mut self, report: AttemptReport) {
        let AttemptReport { permit_id, result, capacity, slots, work, full_work, elapsed, connection, .. } = report;
        let (body_deaths, next_permit) = (report.body_deaths, report.next_permit);
        let dispatched = self.dispatched.remove(permit_id).expect("every permit reports exactly once");
        let now = Instant::now();
        let signal = match result {
            Ok(_) => HealthSignal::Answered { capacity },
            Err(failure) => failure.health_signal(elapsed),
        };
        let was_suspect = dispatched.failed.deaths() > 0;
        let replica = dispatched.replica;
        if signal != HealthSignal::Busy
            && let Some(waited) = dispatched.waited
        {
            self.meters.queue_wait.record(waited);
        }
        let was_ready = self.is_ready(replica);
        let service_time = self.load.service_time();
        let ended = EndedAttempt { was_suspect, signal, news: slots, service_time };
        let seen_work = self.rotation.release(replica, ended, now, rand::random());
        match result {
            // The slot had seemed free. If no other dispatcher takes or claims one, the own requests have them.
            Err(AttemptFailure::Busy) if slots.others.is_some_and(|others| others > 0) || slots.is_claimed => {
                self.learn(replica, false);
            }
            // The request has not reached the replica, which still keeps the slot.
            Err(
                AttemptFailure::Unused
                | AttemptFailure::NoSocket
                | AttemptFailure::Unresolved
                | AttemptFailure::Connect
                | AttemptFailure::Closed,
            ) if dispatched.uses_grant => self.return_grant(replica),
            _ => {}
        }
        if self.rotation.is_shared(replica) {
            self.open_channel(replica, now);
        }
        match result {
            Ok(StatusCode::OK) => self.replica_counts.record_classified(replica, elapsed),
            Ok(_) => self.replica_counts.record_refused(replica),
            Err(failure) if failure.may_eject() || failure == AttemptFailure::Stalled => {
                self.replica_counts.record_failed(replica);
                self.note_ejection(replica, was_ready, failure.as_str(), now);
            }
            // The replica is not to blame for the others.
            Err(_) => {}
        }
        if let Some(connection) = connection
            && self.rotation.replica(replica).is_some_and(|replica| replica.state != ReplicaState::Draining)
        {
            self.pool.put(replica, connection, now);
        }
        match result {
            // The client has had the answer of the other replica. A second one is no further request.
            Ok(_) if matches!(dispatched.twin, Some(Twin::Answered)) => {}
            Ok(status) => {
                self.set_twin(&dispatched, || Twin::Answered);
                self.load.record_answer(now);
                // A replica refuses an image much faster than it classifies one, so refusals would make the measured
                // service time too short.
                if status == StatusCode::OK {
                    self.meters.upstream.record(elapsed);
                    if let Some(hedging) = &mut self.hedging {
                        hedging.record_service_time(elapsed);
                    }
                    let work = work_for_answer(work, seen_work, elapsed);
                    self.meters.work.record(work);
                    self.load.record_service_time(elapsed, now);
                    // A request in a full batch costs no more than this one took, so a longer time is wrong.
                    self.load.record_full_work(full_work.map(|full| full.min(elapsed)), work, now);
                }
            }
            Err(failure) => self.handle_failure(dispatched, next_permit, failure, body_deaths, now),
        }
    }

    fn handle_failure(
        &mut self,
        mut dispatched: DispatchedRequest,
        next_permit: Option<PermitSender>,
        failure: AttemptFailure,
        body_deaths: u32,
        now: Instant,
    ) {
        if !matches!(failure, AttemptFailure::Busy | AttemptFailure::Crowded | AttemptFailure::Unused) {
            self.failure_log.record(&dispatched.address, failure, now);
        }
        if matches!(dispatched.twin, Some(Twin::Answered)) {
            return;
        }
        // The request waits for its other attempt, which learns of this failure when it fails, too.
        if self.set_twin(&dispatched, || Twin::Failed(dispatched.address.clone(), failure, body_deaths)) {
            return;
        }
        // If the channel is missing or closed, the client has left, and nothing waits for another attempt.
        let Some(next_permit) = next_permit.filter(|permit| !permit.is_closed()) else { return };
        if let Some(Twin::Failed(address, failure, body_deaths)) = dispatched.twin.take() {
            dispatched.failed.record(&address, failure);
            dispatched.failed.record_body_deaths(body_deaths);
        }
        dispatched.failed.record(&dispatched.address, failure);
        dispatched.failed.record_body_deaths(body_deaths);
        let decision = retry::decide(&dispatched.failed, failure, || self.retry_budget.withdraw(now));
        let entry = dispatched.requeued(next_permit, failure);
        match decision {
            RetryDecision::Retry => {
                count_retry(failure);
                self.queue.requeue(entry);
            }
            RetryDecision::RetryAfter(pause) => {
                count_retry(failure);
                let events = self.events.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(pause).await;
                    // If the worker has ended, it takes no request.
                    let _ended = events.send(WorkerEvent::Paused(entry));
                });
            }
            RetryDecision::GiveUp(reason) => entry.request.refuse(reason.error()),
        }
    }

    /// Returns a request to the queue after its pause.
    fn end_pause(&mut self, entry: QueueEntry<QueuedRequest>) {
        if !entry.request.is_abandoned() {
            self.queue.requeue(entry);
        } else if entry.deadline <= Instant::now() {
            // Its withdrawal found it in no queue.
            self.meters.expired.increment(1);
        }
    }
}

/// The time that a replica worked for an answer that arrived `elapsed` after the dispatch of its request: the `reported`
/// time, or else the time `seen` here, which includes the replica's work for other dispatchers.
fn work_for_answer(reported: Option<Duration>, seen: Option<Duration>, elapsed: Duration) -> Duration {
    // A replica cannot have worked for a request before the request was sent, so a longer time is an error.
    reported.map(|work| work.min(elapsed)).or(seen).unwrap_or(elapsed)
}

/// Refuses a request at admission. The error tells the client to send the request again after `retry_after`.
fn refuse(request: QueuedRequest, code: Code, message: &str, retry_after: Duration) {
    let retry_after = retry_after::spread(retry_after, rand::random());
    let message = format!("{message}; retry in {:.0} s", retry_after.as_secs_f64().ceil().max(1.0));
    request.refuse(RequestError::new(code, message).retry_after(retry_after));
}

#[cfg(test)]
mod tests;
