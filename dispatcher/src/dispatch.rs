//! The way of one request through the queue to its answer. The request is submitted to the worker, waits for a permit,
//! and is sent to a replica. If the attempt fails, it waits for the next permit or is refused. All of this runs in the
//! request's own task. This module knows nothing of HTTP, and the worker decides about retries.

use crate::forward::ReplicaAnswer;
use crate::poison::PoisonList;
use crate::queue::{QueueEntry, SequenceNumber};
use crate::request::{BufferedRequest, QueuedRequest};
use crate::worker::WorkerHandle;
use futures_util::future::{Either, FutureExt};
use service::wire::{Code, RequestError};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

/// Submits requests to the worker and sends them to replicas.
pub struct RequestDispatcher {
    worker: WorkerHandle,
    /// The time from acceptance within which a request should be answered.
    objective: Duration,
    next_sequence_number: AtomicU64,
    /// The bodies that have brought down replicas.
    poison: Arc<PoisonList>,
}

impl RequestDispatcher {
    /// Submits requests to `worker`, which owns the queue. Requests should be answered within `objective`.
    pub fn new(worker: WorkerHandle, objective: Duration) -> Self {
        Self { worker, objective, next_sequence_number: AtomicU64::new(0), poison: Arc::default() }
    }

    /// Returns a replica's answer to `request`, at its deadline at the latest. `expiry` says what wakes the request at its
    /// deadline.
    ///
    /// # Errors
    /// If the request is refused, fails or passes its deadline. The error is the answer to the client.
    ///
    /// # Cancel safety
    /// Dropping the future removes the request from the queue. An attempt in progress goes on; see
    /// [`Permit::send`](crate::permit::Permit::send).
    // An async function would hold the inner future twice, and every waiting request holds one of these futures.
    pub fn answer(
        &self,
        request: &Arc<BufferedRequest>,
        expiry: Expiry,
    ) -> impl Future<Output = Result<ReplicaAnswer, Box<RequestError>>> + Send {
        let attempted = self.attempt_until_answered(request);
        match expiry {
            Expiry::Polled => Either::Left(attempted),
            Expiry::Timer => {
                let in_time = tokio::time::timeout_at(request.deadline.into(), attempted);
                Either::Right(in_time.map(|in_time| in_time.unwrap_or_else(|_elapsed| Err(expired(request)))))
            }
        }
    }

    /// Submits `request`, and uses each permit that it receives until an attempt is answered.
    async fn attempt_until_answered(&self, request: &Arc<BufferedRequest>) -> Result<ReplicaAnswer, Box<RequestError>> {
        self.poison.check(request.body.pieces())?;
        let stopping = || RequestError::new(Code::Internal, "the dispatcher is stopping; send the request again");
        let sequence_number = SequenceNumber(self.next_sequence_number.fetch_add(1, Ordering::Relaxed));
        // `place` is declared before `receiver`, so `receiver` is dropped first and closes its channel. The worker then
        // passes the request over until it handles the withdrawal.
        let mut place = QueuePlace { sequence_number, worker: &self.worker, is_held: true };
        let (queued, mut receiver) = QueuedRequest::new(request.accepted);
        let objective = request.accepted + self.objective;
        let (tenant, deadline) = (request.tenant, request.deadline);
        self.worker.submit(QueueEntry { sequence_number, tenant, objective, deadline, request: queued });
        loop {
            place.is_held = true;
            let permit = until(request, receiver).await?.map_err(|_ended| stopping())?;
            place.is_held = false;
            let permit = permit?;
            // Copies of the body may have brought down replicas while this one waited. Dropping the permit frees its
            // slot.
            self.poison.check(request.body.pieces())?;
            match until(request, permit.send(request.clone(), self.poison.clone())).await? {
                Ok(answer) => return Ok(answer),
                Err(next_receiver) => receiver = next_receiver,
            }
        }
    }
}

/// What wakes a request at its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// A timer of the request.
    Timer,
    /// The caller polls the request at its deadline. A timer for each request would cost as much as its way through the
    /// queue.
    Polled,
}

/// The result of `step`, or the error for `request` if a poll finds that its deadline has passed.
async fn until<F>(request: &BufferedRequest, mut step: F) -> Result<F::Output, Box<RequestError>>
where
    F: Future + Unpin,
{
    std::future::poll_fn(|context| match Pin::new(&mut step).poll(context) {
        Poll::Ready(result) => Poll::Ready(Ok(result)),
        Poll::Pending if Instant::now() >= request.deadline => Poll::Ready(Err(expired(request))),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// The error for a request that has passed its deadline.
fn expired(request: &BufferedRequest) -> Box<RequestError> {
    let budget = request.deadline.saturating_duration_since(request.accepted);
    let message = format!("no replica answered within {} ms, the timeout of this request", budget.as_millis());
    RequestError::new(Code::DeadlineExceeded, message).into()
}

/// A request's place in the queue. Dropping this value withdraws the request from the queue.
struct QueuePlace<'a> {
    sequence_number: SequenceNumber,
    worker: &'a WorkerHandle,
    /// Whether the request waits in the queue; false while it has a permit.
    is_held: bool,
}

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        if self.is_held {
            self.worker.withdraw(self.sequence_number);
        }
    }
}
