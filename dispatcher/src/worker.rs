//! The worker: the one task that owns the queue, the rotation of replicas and the idle connections. Other tasks send it
//! messages. It admits requests, gives out permits, and handles the reports about attempts. It decides nothing by
//! itself: pure code decides about admission, retries and the choice of a replica.

use crate::discovery::Published;
use crate::failure::AttemptFailure;
use crate::failure_log::FailureLog;
use crate::forward;
use crate::hedge::{Candidate, Hedging, NextHedge};
use crate::load_statistics::LoadStatistics;
use crate::meters::{ShedReason, WorkerMeters, count_retry, count_shed};
use crate::permit::{Assignment, AttemptReport, Permit, PermitSender};
use crate::pool::Pool;
use crate::queue::{Queue, QueueEntry, SequenceNumber};
use crate::request::{DispatchedRequest, QueuedRequest, Twin};
use crate::retry::{self, RetryDecision};
use crate::retry_budget::RetryBudget;
use crate::rotation::{Address, Balance, Constraints, HealthSignal, ProbeEffect, Replica, ReplicaState, Rotation};
use crate::status::Status;
use admission::{Admission, Order, QueueState, TimeLeft, retry_after};
use hyper::StatusCode;
use service::wire::{Code, RequestError};
use std::collections::{BTreeSet, HashMap};
use std::pin::Pin;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// A replica is checked for liveness when it has held requests for this number of service times, and for at least
/// [`MIN_STALL_TIMEOUT`], without answering any.
const STALL_SERVICE_TIMES: u32 = 4;

/// The shortest time for which a replica must hold requests without answering any before it is checked for liveness.
const MIN_STALL_TIMEOUT: Duration = Duration::from_millis(300);

/// The longest time that a new or ejected replica may take to answer a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest time that a replica may take to answer a liveness check. The sum of this time and [`MIN_STALL_TIMEOUT`]
/// is less than a second, so a replica with a short service time that hangs is ejected within a second.
const LIVENESS_CHECK_TIMEOUT: Duration = Duration::from_millis(400);

/// The largest number of [`Message`]s that may wait for the worker. If there are as many, the task of a further request
/// waits until there is room.
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
    /// The worker admits the request to the queue, or refuses it.
    Submit(QueueEntry<QueuedRequest>),
    /// The worker sets the gauges and sends its status on the channel.
    Status(oneshot::Sender<Status>),
    /// The worker sends the address of a ready replica, or `None` if there is none.
    ReadyReplica(oneshot::Sender<Option<Address>>),
}

/// A message on the channel without a bound. Destructors send these messages, and a destructor cannot wait for room in
/// a channel.
#[derive(Debug)]
enum WorkerEvent {
    /// A request is no longer wanted: its client has left, or its deadline has passed.
    Withdrawn(SequenceNumber),
    /// A probe or a liveness check has ended. It has the capacity of a ready replica, or `None`.
    Probed(Address, Option<usize>),
    /// Discovery has published a new set of replicas.
    Published(BTreeSet<Address>),
}

/// The senders of the channels to the worker.
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    /// The channel for messages, with room for [`MAX_MESSAGES`].
    pub messages: mpsc::Sender<Message>,
    events: mpsc::UnboundedSender<WorkerEvent>,
}

impl WorkerHandle {
    /// Removes a request whose client has left, or whose deadline has passed, from the queue.
    pub fn withdraw(&self, sequence_number: SequenceNumber) {
        // If the worker has ended, it holds no requests.
        let _ended = self.events.send(WorkerEvent::Withdrawn(sequence_number));
    }
}

/// A function that asks the replica at an address whether it is ready, and waits for the answer for the given time at
/// most. The result is the capacity of a ready replica, or `None`.
pub type ProbeFn = fn(Address, Duration) -> Pin<Box<dyn Future<Output = Option<usize>> + Send>>;

/// Starts the worker on the current runtime. It ends when every [`WorkerHandle`] is gone and every request is answered.
pub fn spawn(settings: DispatchSettings, published: Published) -> WorkerHandle {
    spawn_with(settings, published, |address, timeout| Box::pin(async move { forward::probe(&address, timeout).await }))
}

fn spawn_with(settings: DispatchSettings, mut published: Published, probe: ProbeFn) -> WorkerHandle {
    let (messages, inbox) = mpsc::channel(MAX_MESSAGES);
    // These two channels have no bound, because a destructor cannot wait for room. Admitted requests bound their
    // length: each request, attempt and probe sends one message. Published sets are rare.
    let (events, event_inbox) = mpsc::unbounded_channel();
    let (reports, report_inbox) = mpsc::unbounded_channel();
    let mut worker = Worker::new(settings, probe, events.clone(), reports);
    worker.rotation.publish(&published.borrow_and_update().clone(), Instant::now());
    tokio::spawn(worker.run(inbox, event_inbox, report_inbox));
    tokio::spawn(pass_on_published_sets(published, events.clone()));
    WorkerHandle { messages, events }
}

