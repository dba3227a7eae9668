//! One request, buffered, waiting and dispatched. Knows nothing of how requests are ordered or sent.

use crate::permit::{PermitReceiver, PermitSender};
use crate::queue::{Entry, SequenceNumber};
use crate::retry::FailedAttempts;
use crate::rotation::{Address, Constraints};
use hyper::header::HeaderValue;
use service::body::Chunks;
use service::trace::TraceContext;
use service::wire::RequestError;
use std::time::Instant;
use tokio::sync::oneshot;

/// A request whose body has arrived whole. It is kept until the client is answered, so that each attempt can send it.
#[derive(Debug)]
pub struct BufferedRequest {
    /// The body as the client sent it: raw bytes, multipart or JSON.
    pub body: Chunks,
    /// The body's `Content-Type`, if the client sent one.
    pub content_type: Option<HeaderValue>,
    /// Number of predictions that the client wants.
    pub top_k: usize,
    /// The request's id and trace context, which the replica and the client receive.
    pub trace: TraceContext,
    /// When the request's head had arrived.
    pub accepted: Instant,
    /// When the client must be answered.
    pub deadline: Instant,
}

impl AsRef<Chunks> for BufferedRequest {
    fn as_ref(&self) -> &Chunks {
        &self.body
    }
}

/// A request that waits in the queue for a permit.
#[derive(Debug)]
pub struct QueuedRequest {
    /// When the request's head had arrived.
    pub accepted: Instant,
    /// Sends the request its permit, or the error that ends it.
    pub permit: PermitSender,
    /// Whether no slot was free when the request arrived.
    pub waited_for_slot: bool,
    /// The attempts that have failed so far.
    pub failed: FailedAttempts,
}

impl QueuedRequest {
    /// A request that was never sent to a replica, and the receiver of its permit.
    pub fn new(accepted: Instant) -> (Self, PermitReceiver) {
        let (permit, receiver) = oneshot::channel();
        (Self { accepted, permit, waited_for_slot: false, failed: FailedAttempts::default() }, receiver)
    }

    /// Whether the client has left. Once this is true it stays true, and the request's withdrawal may already have been
    /// handled.
    pub fn is_abandoned(&self) -> bool {
        self.permit.is_closed()
    }

    /// What the choice of a replica has to respect.
    pub fn constraints(&self) -> Constraints<'_> {
        Constraints { tried: self.failed.tried(), is_suspect: self.failed.deaths() > 0 }
    }

    /// Answers the request with an error.
    pub fn refuse(self, error: RequestError) {
        // A client that has left no longer receives it.
        let _left = self.permit.send(Err(error.into()));
    }
}

/// A request that has a permit: it is on its way to a replica, or the replica has it.
#[derive(Debug)]
pub struct DispatchedRequest {
    /// The request's number in the order of arrival.
    pub sequence_number: SequenceNumber,
    /// An answer after this instant misses the objective.
    pub objective: Instant,
    /// When the client must be answered.
    pub deadline: Instant,
    /// When the request's head had arrived.
    pub accepted: Instant,
    /// The attempts that have failed so far, without the present one.
    pub failed: FailedAttempts,
    /// The replica that the permit is for.
    pub address: Address,
    /// Ends the attempt if the replica stalls. `None` once it was used; closed once the client has left.
    pub stall_notice: Option<oneshot::Sender<()>>,
}

impl DispatchedRequest {
    /// The request's entry in the queue, where it waits for its next permit.
    pub fn requeued(self, permit: PermitSender) -> Entry<QueuedRequest> {
        let Self { sequence_number, objective, deadline, accepted, failed, .. } = self;
        let request = QueuedRequest { accepted, permit, waited_for_slot: true, failed };
        Entry { sequence_number, objective, deadline, request }
    }
}
