//! One request in its three forms: with its body read, in the queue, and with a permit. Knows nothing of the order of
//! requests or of how they are sent.

use crate::failure::AttemptFailure;
use crate::fair::Tenant;
use crate::permit::{Permit, PermitReceiver, PermitSender};
use crate::queue::{QueueEntry, SequenceNumber};
use crate::retry::FailedAttempts;
use crate::rotation::{Address, Constraints, ReplicaId};
use crate::timeline::Timeline;
use hyper::header::HeaderValue;
use service::body::Chunks;
use service::trace::TraceContext;
use service::wire::{PredictQuery, RequestError};
use std::sync::Arc;
use std::time::{Duration, Instant};
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
    /// The endpoint of a replica that the request is for.
    pub endpoint: Endpoint,
    /// The request's id and trace context, which the replica and the client receive.
    pub trace: TraceContext,
    /// The instant at which the whole request had arrived.
    pub accepted: Instant,
    /// The instant by which the client must be answered.
    pub deadline: Instant,
    /// The attempts of the request; `None` if no log needs them.
    pub timeline: Option<Arc<Timeline>>,
}

/// An endpoint of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `/predict`, with what the client's query asks for.
    Predict(PredictQuery),
    /// The endpoint `infer` of a model of the Open Inference Protocol. It is boxed, because few requests have it.
    Infer(Box<InferEndpoint>),
}

impl Endpoint {
    /// The bytes that the request keeps of its head for this endpoint.
    pub fn kept_bytes(&self) -> usize {
        match self {
            Self::Predict(_) => 0,
            Self::Infer(infer) => infer.path.len() + infer.json_length.as_ref().map_or(0, HeaderValue::len),
        }
    }
}

/// The endpoint `infer` of a model, and the header of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InferEndpoint {
    /// The path, which names the model.
    pub path: String,
    /// The value of [`INFERENCE_JSON_LENGTH`](service::wire::header::INFERENCE_JSON_LENGTH); `None` if the client sent
    /// none.
    pub json_length: Option<HeaderValue>,
}

/// A request that waits in the queue for a permit.
#[derive(Debug)]
pub struct QueuedRequest {
    /// The instant at which the whole request had arrived.
    pub accepted: Instant,
    /// The channel on which the request receives its permit, or the error that ends it.
    pub permit: PermitSender,
    /// Whether the request has to wait for a slot: no slot was free when it arrived, or it was requeued.
    pub waited_for_slot: bool,
    /// Whether the dispatch of this request was counted already: the replica that it was sent to was busy.
    pub is_counted: bool,
    /// The attempts that have failed so far.
    pub failed: FailedAttempts,
}

impl QueuedRequest {
    /// A request without attempts, and the channel on which it receives its permit.
    pub fn new(accepted: Instant) -> (Self, PermitReceiver) {
        let (permit, receiver) = oneshot::channel();
        (
            Self { accepted, permit, waited_for_slot: false, is_counted: false, failed: FailedAttempts::default() },
            receiver,
        )
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
    /// The instant at which the whole request had arrived.
    pub accepted: Instant,
    /// The time from the acceptance of the request to this dispatch; `None` for the second replica of a hedge.
    pub waited: Option<Duration>,
    /// Whether the replica has granted the slot before.
    pub uses_grant: bool,
    /// The attempts that have failed before the present one.
    pub failed: FailedAttempts,
    /// The replica that the permit is for.
    pub replica: ReplicaId,
    /// The address of that replica.
    pub address: Address,
    /// The channel on which the attempt learns that the replica has stalled. It is `None` once it was used, and closed
    /// once the attempt has ended or its client has left.
    pub stall_notice: Option<oneshot::Sender<()>>,
    /// The channel on which the attempt receives a permit for a second replica; `None` if it has had one, or must not
    /// have one. It is closed once the attempt has ended or its client has left.
    pub hedge: Option<oneshot::Sender<Permit>>,
    /// The state of the attempt at the other replica; `None` without a hedge.
    pub twin: Option<Twin>,
}

/// The attempt at the other replica of a hedged request.
#[derive(Debug)]
pub enum Twin {
    /// The attempt with this permit goes on.
    Running(u64),
    /// The attempt has failed, in this way and with this number of deaths of the body, at this replica.
    Failed(Address, AttemptFailure, u32),
    /// The attempt was answered, so that this one no longer counts for the request.
    Answered,
}

impl DispatchedRequest {
    /// The entry with which the request waits in the queue for its next permit after an attempt that failed by `failure`.
    pub fn requeued(self, permit: PermitSender, failure: AttemptFailure) -> QueueEntry<QueuedRequest> {
        let Self { sequence_number, tenant, objective, deadline, accepted, failed, .. } = self;
        // Otherwise, each busy answer would count as a further dispatch, although no slot was used.
        let is_counted = failure == AttemptFailure::Busy;
        let request = QueuedRequest { accepted, permit, waited_for_slot: true, is_counted, failed };
        QueueEntry { sequence_number, tenant, objective, deadline, request }
    }
}
