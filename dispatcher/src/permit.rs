//! The right to send one request to one replica. A permit stands for a slot of the replica, allows one attempt, and
//! reports to the worker how the attempt ended. An attempt goes on after its client has left, because the replica still
//! computes and the slot stays taken.

use crate::failure::AttemptFailure;
use crate::forward::{self, AttemptResult, ReplicaAnswer, ReplicaConnection, SlotUse};
use crate::poison::PoisonList;
use crate::request::BufferedRequest;
use crate::rotation::{Address, SlotNews};
use crate::timeline::{self, Timeline};
use crate::worker::ReportSender;
use hyper::StatusCode;
use service::wire::RequestError;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// The longest time that an attempt whose client has left may go on after the deadline. The replica knows the deadline,
/// but may be in the middle of a forward pass, and the slot stays taken until that pass ends.
const ABANDONED_GRACE: Duration = Duration::from_secs(1);

/// The message to a waiting request: a permit, or the error that ends the request. The type is small, because every
/// waiting request has memory for one.
pub type PermitResult = Result<Permit, Box<RequestError>>;

/// The worker's end of the channel on which a request receives its next permit.
pub type PermitSender = oneshot::Sender<PermitResult>;

/// The request's end of the channel on which the request receives its next permit.
pub type PermitReceiver = oneshot::Receiver<PermitResult>;

/// The message to the worker about the end of an attempt. Every permit sends exactly one.
#[derive(Debug)]
pub struct AttemptReport {
    /// The id of the permit that the attempt has used up.
    pub permit_id: u64,
    /// The status of the answer, or the failure of an attempt without an answer.
    pub result: Result<StatusCode, AttemptFailure>,
    /// The capacity that the replica advertised with its answer; `None` without an answer or without the header.
    pub capacity: Option<usize>,
    /// What the replica told about its slots with its answer.
    pub slots: SlotNews,
    /// The time that the replica says it worked for its answer; `None` if it says none.
    pub work: Option<Duration>,
    /// The time that the replica says a request costs it if its batches are full; `None` if it says none.
    pub full_work: Option<Duration>,
    /// The number of replicas that the body of the request has brought down, also for other clients; 0 unless the
    /// attempt has ended with the death of its replica.
    pub body_deaths: u32,
    /// Time from the start of the attempt to its end.
    pub elapsed: Duration,
    /// The connection of the attempt; `None` if another request cannot use it.
    pub connection: Option<ReplicaConnection>,
    /// The channel on which a request whose attempt failed receives its next permit or an error; `None` after an
    /// answer.
    pub next_permit: Option<PermitSender>,
}

/// The contents of a permit: the replica, the times of the request, and the channels of the attempt.
#[derive(Debug)]
pub struct Assignment {
    /// The id of the permit, which its [`AttemptReport`] repeats.
    pub permit_id: u64,
    /// The address of the replica.
    pub address: Address,
    /// An open connection to the replica; `None` if the pool had none.
    pub connection: Option<ReplicaConnection>,
    /// The time from the acceptance of the request to its dispatch.
    pub waited: Duration,
    /// The instant by which the client must be answered.
    pub deadline: Instant,
    /// What the request tells the replica about its slot.
    pub slot: SlotUse,
    /// Receives a message when the replica has stalled. The attempt then ends, and the request waits for its next
    /// permit.
    pub stall_notice: oneshot::Receiver<()>,
    /// Receives a permit for a second replica when the answer is slow; `None` if there must be no second one.
    pub hedge: Option<oneshot::Receiver<Permit>>,
    /// The way of the report to the worker.
    pub reports: ReportSender,
}

/// The right to send one request to one replica. The permit reports to the worker when its attempt ends, or when it is
/// dropped unused.
#[derive(Debug)]
pub struct Permit {
    /// The contents of the permit; `None` once the permit is used.
    assignment: Option<Box<Assignment>>,
}

impl Permit {
    /// A permit for `assignment`.
    pub fn new(assignment: Assignment) -> Self {
        Self { assignment: Some(Box::new(assignment)) }
    }

    /// Sends `request` to the permit's replica. `poison` learns whether the replica has survived the body.
    ///
    /// # Errors
    /// If the attempt fails, returns the channel on which the request receives its next permit, or the error that ends
    /// it.
    ///
    /// # Cancel safety
    /// After the future is dropped, the attempt goes on in a task of its own, until [`ABANDONED_GRACE`] after the
    /// deadline at the latest.
    pub fn send(mut self, request: Arc<BufferedRequest>, poison: Arc<PoisonList>) -> RunningAttempt {
        let Assignment { permit_id, address, connection, waited, deadline, slot, stall_notice, hedge, reports } =
            *self.assignment.take().expect("only `send` and `drop` take the assignment, and both consume the permit");
        let started = Instant::now();
        let hedge = hedge.map(|permit| Box::new(Hedge { permit, request: request.clone(), poison: poison.clone() }));
        let logged =
            request.timeline.clone().map(|timeline| LoggedAttempt { timeline, replica: address.clone(), started });
        let logged_end = logged.clone();
        let attempt = Box::pin(async move {
            let result = forward::attempt(connection, &address, &request, deadline, waited, slot).await;
            LoggedAttempt::end(logged_end, result.answer.as_ref().map(|answer| answer.status));
            let body_deaths = match &result.answer {
                Ok(answer) if answer.shows_that_body_was_processed() => {
                    poison.record_answer(request.body.pieces());
                    0
                }
                Err(AttemptFailure::Died) => poison.record_death(request.body.pieces(), started, Instant::now()),
                Ok(_) | Err(_) => 0,
            };
            (result, body_deaths)
        });
        RunningAttempt {
            logged,
            attempt: Some(attempt),
            stall_notice: Some(stall_notice),
            hedge,
            second: None,
            reports,
            permit_id,
            started,
            deadline,
        }
    }

