//! Connects HTTP with the pipeline: checks a request, takes a slot, and makes the answer of the HTTP contract from the
//! logits.

use crate::inference_protocol;
use crate::metrics;
use crate::pipeline::{Classification, Image, ImageRequest, Pipeline};
use crate::ranking::best;
use crate::request_body::RequestBody;
use crate::softmax::softmax;
use crate::work::{Work, WorkMeter};
use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, StatusCode};
use service::admin::Admin;
use service::body::{BodyIsRead, BodyLimits, Chunks, Upload};
use service::coding;
use service::headers::text;
use service::memory_budget::MemoryBudget;
use service::options::RequestLimits;
use service::respond::{self, Reply};
use service::slot_channel::PATH;
use service::trace::TraceContext;
use service::wire::{self, Answer, BodyFormat, Code, PredictQuery, RequestError, Timing, TopK, header};
use slots::{SlotClient, Slots, TakenSlots};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Answers all requests of a replica.
pub struct ReplicaHandler {
    /// Classifies images.
    pub pipeline: Pipeline,
    /// The slots: one for each image that the replica can take at once.
    pub slots: Slots,
    /// Measures the work for each request, which the answers tell.
    pub work: WorkMeter,
    /// The number of slots, which the replica advertises to dispatchers.
    pub capacity: usize,
    /// Answers `/metrics`, `/livez` and `/readyz`.
    pub admin: Admin,
    /// The limits of one body, and of the memory of all bodies together.
    pub body_limits: BodyLimits,
    /// The memory that all requests share.
    pub memory_budget: MemoryBudget,
    /// The limits of one request. Only its time limit is used here.
    pub request_limits: RequestLimits,
    /// The name of this replica, which its answers contain.
    pub name: String,
}

impl ReplicaHandler {
    /// Answers one request.
    pub async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Reply {
        let path = request.uri().path();
        if wire::takes_image(request.method(), path) {
            return self.predict(request).await;
        }
        if inference_protocol::owns(path) {
            return inference_protocol::answer(&self, request).await;
        }
        if request.method() == Method::GET && path == PATH {
            return self.open_slot_channel(&request);
        }
        let (head, body) = request.into_parts();
        // Closing a connection with an unread body would reset it, and the client would lose the answer.
        Upload::new(&head.headers, body).discard().await;
        let path = head.uri.path();
        if let Some(reply) = self.admin.answer(&head.method, path) {
            return reply;
        }
        match wire::image_methods(path) {
            Some(methods) => respond::method_not_allowed(methods, ""),
            None => respond::not_found(path, "send images to POST /predict", ""),
        }
    }

    /// Answers `POST /predict` and its aliases.
    async fn predict(&self, request: Request<Incoming>) -> Reply {
        let received = Instant::now();
        let trace = TraceContext::from_headers(request.headers());
        let refusal = |fault| respond::error(&fault, &trace.request_id());
        let client = SlotClient::from_headers(request.headers());
        let (head, body) = request.into_parts();
        let upload = Upload::new(&head.headers, body);
        let answer = async {
            match self.receive(&head, client, upload, received).await {
                Ok((admitted, body)) => {
                    let work = self.work.begin();
                    let outcome = self.classify(admitted, body, received, work.clone()).await;
                    self.with_work(outcome.unwrap_or_else(refusal), &work)
                }
                Err((fault, mark)) => with_mark(refusal(fault), mark),
            }
        };
        let reply = without_panic(answer).await.unwrap_or_else(refusal);
        self.add_headers(reply, client, &trace)
    }

    /// Answers `GET /slots`.
    fn open_slot_channel(&self, request: &Request<Incoming>) -> Reply {
        let trace = TraceContext::from_headers(request.headers());
        if self.admin.readiness.is_draining() {
            let fault = RequestError::new(Code::Busy, "this replica is stopping").retry_after(Duration::from_secs(1));
            return respond::error(&fault, &trace.request_id());
        }
        slots::channel::open(&self.slots, request).unwrap_or_else(|fault| respond::error(&fault, &trace.request_id()))
    }

