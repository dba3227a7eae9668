//! An image on its way through the pipeline, with the slot and the channel that its outcome needs.

use super::{Classification, StageTimes};
use service::wire::{Code, RequestError};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// An image on its way through the pipeline. `T` is the form that the image has in the present stage: [`super::Image`]
/// before decoding, [`crate::model::Input`] after it.
pub(super) struct WorkItem<T> {
    pub(super) image: T,
    pub(super) deadline: Instant,
    /// The instant at which the image entered the present stage.
    pub(super) entered: Instant,
    pub(super) times: StageTimes,
    pub(super) reply: Reply,
}

/// The slot of an image, and the channel to its request.
pub(super) struct Reply {
    pub(super) slot: OwnedSemaphorePermit,
    pub(super) outcome: oneshot::Sender<Result<Classification, RequestError>>,
}

impl<T> WorkItem<T> {
    /// Whether the client, or the dispatcher, no longer waits for the outcome.
    pub(super) fn is_abandoned(&self) -> bool {
        self.reply.outcome.is_closed()
    }

    /// Answers that the deadline passed before `stage` began.
    pub(super) fn expire(self, stage: &str) {
        self.reply.send(Err(RequestError::new(Code::DeadlineExceeded, format!("the deadline passed before {stage}"))));
    }
}

impl Reply {
    /// Frees the slot and sends the outcome. In this order, because a client may send the next request as soon as it
    /// has the outcome.
    pub(super) fn send(self, outcome: Result<Classification, RequestError>) {
        drop(self.slot);
        let _client_gone = self.outcome.send(outcome);
    }
}