    /// Reports `result` without sending anything. Tests call this function in the place of an attempt.
    #[cfg(test)]
    pub fn end(mut self, result: Result<StatusCode, AttemptFailure>) -> Result<StatusCode, PermitReceiver> {
        let Assignment { permit_id, waited, reports, .. } = self.take_assignment();
        report(&reports, permit_id, test_result(result), 0, waited).map(|answer| answer.status)
    }

    /// Like [`Permit::end`], for an attempt whose client has left.
    #[cfg(test)]
    pub fn end_abandoned(mut self, result: Result<StatusCode, AttemptFailure>) {
        let Assignment { permit_id, waited, reports, .. } = self.take_assignment();
        report_abandoned(&reports, permit_id, test_result(result), 0, waited);
    }

    #[cfg(test)]
    fn take_assignment(&mut self) -> Assignment {
        let assignment = self.assignment.take();
        *assignment.expect("only `send`, `end` and `drop` take the assignment, and all consume the permit")
    }

    /// The contents of the permit.
    #[cfg(test)]
    pub fn assignment(&mut self) -> &mut Assignment {
        self.assignment.as_mut().expect("the permit is not used yet")
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(assignment) = self.assignment.take() {
            let Assignment { permit_id, connection, reports, .. } = *assignment;
            let result = AttemptResult { connection, ..AttemptResult::failed(AttemptFailure::Unused) };
            report_abandoned(&reports, permit_id, result, 0, Duration::ZERO);
        }
    }
}

/// The result of an attempt that a test does not make.
#[cfg(test)]
fn test_result(result: Result<StatusCode, AttemptFailure>) -> AttemptResult {
    let answer = result.map(|status| ReplicaAnswer {
        status,
        kind: forward::BodyKind::Json,
        json_length: None,
        body: bytes::Bytes::new(),
    });
    let slots = SlotNews::default();
    AttemptResult { answer, capacity: None, slots, work: None, full_work: None, connection: None }
}

/// Sends the worker the report about an attempt. Returns the answer, or the channel on which the request receives its
/// next permit.
fn report(
    reports: &ReportSender,
    permit_id: u64,
    result: AttemptResult,
    body_deaths: u32,
    elapsed: Duration,
) -> Result<ReplicaAnswer, PermitReceiver> {
    let (answer, mut report) = split(permit_id, result, body_deaths, elapsed);
    let returned = answer.map_err(|_failure| {
        let (sender, receiver) = oneshot::channel();
        report.next_permit = Some(sender);
        receiver
    });
    reports.send(report);
    returned
}

/// Sends the worker the report about an attempt whose client has left. The worker may handle it before this function
/// returns, so the report has no channel for a next permit. Otherwise the request would be sent again.
fn report_abandoned(
    reports: &ReportSender,
    permit_id: u64,
    result: AttemptResult,
    body_deaths: u32,
    elapsed: Duration,
) {
    reports.send(split(permit_id, result, body_deaths, elapsed).1);
}

/// The answer in the `result` of an attempt, and the report about it.
fn split(
    permit_id: u64,
    result: AttemptResult,
    body_deaths: u32,
    elapsed: Duration,
) -> (Result<ReplicaAnswer, AttemptFailure>, AttemptReport) {
    let AttemptResult { answer, capacity, slots, work, full_work, connection } = result;
    let result = answer.as_ref().map(|answer| answer.status).map_err(|failure| *failure);
    let next_permit = None;
    let report = AttemptReport {
        permit_id,
        result,
        capacity,
        slots,
        work,
        full_work,
        body_deaths,
        elapsed,
        connection,
        next_permit,
    };
    (answer, report)
}

/// The future of an attempt. The output is its result, and the number of replicas that the body has brought down.
type Attempt = Pin<Box<dyn Future<Output = (AttemptResult, u32)> + Send>>;

/// An attempt in progress, or two attempts if the request is hedged. A stall notice ends an attempt early. The output is
/// the first answer, or after the last failure the channel on which the request receives its next permit.
pub struct RunningAttempt {
    /// The future of the attempt; `None` once it has ended.
    attempt: Option<Attempt>,
    /// The channel for the stall notice; `None` once it was used or closed. A dropped channel tells the worker that
    /// the client has left.
    stall_notice: Option<oneshot::Receiver<()>>,
    /// The way to a second attempt; `None` if the request has one or must not have one.
    hedge: Option<Box<Hedge>>,
    /// The attempt at a second replica; `None` without a hedge, and once that attempt has failed.
    second: Option<Box<Self>>,
    reports: ReportSender,
    permit_id: u64,
    started: Instant,
    deadline: Instant,
    /// The record of the attempt for the logs; `None` if no log needs it.
    logged: Option<LoggedAttempt>,
}