    /// Checks the head of a request, takes a slot for it, and reads its body. An error has the mark for its answer.
    async fn receive<'a>(
        &self,
        head: &'a Parts,
        client: SlotClient,
        upload: Upload,
        received: Instant,
    ) -> Result<(Admitted<'a>, Chunks), (RequestError, Option<BodyIsRead>)> {
        match self.admit(head, client, received) {
            Ok(admitted) => match upload.read(&self.body_limits, &self.memory_budget, 0, admitted.deadline).await {
                Ok(body) => Ok((admitted, body)),
                Err(fault) => Err((fault, None)),
            },
            Err(fault) => {
                self.slots.forgo(client);
                let mark = discard_refused(upload, &fault).await;
                Err((fault, mark))
            }
        }
    }

    async fn classify(
        &self,
        admitted: Admitted<'_>,
        body: Chunks,
        received: Instant,
        work: Work,
    ) -> Result<Reply, RequestError> {
        let Admitted { slot, in_progress: _in_progress, content_type, query, deadline, queued_ms } = admitted;
        let deadline = self.deadline_after_upload(deadline);
        let body = RequestBody { content_type: content_type.map(str::to_owned), chunks: body };
        let (image, wants_embedding) = (Image::Body(body), query.embedding);
        let request = ImageRequest { image, generation: None, wants_embedding, deadline, slot, work };
        let classification = self.pipeline.classify(request).await?;
        let (replica, time_here) = (self.name.clone(), received.elapsed());
        let numbers = classification.logits.len() + classification.embedding.as_ref().map_or(0, Vec::len);
        let answer = move || {
            let answer = describe(classification, query.top_k, replica, queued_ms, time_here);
            respond::json(StatusCode::OK, &answer)
        };
        written(numbers, deadline, answer).await
    }

    /// Checks the head of a request and takes a slot for it.
    fn admit<'a>(&self, head: &'a Parts, client: SlotClient, received: Instant) -> Result<Admitted<'a>, RequestError> {
        coding::check(&head.headers)?;
        let content_type = text(&head.headers, &CONTENT_TYPE)?;
        BodyFormat::from_content_type(content_type)?;
        let (query, deadline) = (PredictQuery::parse(head.uri.query())?, self.deadline(&head.headers, received)?);
        let queued_ms = text(&head.headers, &header::QUEUE_MS)?.and_then(|waited| waited.parse().ok()).unwrap_or(0.0);
        let (slot, in_progress) = (self.take_slot(client)?, InProgress::start(received));
        Ok(Admitted { slot, in_progress, content_type, query, deadline, queued_ms })
    }

    /// Takes a slot for a request of `client`. No request waits for slots here, because requests wait in the dispatcher.
    ///
    /// # Errors
    /// If no slot is free (status 503, code `busy`).
    pub(crate) fn take_slot(&self, client: SlotClient) -> Result<TakenSlots, RequestError> {
        self.slots.take(client, 1).ok_or_else(busy)
    }

    /// Takes `count` further slots for the request that has `slots`, or none.
    ///
    /// # Errors
    /// If fewer slots are free (status 503, code `busy`).
    pub(crate) fn take_more_slots(&self, slots: &mut TakenSlots, count: usize) -> Result<(), RequestError> {
        if slots.take_more(count) { Ok(()) } else { Err(busy()) }
    }

    /// The deadline of a request with the header of a timeout; `None` without the header. A dispatcher sends the header,
    /// and sends the body at once, so that timeout begins with the head.
    ///
    /// # Errors
    /// If the header is malformed (status 400).
    pub(crate) fn deadline(&self, headers: &HeaderMap, received: Instant) -> Result<Option<Instant>, RequestError> {
        let requested = wire::timeout(text(headers, &header::TIMEOUT_MS)?)?;
        Ok(requested.map(|requested| received + self.request_limits.timeout(Some(requested))))
    }

    /// The deadline of a request whose body has just arrived. The time of a client that sends no timeout begins here, so
    /// that a slow network does not shorten it.
    pub(crate) fn deadline_after_upload(&self, deadline: Option<Instant>) -> Instant {
        deadline.unwrap_or_else(|| Instant::now() + self.request_limits.deadline)
    }

    /// Ends the work for a request. Adds the header that tells how long it took, and that for full batches.
    pub(crate) fn with_work(&self, mut reply: Reply, work: &Work) -> Reply {
        let full = self.pipeline.full_work().map(|full| (header::FULL_WORK_US, full));
        for (name, time) in [(header::WORK_US, work.end())].into_iter().chain(full) {
            reply.headers_mut().insert(name, HeaderValue::from(time.as_micros() as u64));
        }
        reply
    }

    /// Adds the headers that every answer to a request with images has: the capacity, the number of slots that are
    /// taken, and the identifiers of the request. A refusal for lack of slots also tells when to come back.
    ///
    /// If the request came from a dispatcher, the answer also tells what other dispatchers take and claim.
    pub(crate) fn add_headers(&self, mut reply: Reply, client: SlotClient, trace: &TraceContext) -> Reply {
        slots::add_headers(reply.headers_mut(), &self.slots, client);
        if reply.status() == StatusCode::SERVICE_UNAVAILABLE
            && let Some(mean) = self.work.mean()
        {
            let milliseconds = (mean.as_secs_f64() * 1e3).ceil().max(1.0);
            reply.headers_mut().insert(header::RETRY_MS, HeaderValue::from(milliseconds as u64));
        }
        trace.write(reply.headers_mut());
        reply
    }
}

/// The answer for a classified image, with the best classes. The request waited `queued_ms` milliseconds in the dispatcher,
/// and spent `time_here` in the replica with the name `replica`.
fn describe(
    classification: Classification,
    top_k: TopK,
    replica: String,
    queued_ms: f64,
    time_here: Duration,
) -> Answer {
    let Classification { logits, embedding, times, model } = classification;
    let predictions = best(&softmax(&logits), &model.labels, top_k.most());
    let milliseconds = |duration: Duration| (duration.as_secs_f64() * 1e5).round() / 100.0;
    let timing_ms = Timing {
        queue: queued_ms,
        decode: milliseconds(times.decode),
        batch: milliseconds(times.batch),
        inference: milliseconds(times.inference),
        total: queued_ms + milliseconds(time_here),
    };
    let (name, model_version) = (&model.name, model.version.clone());
    Answer { embedding, model_version, ..Answer::new(predictions, name, replica, timing_ms) }
}

