//! The right to send one request to one replica: a slot there, one attempt, and the report of how the attempt ended. An
//! attempt goes on after its client has left, because the replica computes and its slot is taken.

use crate::failure::Failure;
use crate::forward::{self, AttemptResult, Connection, ReplicaAnswer};
use crate::request::BufferedRequest;
use crate::rotation::Address;
use hyper::StatusCode;
use service::wire::RequestError;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// How long an attempt without a client may go on after the deadline. The replica knows the deadline, but may be in the
/// middle of a computation, and its slot is taken until that ends.
const ABANDONED_GRACE: Duration = Duration::from_secs(1);

/// What a waiting request receives: a permit, or the error that ends the request. Small, because every waiting request
/// has room for one.
pub type PermitResult = Result<Permit, Box<RequestError>>;

/// The worker's end of the channel by which a request receives its next permit.
pub type PermitSender = oneshot::Sender<PermitResult>;

/// The request's end of the channel by which it receives its next permit.
pub type PermitReceiver = oneshot::Receiver<PermitResult>;

/// How an attempt ended, for the worker. Every permit sends exactly one.
#[derive(Debug)]
pub struct AttemptReport {
    /// The permit that is used up.
    pub permit_id: u64,
    /// The status of the answer, or why there was none.
    pub result: Result<StatusCode, Failure>,
    /// The capacity that the replica advertised with its answer.
    pub capacity: Option<usize>,
    /// Time from the permit's use to the attempt's end.
    pub elapsed: Duration,
    /// The connection, if it can be used again.
    pub connection: Option<Connection>,
    /// Sends a request whose attempt failed its next permit, or the error that ends it.
    pub next_permit: Option<PermitSender>,
}

/// The request's times and the replica that a permit is for, and the channels of its attempt.
#[derive(Debug)]
pub struct Assignment {
    /// Names the permit in its [`AttemptReport`].
    pub permit_id: u64,
    /// The replica.
    pub address: Address,
    /// An open connection to the replica, if one is idle.
    pub connection: Option<Connection>,
    /// How long the request has waited.
    pub waited: Duration,
    /// When the client must be answered.
    pub deadline: Instant,
    /// Says that the replica has stalled: the attempt then ends, and the request waits for its next permit.
    pub stall_notice: oneshot::Receiver<()>,
    /// Sends the report to the worker.
    pub reports: mpsc::UnboundedSender<AttemptReport>,
}

/// The right to send one request to one replica. It reports to the worker when it is used up or dropped.
#[derive(Debug)]
pub struct Permit {
    /// `None` once the permit is used.
    assignment: Option<Box<Assignment>>,
}

impl Permit {
    /// A permit for `assignment`.
    pub fn new(assignment: Assignment) -> Self {
        Self { assignment: Some(Box::new(assignment)) }
    }

    /// Sends `request` to the permit's replica.
    ///
    /// # Errors
    /// An attempt without an answer returns the receiver of the request's next permit, or of the error that ends it.
    ///
    /// # Cancel safety
    /// After the future is dropped, the attempt goes on in a task of its own until [`ABANDONED_GRACE`] after the
    /// deadline.
    pub fn send(
        mut self,
        request: Arc<BufferedRequest>,
    ) -> impl Future<Output = Result<ReplicaAnswer, PermitReceiver>> + Send {
        let Assignment { permit_id, address, connection, waited, deadline, stall_notice, reports } =
            *self.assignment.take().expect("only `send` and `drop` take the assignment");
        let (started, reporter) = (Instant::now(), reports.clone());
        let attempt = Box::pin(async move {
            let result = forward::attempt(connection, &address, &request, deadline, waited).await;
            report(&reporter, permit_id, result, started.elapsed())
        });
        RunningAttempt {
            attempt: Some(attempt),
            stall_notice: Some(stall_notice),
            reports,
            permit_id,
            started,
            deadline,
        }
    }

