//! One attempt at one replica: sends the request's body as the client sent it, and classifies the answer. Knows nothing
//! of the queue, and does not decide whether the request is tried again.

mod answer;
mod classify;
mod connection;
mod headers;
#[cfg(test)]
mod oracle;
mod request_head;

pub use connection::ReplicaConnection;
pub use headers::BodyKind;

use crate::failure::AttemptFailure;
use crate::request::{BufferedRequest, Endpoint};
use crate::rotation::{Address, SlotNews};
use answer::Answer;
use bytes::Bytes;
use connection::{ExchangeError, OpenError};
use hyper::StatusCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time for which an attempt waits when this machine has no socket for it. Without the pause, the request would be
/// tried again and again without end.
const NO_SOCKET_PAUSE: Duration = Duration::from_millis(100);

/// The pause after a replica has closed a new connection without an answer. A process that dies closes its connections
/// and its listener within this time.
const CLOSED_PAUSE: Duration = Duration::from_millis(10);

/// The time for which a further connection, on which nothing is sent, is watched. If the replica closes it, too, the
/// request is not the cause.
const CLOSED_WATCH: Duration = Duration::from_millis(20);

/// A replica's answer, which the client receives unchanged.
#[derive(Debug, Clone)]
pub struct ReplicaAnswer {
    /// The status: 200, a 4xx status, or the replica's own 504.
    pub status: StatusCode,
    /// The kind of the body, JSON unless it is binary data of the Open Inference Protocol.
    pub kind: BodyKind,
    /// The number of bytes of the JSON at the start of binary data; `None` if the replica says none.
    pub json_length: Option<u64>,
    /// The body.
    pub body: Bytes,
}

/// The result of an attempt.
#[derive(Debug)]
pub struct AttemptResult {
    /// The answer, or the failure of an attempt without an answer.
    pub answer: Result<ReplicaAnswer, AttemptFailure>,
    /// The capacity that the replica advertised with its answer; `None` if there was none.
    pub capacity: Option<usize>,
    /// What the replica told about its slots.
    pub slots: SlotNews,
    /// The time that the replica says it worked for its answer; `None` if it says none.
    pub work: Option<Duration>,
    /// The time that the replica says a request costs it if its batches are full; `None` if it says none.
    pub full_work: Option<Duration>,
    /// The connection of the attempt; `None` if another request cannot use it.
    pub connection: Option<ReplicaConnection>,
}

impl AttemptResult {
    /// The result of an attempt that received no answer and leaves no usable connection.
    pub fn failed(failure: AttemptFailure) -> Self {
        Self {
            answer: Err(failure),
            capacity: None,
            slots: SlotNews::default(),
            work: None,
            full_work: None,
            connection: None,
        }
    }

    /// The result of an attempt that received `answer` over `connection`.
    fn received(answer: Answer, endpoint: &Endpoint, connection: ReplicaConnection) -> Self {
        let headers::AnswerHeaders { capacity, slots, work, full_work, .. } = answer.headers;
        let connection = answer.allows_reuse.then_some(connection);
        Self { answer: classify::classify(answer, endpoint), capacity, slots, work, full_work, connection }
    }
}

/// Sends `request` to the replica `address` over `connection`. If there is no connection, or the replica has closed it,
/// a new one is opened. Headers tell the replica the time until `deadline` and the time that the request has `waited`.
/// The caller ends the attempt at the deadline.
///
/// # Cancel safety
/// Dropping the future closes the connection. The replica sees by this that the client has left.
pub async fn attempt(
    connection: Option<ReplicaConnection>,
    address: &Address,
    request: &Arc<BufferedRequest>,
    deadline: Instant,
    waited: Duration,
) -> AttemptResult {
    let attempt = Attempt { address, request, deadline, waited };
    attempt.run(connection).await.unwrap_or_else(AttemptResult::failed)
}

/// The facts of one attempt.
struct Attempt<'a> {
    address: &'a Address,
    request: &'a BufferedRequest,
    deadline: Instant,
    waited: Duration,
}

impl Attempt<'_> {
    async fn run(&self, idle: Option<ReplicaConnection>) -> Result<AttemptResult, AttemptFailure> {
        let idle = idle.filter(|connection| !connection.is_stale());
        let was_idle = idle.is_some();
        if let Some(idle) = idle {
            match self.exchange(idle).await {
                // The replica may have closed the idle connection just before the request arrived. Sending it again is
                // safe, because classifying is idempotent.
                Err(ExchangeError::Ended { had_begun: false, .. }) => {}
                exchanged => return exchanged.map_err(|error| self.failure(error)),
            }
        }
        let fresh = match ReplicaConnection::open(self.address).await {
            Ok(fresh) => fresh,
            Err(OpenError::NoSocket) => {
                tokio::time::sleep(NO_SOCKET_PAUSE).await;
                return Err(AttemptFailure::NoSocket);
            }
            // The replica had the request on its idle connection, and no longer listens.
            Err(OpenError::Unreachable) if was_idle => return Err(AttemptFailure::Died),
            Err(OpenError::Unreachable) => return Err(AttemptFailure::Connect),
        };
        match self.exchange(fresh).await {
            Err(ExchangeError::Ended { had_begun: false, was_sent: false }) => Err(AttemptFailure::Closed),
            // Boxed, because every attempt would otherwise have memory for this rare case.
            Err(ExchangeError::Ended { had_begun: false, was_sent: true }) => Err(Box::pin(self.why_closed()).await),
            exchanged => exchanged.map_err(|error| self.failure(error)),
        }
    }

    async fn exchange(&self, mut connection: ReplicaConnection) -> Result<AttemptResult, ExchangeError> {
        let remains = self.deadline.saturating_duration_since(Instant::now());
        let head = request_head::write(self.address, self.request, remains, self.waited);
        let answer = connection.exchange(&head, self.request.body.pieces()).await?;
        Ok(AttemptResult::received(answer, &self.request.endpoint, connection))
    }

    /// The failure that `error` stands for, once a byte of the answer has arrived.
    fn failure(&self, error: ExchangeError) -> AttemptFailure {
        let address = self.address;
        match error {
            ExchangeError::Malformed(reason) => {
                tracing::debug!(%address, %reason, "the replica's answer breaks the wire contract");
                AttemptFailure::Invalid
            }
            ExchangeError::Ended { .. } => {
                tracing::debug!(%address, "the connection ended in the middle of the replica's answer");
                AttemptFailure::Broken
            }
        }
    }

    /// Finds out why the replica has closed a new connection after the whole request was written, without an answer. A
    /// replica or a proxy that closes every connection does so without a request, too. If the replica keeps a
    /// connection open, or no longer listens, then the request may have killed it.
    async fn why_closed(&self) -> AttemptFailure {
        tokio::time::sleep(CLOSED_PAUSE).await;
        match ReplicaConnection::open(self.address).await {
            Ok(connection) if connection.closes_within(CLOSED_WATCH).await => AttemptFailure::Closed,
            Ok(_) | Err(OpenError::Unreachable) => AttemptFailure::Died,
            // Nothing is known, and a wrong suspicion could refuse an innocent image.
            Err(OpenError::NoSocket) => AttemptFailure::Closed,
        }
    }
}
