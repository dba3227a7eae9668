//! A picture on its way, with everything that must come back to whoever sent it.

use super::{Classified, Times};
use service::wire::{Code, RequestError};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// A picture on its way to the model.
pub(super) struct Job<Stage> {
    pub(super) stage: Stage,
    pub(super) deadline: Instant,
    /// When it entered the present stage.
    pub(super) entered: Instant,
    pub(super) times: Times,
    pub(super) reply: Reply,
}

/// Where a job's outcome goes.
pub(super) struct Reply {
    pub(super) slot: OwnedSemaphorePermit,
    pub(super) outcome: oneshot::Sender<Result<Classified, RequestError>>,
}

impl<Stage> Job<Stage> {
    /// A closed reply means that the client, or the dispatcher, no longer waits.
    pub(super) fn is_abandoned(&self) -> bool {
        self.reply.outcome.is_closed()
    }

    pub(super) fn expire(self, before: &str) {
        self.reply.send(Err(RequestError::new(Code::DeadlineExceeded, format!("the deadline passed before {before}"))));
    }
}

impl Reply {
    /// The slot first: whoever reads the outcome may send the next request at once.
    pub(super) fn send(self, outcome: Result<Classified, RequestError>) {
        drop(self.slot);
        let _gone = self.outcome.send(outcome);
    }
}