/// Most numbers that are ranked and written on the thread of the sockets, which takes below a millisecond.
const MOST_NUMBERS: usize = 4096;

/// Makes an answer of `numbers` numbers. A long one is made on the thread that parses long bodies, so that the thread of
/// the sockets goes on.
///
/// # Errors
/// If `make` panics (status 500), or has not ended at `deadline` (504), since that thread may have long bodies to parse.
pub(crate) async fn written<T: Send + 'static>(
    numbers: usize,
    deadline: Instant,
    make: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RequestError> {
    if numbers <= MOST_NUMBERS {
        return Ok(make());
    }
    let mut writing = tokio::task::spawn_blocking(make);
    let failed = |error| RequestError::new(Code::Internal, format!("write the answer: {error}"));
    match tokio::time::timeout_at(deadline.into(), &mut writing).await {
        Ok(answer) => answer.map_err(failed),
        Err(_elapsed) => {
            // Otherwise an answer that has not begun would take the thread's time although no client waits for it.
            writing.abort();
            Err(RequestError::new(Code::DeadlineExceeded, "the deadline passed before the answer was written"))
        }
    }
}

/// The error for a request that finds too few free slots.
fn busy() -> RequestError {
    let message = "this replica has not enough free slots; send the request to another replica, or retry in 1 s";
    RequestError::new(Code::Busy, message).retry_after(Duration::from_secs(1))
}

/// Awaits an answer. A panic becomes an error; otherwise it would break the connection, and a dispatcher would count it as
/// the death of this replica.
///
/// # Errors
/// If `answer` panics (status 500). The log has the panic.
pub(crate) async fn without_panic<T>(answer: impl Future<Output = T>) -> Result<T, RequestError> {
    let message = "the answer could not be made; the log of the replica has the reason";
    AssertUnwindSafe(answer).catch_unwind().await.map_err(|_panic| RequestError::new(Code::Internal, message))
}

/// Adds the mark of [`discard_refused`] to the answer.
pub(crate) fn with_mark(mut reply: Reply, mark: Option<BodyIsRead>) -> Reply {
    if let Some(mark) = mark {
        reply.extensions_mut().insert(mark);
    }
    reply
}

/// Reads and throws away the body of a request that is refused by `fault`. The answer `busy` does not wait for the body,
/// which is read beside it: the dispatcher should send the request elsewhere at once. Returns the mark for that answer.
pub(crate) async fn discard_refused(upload: Upload, fault: &RequestError) -> Option<BodyIsRead> {
    if fault.code == Code::Busy {
        return upload.discard_beside();
    }
    upload.discard().await;
    None
}

/// The facts from the head of a valid request, and the slot of the request.
struct Admitted<'a> {
    slot: TakenSlots,
    in_progress: InProgress,
    content_type: Option<&'a str>,
    /// What the answer should have.
    query: PredictQuery,
    /// See [`ReplicaHandler::deadline`].
    deadline: Option<Instant>,
    /// The time that the request waited in the dispatcher, in milliseconds.
    queued_ms: f64,
}

/// Counts a request as in progress until this value is dropped, and then records the request's latency.
pub(crate) struct InProgress {
    received: Instant,
}

impl InProgress {
    pub(crate) fn start(received: Instant) -> Self {
        metrics::in_progress().increment(1.0);
        Self { received }
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        metrics::in_progress().decrement(1.0);
        metrics::latency().record(self.received.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_of_its_own_request() {
        assert_eq!(without_panic(async { 7 }).await, Ok(7));
        let failed: Result<u8, RequestError> = without_panic(async { panic!("a fault of this test") }).await;
        assert_eq!(failed.expect_err("it panicked").code, Code::Internal);
    }

    #[test]
    fn a_long_answer_behind_other_work_is_refused_at_the_deadline() {
        // As in the server, one thread does all blocking work.
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().max_blocking_threads(1).build().expect("a runtime");
        let (open, gate) = std::sync::mpsc::channel::<()>();
        runtime.block_on(async {
            let parsing = tokio::task::spawn_blocking(move || gate.recv());
            let (short, near) = (Duration::from_millis(50), Instant::now() + Duration::from_millis(50));
            let late = tokio::time::timeout(100 * short, written(MOST_NUMBERS + 1, near, || 1)).await;
            let fault = late.expect("the deadline has passed").expect_err("the thread is busy");
            assert_eq!(fault.code, Code::DeadlineExceeded);
            assert_eq!(written(MOST_NUMBERS, near, || 1).await.ok(), Some(1), "a short answer needs no thread");
            open.send(()).expect("the thread waits");
            parsing.await.expect("no panic").expect("a message");
            let far = Instant::now() + Duration::from_secs(60);
            assert_eq!(written(MOST_NUMBERS + 1, far, || 1).await.ok(), Some(1));
        });
    }
}
