//! One attempt at one replica: sends the request's body as the client sent it, and classifies the answer. Knows nothing
//! of the queue, and does not decide whether the request is tried again.

mod answer;
mod answer_memory;
mod classify;
mod connection;
mod headers;
#[cfg(test)]
mod oracle;
mod request_head;

pub use connection::ReplicaConnection;
pub use headers::BodyKind;
pub use request_head::SlotUse;

use crate::failure::AttemptFailure;
use crate::request::{BufferedRequest, Endpoint};
use crate::rotation::{Address, SlotNews};
use answer::{Answer, Malformed};
use bytes::Bytes;
use connection::{ExchangeError, OpenError};
use hyper::StatusCode;
use service::wire::{Code, ErrorBody, PredictQuery, TopK};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time for which an attempt waits when this machine has no socket for it or cannot look up the replica. Without the pause, the request would be
/// tried again and again without end.
const NO_SOCKET_PAUSE: Duration = Duration::from_millis(100);

/// The pause after a replica has closed a new connection without an answer. A process that dies closes its connections
/// and its listener within this time.
const CLOSED_PAUSE: Duration = Duration::from_millis(10);

/// The time for which a further connection, on which nothing is sent, is watched. If the replica closes it, too, the
/// request is not the cause.
const CLOSED_WATCH: Duration = Duration::from_millis(20);

/// The time within which the end of an idle connection may cross a request on its way: more than a round trip on a
/// local network. A replica that stops closes its listener and then its idle connections, so a request that meets such
/// an end is not the cause. A replica that has held the request for longer had accepted it, and so may have died of it.
/// One that dies faster counts at the next attempt, because a request that has failed is sent over a new connection.
const IDLE_CLOSE_RACE: Duration = Duration::from_millis(5);

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

impl ReplicaAnswer {
    /// Whether the replica has worked on the image: it has classified it, or has found that it cannot be decoded. Any
    /// other answer may come without a look at the body, and does not show that the body is harmless.
    pub fn shows_that_body_was_processed(&self) -> bool {
        let is_bad_image =
            || serde_json::from_slice::<ErrorBody>(&self.body).is_ok_and(|error| error.code == Code::BadImage.as_str());
        self.status == StatusCode::OK || self.status.as_u16() == Code::BadImage.status() && is_bad_image()
    }
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
/// a new one is opened. Headers tell the replica the time until `deadline`, the time that the request has `waited`, and
/// which `slot` it uses.
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
    slot: SlotUse,
) -> AttemptResult {
    let attempt = Attempt { address, request, deadline, waited, slot };
    attempt.run(connection).await.unwrap_or_else(AttemptResult::failed)
}

/// The facts of one attempt.
struct Attempt<'a> {
    address: &'a Address,
    request: &'a BufferedRequest,
    deadline: Instant,
    waited: Duration,
    slot: SlotUse,
}

impl Attempt<'_> {
    async fn run(&self, idle: Option<ReplicaConnection>) -> Result<AttemptResult, AttemptFailure> {
        let idle = idle.filter(|connection| !connection.is_stale());
        let mut was_held = false;
        if let Some(idle) = idle {
            match self.exchange(idle).await {
                // The replica may have closed the idle connection just before the request arrived. Sending it again is
                // safe, because classifying is idempotent.
                Err(ExchangeError::Ended { had_begun: false, lasted }) => was_held = lasted > IDLE_CLOSE_RACE,
                exchanged => return exchanged.map_err(|error| self.failure(error)),
            }
        }
        let fresh = match ReplicaConnection::open(self.address).await {
            Ok(fresh) => fresh,
            Err(error @ (OpenError::NoSocket | OpenError::Unresolved)) => {
                tokio::time::sleep(NO_SOCKET_PAUSE).await;
                let is_unresolved = error == OpenError::Unresolved;
                return Err(if is_unresolved { AttemptFailure::Unresolved } else { AttemptFailure::NoSocket });
            }
            // The replica held the request, and no longer listens.
            Err(OpenError::Refused) if was_held => return Err(AttemptFailure::Died),
            // If it does not answer, it may be out of reach or have too many connections, which is no death.
            Err(OpenError::Refused | OpenError::Unreachable) => return Err(AttemptFailure::Connect),
        };
        match self.exchange(fresh).await {
            // Boxed, because every attempt would otherwise have memory for this rare case.
            Err(ExchangeError::Ended { had_begun: false, .. }) => Err(Box::pin(self.why_closed()).await),
            exchanged => exchanged.map_err(|error| self.failure(error)),
        }
    }

    async fn exchange(&self, mut connection: ReplicaConnection) -> Result<AttemptResult, ExchangeError> {
        let started = Instant::now();
        let remains = self.deadline.saturating_duration_since(started);
        let head = request_head::write(self.address, self.request, remains, self.waited, self.slot);
        let (body, limit) = (self.request.body.pieces(), self.max_answer_bytes());
        let answer = connection.exchange(&head, body, limit, started).await?;
        Ok(AttemptResult::received(answer, &self.request.endpoint, connection))
    }

    /// The largest body of an answer to the request, in bytes.
    fn max_answer_bytes(&self) -> usize {
        match self.request.endpoint {
            Endpoint::Predict(PredictQuery { top_k: TopK::Count(_), .. }) => answer::MAX_BODY_BYTES,
            // The number of classes has no limit.
            Endpoint::Predict(_) | Endpoint::Infer(_) => answer::MAX_LONG_BODY_BYTES,
        }
    }

    /// The failure that `error` stands for, once a byte of the answer has arrived.
    fn failure(&self, error: ExchangeError) -> AttemptFailure {
        let address = self.address;
        match error {
            // The client chooses the number of images, outputs or classes, so that no replica is to blame.
            ExchangeError::Malformed(reason @ (Malformed::LongBody { .. } | Malformed::NoMemory(_)))
                if self.max_answer_bytes() == answer::MAX_LONG_BODY_BYTES =>
            {
                tracing::debug!(%address, %reason, "the replica's answer is too long");
                AttemptFailure::LongAnswer
            }
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

    /// Finds out why the replica has closed a new connection without an answer, after a part of the request or all of
    /// it was written: one that lacks memory for a large body may be killed while it still reads. A replica or a proxy
    /// that closes every connection does so without a request, too. If the replica keeps a connection open, or no
    /// longer listens, then the request may have killed it.
    async fn why_closed(&self) -> AttemptFailure {
        tokio::time::sleep(CLOSED_PAUSE).await;
        match ReplicaConnection::open(self.address).await {
            Ok(connection) if connection.closes_within(CLOSED_WATCH).await => AttemptFailure::Closed,
            Ok(_) | Err(OpenError::Refused | OpenError::Unreachable) => AttemptFailure::Died,
            // Nothing is known, and a wrong suspicion could refuse an innocent image.
            Err(OpenError::NoSocket | OpenError::Unresolved) => AttemptFailure::Closed,
        }
    }
}
