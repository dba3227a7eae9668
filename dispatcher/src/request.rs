//! One request in its three forms: with its body read, in the queue, and with a permit. Knows nothing of the order of
//! requests or of how they are sent.

use crate::fair::Tenant;
use crate::permit::{PermitReceiver, PermitSender};
use crate::queue::{QueueEntry, SequenceNumber};
use crate::retry::FailedAttempts;
use crate::rotation::{Address, Constraints};
use hyper::header::HeaderValue;
use service::body::Chunks;
use service::trace::TraceContext;
use service::wire::RequestError;
use std::time::Instant;
use tokio::sync::oneshot;

/// A request whose body has arrived whole. The body is kept until the client is answered, so that each attempt can send
/// it.
#[derive(Debug)]
pub struct BufferedRequest {
    /// The body as the client sent it: raw bytes, multipart or JSON.
    pub body: Chunks,
    /// The header `Content-Type`; `None` if the client sent none.
    pub content_type: Option<HeaderValue>,
    /// The tenant to which the request's token belongs.
    pub tenant: Tenant,
    /// Number of predictions that the client wants.
    pub top_k: usize,
    /// The request's id and trace context, which the replica and the client receive.
    pub trace: TraceContext,
    /// The instant at which the request's head had arrived.
    pub accepted: Instant,
    /// The instant by which the client must be answered.
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
    /// The instant at which the request's head had arrived.
    pub accepted: Instant,
    /// The channel on which the request receives its permit, or the error that ends it.
    pub permit: PermitSender,
    /// Whether the request has to wait for a slot: no slot was free when it arrived, or it was requeued.
    pub waited_for_slot: bool,
    /// The attempts that have failed so far.
    pub failed: FailedAttempts,
}

impl QueuedRequest {
    /// A request without attempts, and the channel on which it receives its permit.
    pub fn new(accepted: Instant) -> (Self, PermitReceiver) {
        let (permit, receiver) = oneshot::channel();
        (Self { accepted, permit, waited_for_slot: false, failed: FailedAttempts::default() }, receiver)
    }

    /// Whether the client has left or its deadline has passed. The worker may have handled the request's withdrawal
    /// already.
    pub fn is_abandoned(&self) -> bool {
        self.permit.is_closed()
    }

    /// The constraints that the failed attempts put on the choice of the next replica.
    pub fn constraints(&self) -> Constraints<'_> {
        Constraints { tried: self.failed.tried(), is_suspect: self.failed.deaths() > 0 }
    }

    /// Ends the request with `error`, which its client receives.
    pub fn refuse(self, error: RequestError) {
        // A client that has left no longer receives the error.
        let _left = self.permit.send(Err(error.into()));
    }
}

/// A request that has a permit. It is on its way to a replica, or a replica holds it.
#[derive(Debug)]
pub struct DispatchedRequest {
    /// The request's number in the order of arrival.
    pub sequence_number: SequenceNumber,
    /// The tenant to which the request belongs.
    pub tenant: Tenant,
    /// An answer after this instant misses the objective.
    pub objective: Instant,
    /// The instant by which the client must be answered.
    pub deadline: Instant,
    /// The instant at which the request's head had arrived.
    pub accepted: Instant,
    /// The attempts that have failed before the present one.
    pub failed: FailedAttempts,
    /// The address of the replica that the permit is for.
    pub address: Address,
    /// The channel on which the attempt learns that the replica has stalled. It is `None` once it was used, and closed
    /// once the attempt has ended or its client has left.
    pub stall_notice: Option<oneshot::Sender<()>>,
}

impl DispatchedRequest {
    /// The entry with which the request waits in the queue for its next permit.
    pub fn requeued(self, permit: PermitSender) -> QueueEntry<QueuedRequest> {
        let Self { sequence_number, tenant, objective, deadline, accepted, failed, .. } = self;
        let request = QueuedRequest { accepted, permit, waited_for_slot: true, failed };
        QueueEntry { sequence_number, tenant, objective, deadline, request }
    }
}
