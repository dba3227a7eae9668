//! An image in the pipeline, with its slot and the channel for its outcome.

use super::{Classification, StageTimes};
use crate::work::Work;
use service::wire::{Code, RequestError};
use slots::TakenSlots;
use std::time::Instant;
use tokio::sync::oneshot;

/// An image in the pipeline. `T` is the form of the image: [`super::Image`] before decoding, and then
/// [`crate::model::Input`].
pub(super) struct WorkItem<T> {
    pub(super) image: T,
    /// Whether the request asks for the embedding of the image.
    pub(super) wants_embedding: bool,
    pub(super) deadline: Instant,
    /// The instant at which the image entered the present stage.
    pub(super) entered: Instant,
    pub(super) times: StageTimes,
    pub(super) responder: Responder,
}

/// The slot of an image, the replica's work for its request, and the channel to the request.
pub(super) struct Responder {
    pub(super) slot: TakenSlots,
    pub(super) work: Work,
    pub(super) outcome: oneshot::Sender<Result<Classification, RequestError>>,
}

impl<T> WorkItem<T> {
    /// Whether the client or the dispatcher no longer waits for the outcome.
    pub(super) fn is_abandoned(&self) -> bool {
        self.responder.outcome.is_closed()
    }

    /// Answers that the deadline passed before `stage` began.
    pub(super) fn expire(self, stage: &str) {
        let message = format!("the deadline passed before {stage} began");
        self.responder.send(Err(RequestError::new(Code::DeadlineExceeded, message)));
    }
}

impl Responder {
    /// Frees the slot, and then sends the outcome. In the other order, a client that sends its next request at once
    /// could find no free slot. If the client has left, the work for its request ends here.
    pub(super) fn send(self, outcome: Result<Classification, RequestError>) {
        drop((self.slot, self.work));
        let _client_gone = self.outcome.send(outcome);
    }
}