/// The record of an attempt for the logs.
#[derive(Debug, Clone)]
struct LoggedAttempt {
    timeline: Arc<Timeline>,
    replica: Address,
    started: Instant,
}

impl LoggedAttempt {
    /// Adds the attempt to the timeline of its request.
    fn end(logged: Option<Self>, result: Result<StatusCode, &AttemptFailure>) {
        if let Some(Self { timeline, replica, started }) = logged {
            let (ended, result) = (Instant::now(), result.map_err(|failure| *failure));
            timeline.record(timeline::Attempt { replica, started, ended, result });
        }
    }
}

/// The channel for a second permit, and what a second attempt needs.
struct Hedge {
    permit: oneshot::Receiver<Permit>,
    request: Arc<BufferedRequest>,
    poison: Arc<PoisonList>,
}

impl RunningAttempt {
    /// Polls the attempt and its stall notice. The attempt is dropped once it has ended.
    fn poll_first(&mut self, context: &mut Context<'_>) -> Poll<Result<ReplicaAnswer, PermitReceiver>> {
        let Some(attempt) = &mut self.attempt else { return Poll::Pending };
        // The attempt is polled before the notice, so that an answer that arrives together with the notice is not lost.
        let mut polled = attempt.as_mut().poll(context).map(|(result, body_deaths)| {
            report(&self.reports, self.permit_id, result, body_deaths, self.started.elapsed())
        });
        if polled.is_pending()
            && let Some(stall_notice) = &mut self.stall_notice
            && let Poll::Ready(notice) = Pin::new(stall_notice).poll(context)
        {
            self.stall_notice = None;
            // An error means that the worker has ended. The attempt then goes on, because it may still be answered.
            if notice.is_ok() {
                LoggedAttempt::end(self.logged.take(), Err(&AttemptFailure::Stalled));
                let stalled = AttemptResult::failed(AttemptFailure::Stalled);
                polled = Poll::Ready(report(&self.reports, self.permit_id, stalled, 0, self.started.elapsed()));
            }
        }
        if polled.is_ready() {
            self.attempt = None;
        }
        polled
    }

    /// Polls the first attempt and the second.
    fn poll_both(&mut self, context: &mut Context<'_>) -> Poll<Result<ReplicaAnswer, PermitReceiver>> {
        let first = self.poll_first(context);
        if matches!(first, Poll::Ready(Ok(_))) {
            return first;
        }
        // The permit may have arrived together with the failure of the first attempt.
        self.poll_hedge(context);
        let Some(second) = &mut self.second else { return first };
        // A failure counts only if no other attempt is left. The worker knows that one is, and sends no other permit.
        match Pin::new(second).poll(context) {
            Poll::Ready(Err(_)) if self.attempt.is_some() => {
                self.second = None;
                Poll::Pending
            }
            second => second,
        }
    }

    /// Starts the second attempt if its permit has arrived.
    fn poll_hedge(&mut self, context: &mut Context<'_>) {
        let Some(hedge) = &mut self.hedge else { return };
        if let Poll::Ready(permit) = Pin::new(&mut hedge.permit).poll(context) {
            let hedge = self.hedge.take().expect("it was there above");
            // An error means that the worker sends no permit any more.
            let permit = permit.ok().filter(|_| hedge.poison.check(hedge.request.body.pieces()).is_ok());
            self.second = permit.map(|permit| Box::new(permit.send(hedge.request, hedge.poison)));
        }
    }
}

impl Future for RunningAttempt {
    type Output = Result<ReplicaAnswer, PermitReceiver>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.poll_both(context);
        if matches!(polled, Poll::Ready(Ok(_))) {
            // The request has its answer, so that an attempt which goes on is none of its failures.
            self.logged = None;
            if let Some(second) = &mut self.second {
                second.logged = None;
            }
        }
        polled
    }
}

impl Drop for RunningAttempt {
    fn drop(&mut self) {
        let Some(attempt) = self.attempt.take() else { return };
        // The log of the request is written before the attempt ends, and would otherwise lack it.
        let is_late = Instant::now() >= self.deadline;
        let failure = if is_late { AttemptFailure::Deadline } else { AttemptFailure::ClientGone };
        LoggedAttempt::end(self.logged.take(), Err(&failure));
        let (reports, permit_id, started) = (self.reports.clone(), self.permit_id, self.started);
        let latest = self.deadline + ABANDONED_GRACE;
        tokio::spawn(async move {
            let expired = |_elapsed| (AttemptResult::failed(AttemptFailure::Deadline), 0);
            let ended = tokio::time::timeout_at(latest.into(), attempt).await;
            let (result, body_deaths) = ended.unwrap_or_else(expired);
            report_abandoned(&reports, permit_id, result, body_deaths, started.elapsed());
        });
    }
}