/// Sends the worker every set that discovery publishes. Returns at once if the list of replicas is static, because such
/// a list has no publisher.
async fn pass_on_published_sets(mut published: Published, events: mpsc::UnboundedSender<WorkerEvent>) {
    while published.changed().await.is_ok() {
        let set = published.borrow_and_update().clone();
        if events.send(WorkerEvent::Published(set)).is_err() {
            return;
        }
    }
}

struct Worker {
    settings: DispatchSettings,
    queue: Queue<QueuedRequest>,
    rotation: Rotation,
    /// The requests that have a permit, by the id of the permit.
    dispatched: HashMap<u64, DispatchedRequest>,
    last_permit_id: u64,
    /// The requests that may get a second replica; `None` without `--hedge`.
    hedging: Option<Hedging>,
    pool: Pool,
    retry_budget: RetryBudget,
    load: LoadStatistics,
    failure_log: FailureLog,
    meters: WorkerMeters,
    probe: ProbeFn,
    /// The channel on which probes send their results. Each probe has a clone of it.
    events: mpsc::UnboundedSender<WorkerEvent>,
    /// The channel on which permits send their reports. Each permit has a clone of it.
    reports: mpsc::UnboundedSender<AttemptReport>,
}

impl Worker {
    fn new(
        settings: DispatchSettings,
        probe: ProbeFn,
        events: mpsc::UnboundedSender<WorkerEvent>,
        reports: mpsc::UnboundedSender<AttemptReport>,
    ) -> Self {
        let now = Instant::now();
        Self {
            queue: Queue::new(settings.order, settings.queue_length),
            rotation: Rotation::new(settings.balance),
            dispatched: HashMap::new(),
            last_permit_id: 0,
            hedging: settings.hedge.then(Hedging::default),
            pool: Pool::default(),
            retry_budget: RetryBudget::new(now),
            load: LoadStatistics::new(settings.deadline, now),
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
        mut events: mpsc::UnboundedReceiver<WorkerEvent>,
        mut reports: mpsc::UnboundedReceiver<AttemptReport>,
    ) {
        let sleep = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(sleep);
        let mut has_senders = true;
        while has_senders || !self.dispatched.is_empty() || !self.queue.is_empty() {
            // Reports are received first, because they free slots.
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
            // All reports that have arrived are handled before the next dispatch. Otherwise a request could go to a
            // replica with many requests, although a report has just freed a slot of an idle one.
            while let Ok(report) = reports.try_recv() {
                self.handle_report(report);
            }
            let now = Instant::now();
            self.dispatch_waiting(now);
            self.start_due_probes(now);
            self.pool.close_expired(now);
            let next_hedge = self.hedge_due_requests(now);
            let next_wake_up = self.rotation.next_wake_up(now, self.stall_timeout());
            let wake_ups = [next_wake_up, self.pool.next_expiry(), next_hedge];
            let wake_up = wake_ups.into_iter().flatten().min();
            let wake_up = wake_up.map_or(now + LONGEST_SLEEP, |at| at.max(now));
            // The timer is set only if it has expired, or if it would expire too late. Setting it for every request
            // would cost more than the wake-ups that find nothing to do.
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
                self.meters.set_gauges(&self.queue, &self.rotation, &self.load, now);
                // The client that asked for the status may have left.
                let _left = reply.send(Status::new(&self.queue, &self.rotation, &self.load, now));
            }
            Message::ReadyReplica(reply) => {
                let mut replicas = self.rotation.replicas().iter();
                let ready = replicas.find(|replica| replica.state == ReplicaState::Ready);
                let _left = reply.send(ready.map(|replica| replica.address.clone()));
            }
        }
    }

    fn handle_event(&mut self, event: WorkerEvent) {
        match event {
            WorkerEvent::Withdrawn(sequence_number) => self.withdraw(sequence_number),
            WorkerEvent::Probed(address, capacity) => self.record_probe(&address, capacity),
            WorkerEvent::Published(addresses) => {
                tracing::info!(replicas = addresses.len(), "discovery has published a new set of replicas");
                self.rotation.publish(&addresses, Instant::now());
                self.pool.retain(&addresses);
            }
        }
    }