    /// Reports `result` without sending anything, as a simulated replica of a test.
    #[cfg(test)]
    pub fn end(mut self, result: Result<StatusCode, Failure>) -> Result<StatusCode, PermitReceiver> {
        let assignment = self.assignment.take().expect("only `send`, `end` and `drop` take the assignment");
        let answer = result.map(|status| ReplicaAnswer { status, body: bytes::Bytes::new() });
        let result = AttemptResult { answer, capacity: None, connection: None };
        report(&assignment.reports, assignment.permit_id, result, assignment.waited).map(|answer| answer.status)
    }

    /// The permit's assignment.
    #[cfg(test)]
    pub fn assignment(&mut self) -> &mut Assignment {
        self.assignment.as_mut().expect("the permit is not used yet")
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(assignment) = self.assignment.take() {
            let Assignment { permit_id, connection, reports, .. } = *assignment;
            let result = AttemptResult { connection, ..AttemptResult::failed(Failure::Unused) };
            // The client has left, so the request needs no further permit.
            drop(report(&reports, permit_id, result, Duration::ZERO));
        }
    }
}

/// Sends the worker its report. Returns the answer, or the receiver of the request's next permit.
fn report(
    reports: &mpsc::UnboundedSender<AttemptReport>,
    permit_id: u64,
    result: AttemptResult,
    elapsed: Duration,
) -> Result<ReplicaAnswer, PermitReceiver> {
    let AttemptResult { answer, capacity, connection } = result;
    let (result, next_permit, returned) = match answer {
        Ok(answer) => (Ok(answer.status), None, Ok(answer)),
        Err(failure) => {
            let (sender, receiver) = oneshot::channel();
            (Err(failure), Some(sender), Err(receiver))
        }
    };
    // A worker that has ended has no slots to free.
    let _ended = reports.send(AttemptReport { permit_id, result, capacity, elapsed, connection, next_permit });
    returned
}

type Attempt = Pin<Box<dyn Future<Output = Result<ReplicaAnswer, PermitReceiver>> + Send>>;

/// An attempt in progress, which a stall notice ends.
struct RunningAttempt {
    /// `None` once the attempt has ended.
    attempt: Option<Attempt>,
    /// `None` once the channel was used or closed. Dropping it tells the worker that the client has left.
    stall_notice: Option<oneshot::Receiver<()>>,
    reports: mpsc::UnboundedSender<AttemptReport>,
    permit_id: u64,
    started: Instant,
    deadline: Instant,
}

impl Future for RunningAttempt {
    type Output = Result<ReplicaAnswer, PermitReceiver>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let attempt = self.attempt.as_mut().expect("a future is not polled after its end");
        // The attempt comes first: if it ends at the same time as the notice arrives, its own end counts.
        let mut polled = attempt.as_mut().poll(context);
        if polled.is_pending()
            && let Some(stall_notice) = &mut self.stall_notice
            && let Poll::Ready(notice) = Pin::new(stall_notice).poll(context)
        {
            self.stall_notice = None;
            // An error means that the worker has ended; then the attempt goes on.
            if notice.is_ok() {
                let stalled = AttemptResult::failed(Failure::Stalled);
                polled = Poll::Ready(report(&self.reports, self.permit_id, stalled, self.started.elapsed()));
            }
        }
        if polled.is_ready() {
            self.attempt = None;
        }
        polled
    }
}

impl Drop for RunningAttempt {
    fn drop(&mut self) {
        let Some(attempt) = self.attempt.take() else { return };
        let (reports, permit_id, started) = (self.reports.clone(), self.permit_id, self.started);
        let latest = self.deadline + ABANDONED_GRACE;
        tokio::spawn(async move {
            if tokio::time::timeout_at(latest.into(), attempt).await.is_err() {
                let expired = AttemptResult::failed(Failure::Deadline);
                // The client has left, so the request needs no further permit.
                drop(report(&reports, permit_id, expired, started.elapsed()));
            }
        });
    }
}
