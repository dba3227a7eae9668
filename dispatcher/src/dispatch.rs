//! The way of one request from the queue to its answer: submitted, given a permit, sent, and queued again if the
//! attempt failed and is retried. Runs in the request's own task. Knows nothing of HTTP, and does not decide about
//! retries.

use crate::forward::ReplicaAnswer;
use crate::queue::{Entry, SequenceNumber};
use crate::request::{BufferedRequest, QueuedRequest};
use crate::worker::{Handle, Message};
use futures_util::future::FutureExt;
use service::wire::{Code, RequestError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Takes requests through the queue to a replica.
pub struct Dispatcher {
    worker: Handle,
    /// An answer later than this after the request's arrival misses the objective.
    objective: Duration,
    next_sequence_number: AtomicU64,
}

impl Dispatcher {
    /// A dispatcher on the queue that `worker` owns.
    pub fn new(worker: Handle, objective: Duration) -> Self {
        Self { worker, objective, next_sequence_number: AtomicU64::new(0) }
    }

    /// Answers `request` before its deadline, or returns the error for its client.
    ///
    /// # Cancel safety
    /// Dropping the future removes the request from the queue. An attempt in progress goes on; see
    /// [`Permit::send`](crate::permit::Permit::send).
    // Not an async function, which would hold the inner future twice: one of these is held for every waiting request.
    pub fn answer(
        &self,
        request: &Arc<BufferedRequest>,
    ) -> impl Future<Output = Result<ReplicaAnswer, Box<RequestError>>> + Send {
        let answered = tokio::time::timeout_at(request.deadline.into(), self.attempt_until_answered(request));
        answered.map(|in_time| {
            in_time.unwrap_or_else(|_elapsed| {
                let budget = request.deadline.saturating_duration_since(request.accepted);
                let message = format!("no answer within {} ms", budget.as_millis());
                Err(RequestError::new(Code::DeadlineExceeded, message).into())
            })
        })
    }

    /// Submits `request`, and uses each permit that it receives until an attempt is answered.
    async fn attempt_until_answered(&self, request: &Arc<BufferedRequest>) -> Result<ReplicaAnswer, Box<RequestError>> {
        let stopping = || RequestError::new(Code::Internal, "the dispatcher is stopping");
        let sequence_number = SequenceNumber(self.next_sequence_number.fetch_add(1, Ordering::Relaxed));
        // Declared before `receiver`, and so dropped after it. The worker may handle the withdrawal before the
        // submission; the closed channel then tells it that the client has left.
        let mut place = QueuePlace { sequence_number, worker: &self.worker, is_held: true };
        let mut receiver = {
            let slot = match self.worker.messages.try_reserve() {
                Ok(slot) => slot,
                // The worker is behind. Boxed, so that the rare case takes no room in every waiting request.
                Err(_full) => self.worker.messages.reserve().boxed().await.map_err(|_ended| stopping())?,
            };
            let (queued, receiver) = QueuedRequest::new(request.accepted);
            let objective = request.accepted + self.objective;
            let entry = Entry { sequence_number, objective, deadline: request.deadline, request: queued };
            slot.send(Message::Submit(entry));
            receiver
        };
        loop {
            place.is_held = true;
            let permit = receiver.await.map_err(|_ended| stopping())?;
            place.is_held = false;
            match permit?.send(request.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(next_receiver) => receiver = next_receiver,
            }
        }
    }
}

/// A request's place in the queue, which is given up when this is dropped.
struct QueuePlace<'a> {
    sequence_number: SequenceNumber,
    worker: &'a Handle,
    /// Whether the request waits in the queue. It does not while it has a permit.
    is_held: bool,
}

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        if self.is_held {
            self.worker.withdraw(self.sequence_number);
        }
    }
}