    /// The time for which a replica may hold requests without answering any before it is checked for liveness.
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
            // If the worker has ended, it needs no result.
            let _ended = events.send(WorkerEvent::Probed(address, capacity));
        });
    }

    fn record_probe(&mut self, address: &Address, capacity: Option<usize>) {
        match self.rotation.record_probe(address, capacity, Instant::now(), rand::random()) {
            ProbeEffect::Joined => tracing::info!(%address, capacity, "a replica is ready and takes requests"),
            ProbeEffect::Stalled => {
                tracing::warn!(
                    %address,
                    "a replica answers neither requests nor liveness checks; its requests move to other replicas, \
                     as far as attempts and retry budget allow: see the log of that replica"
                );
                self.requeue_stalled(address);
            }
            ProbeEffect::Unchanged => {}
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
        let state = self.queue_state(now);
        let time_left = TimeLeft {
            objective: entry.objective.saturating_duration_since(now),
            deadline: entry.deadline.saturating_duration_since(now),
        };
        if let Admission::Refuse { retry_after } = Admission::decide(self.settings.order, &state, time_left) {
            let message = format!("{} requests are waiting, too many to answer this one in time", self.queue.len());
            count_shed(ShedReason::Overloaded);
            return refuse(entry.request, Code::Overloaded, &message, retry_after);
        }
        entry.request.waited_for_slot = !state.slot_is_free;
        match self.queue.push(entry) {
            Ok(()) => {
                self.meters.enqueued.increment(1);
                if state.slot_is_free {
                    // The slot is taken before the next admission, which would otherwise count it as free, too.
                    self.dispatch_waiting(now);
                }
            }
            Err(refused) => {
                let (waiting, capacity) = (self.queue.len(), self.rotation.totals().capacity);
                let message = format!("the queue is full with {waiting} requests");
                let retry_after = retry_after::queue_full(waiting, capacity, self.load.measured_service_time());
                count_shed(ShedReason::Length);
                refuse(refused.request, Code::QueueFull, &message, retry_after);
            }
        }
    }

    /// The state of the queue and the replicas on which admission depends.
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

    /// Gives permits to waiting requests until none of them finds a replica with a free slot.
    fn dispatch_waiting(&mut self, now: Instant) {
        let service_time = self.load.service_time();
        self.queue.demote(now, service_time);
        while !self.queue.is_empty() && self.rotation.has_free_slot(now) {
            let rotation = &mut self.rotation;
            // A request whose client has left is passed over. Its withdrawal has been sent and will remove it.
            let find_replica = |request: &QueuedRequest| {
                if request.is_abandoned() { None } else { rotation.pick(request.constraints(), now) }
            };
            let Some((entry, address)) = self.queue.pop(now, service_time, find_replica) else { break };
            self.dispatch(entry, address, now);
        }
    }

    fn dispatch(&mut self, entry: QueueEntry<QueuedRequest>, address: Address, now: Instant) {
        let QueueEntry { sequence_number, objective, deadline, request } = entry;
        let QueuedRequest { accepted, permit, waited_for_slot, failed } = request;
        self.meters.queue_wait.record(now.saturating_duration_since(accepted));
        self.load.record_dispatch(waited_for_slot, objective, now);
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
                objective,
                deadline,
                accepted,
                failed,
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
            connection: self.pool.take(&dispatched.address, now),
            waited: now.saturating_duration_since(dispatched.accepted),
            deadline: dispatched.deadline,
            stall_notice,
            hedge,
            reports: self.reports.clone(),
        };
        self.dispatched.insert(self.last_permit_id, dispatched);
        Permit::new(assignment)
    }

    /// Sends the requests whose objective is in danger to a second replica, too, as far as slots are free, no request
    /// waits and the retry budget permits it. Returns the instant at which the next one becomes due.
    fn hedge_due_requests(&mut self, now: Instant) -> Option<Instant> {
        loop {
            let hedging = self.hedging.as_mut()?;
            let candidate = match hedging.next(now, |permit_id| self.dispatched.contains_key(&permit_id)) {
                NextHedge::None => return None,
                NextHedge::At(due) => return Some(due),
                NextHedge::Due(candidate) => candidate,
            };
            // A candidate that stays due is looked at again at the next event, such as a slot that becomes free.
            if !self.queue.is_empty() || !self.rotation.has_free_slot(now) || !self.hedge(candidate.permit_id, now) {
                return None;
            }
            self.hedging.as_mut().expect("it was there above").remove_first();
        }
    }

    /// Gives the request with this permit a second replica. Returns false if no other replica has a free slot, or the
    /// retry budget is used up, and true if the request needs no further look.
    fn hedge(&mut self, permit_id: u64, now: Instant) -> bool {
        let first = self.dispatched.get_mut(&permit_id).expect("the candidate is at a replica");
        let Some(sender) = first.hedge.take_if(|sender| !sender.is_closed()) else { return true };
        let is_other = |replica: &Replica| replica.state == ReplicaState::Ready && replica.address != first.address;
        let picked = if self.rotation.replicas().iter().any(is_other) && self.retry_budget.permits(now) {
            // While another replica is ready, the one that was tried is passed over. A request that is hedged has no
            // failed attempts.
            let tried = std::slice::from_ref(&first.address);
            self.rotation.pick(Constraints { tried, is_suspect: false }, now)
        } else {
            None
        };
        let Some(address) = picked else {
            first.hedge = Some(sender);
            return false;
        };
        self.retry_budget.withdraw(now);
        let second = DispatchedRequest {
            sequence_number: first.sequence_number,
            objective: first.objective,
            deadline: first.deadline,
            accepted: first.accepted,
            failed: first.failed.clone(),
            address,
            stall_notice: None,
            hedge: None,
            twin: Some(Twin::Running(permit_id)),
        };
        let permit = self.give_permit(second, None, now);
        // If the client has just left, the permit is dropped, and its destructor frees the slot by a report.
        if sender.send(permit).is_ok() {
            let second = self.last_permit_id;
            let first = self.dispatched.get_mut(&permit_id).expect("the candidate is at a replica");
            first.twin = Some(Twin::Running(second));
            self.meters.hedges.increment(1);
        }
        true
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
        let AttemptReport { permit_id, result, capacity, work, full_work, elapsed, connection, .. } = report;
        let (body_deaths, next_permit) = (report.body_deaths, report.next_permit);
        let dispatched = self.dispatched.remove(&permit_id).expect("every permit reports exactly once");
        let now = Instant::now();
        let signal = match result {
            Ok(_) => HealthSignal::Answered { capacity },
            Err(failure) => failure.health_signal(elapsed),
        };
        let was_suspect = dispatched.failed.deaths() > 0;
        let seen_work = self.rotation.release(&dispatched.address, was_suspect, signal, now, rand::random());
        if let Some(connection) = connection
            && self.rotation.contains(&dispatched.address)
        {
            self.pool.put(&dispatched.address, connection, now);
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
        if !matches!(failure, AttemptFailure::Busy | AttemptFailure::Unused) {
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
        let entry = dispatched.requeued(next_permit);
        match decision {
            RetryDecision::Retry => {
                count_retry(failure);
                self.queue.requeue(entry);
            }
            RetryDecision::GiveUp(reason) => entry.request.refuse(reason.error()),
        }
    }

    /// Tells the other attempt of a hedged request how `ended` ended. Returns whether there is one in progress.
    fn set_twin(&mut self, ended: &DispatchedRequest, state: impl FnOnce() -> Twin) -> bool {
        let Some(Twin::Running(twin)) = ended.twin else { return false };
        // If the client left before the second attempt began, the first one does not know of it and may be gone.
        let Some(twin) = self.dispatched.get_mut(&twin) else { return false };
        twin.twin = Some(state());
        true
    }

    /// Sends the attempts at a stalled replica their stall notices, as far as attempts and retry budget allow, the
    /// earliest dispatch first. The requests return to the queue when the attempts have reported.
    fn requeue_stalled(&mut self, address: &Address) {
        let now = Instant::now();
        let at_replica = self.dispatched.iter().filter(|(_, dispatched)| dispatched.address == *address);
        let mut permit_ids: Vec<u64> = at_replica.map(|(&permit_id, _)| permit_id).collect();
        permit_ids.sort_unstable();
        for permit_id in permit_ids {
            let dispatched = self.dispatched.get_mut(&permit_id).expect("no entry was removed since its id was read");
            // The channel is `None` if the attempt has had its notice, and closed if the client has left.
            if dispatched.stall_notice.as_ref().is_none_or(oneshot::Sender::is_closed)
                || !retry::moves_off_stalled_replica(&dispatched.failed, || self.retry_budget.withdraw(now))
            {
                continue;
            }
            if let Some(stall_notice) = dispatched.stall_notice.take() {
                // An attempt that has just ended does not receive the notice. Its report is on its way.
                let _ended = stall_notice.send(());
            }
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
    let message = format!("{message}; retry in {:.0} s", retry_after.as_secs_f64().ceil().max(1.0));
    request.refuse(RequestError::new(code, message).retry_after(retry_after));
}

#[cfg(test)]
mod tests;
