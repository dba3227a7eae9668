//! HTTP ↔ pipeline: checks a request, takes a slot, and turns the logits into the answer of the HTTP contract.

use crate::metrics;
use crate::pipeline::{Classification, Image, Pipeline};
use crate::ranking::top_k;
use crate::served_model::ServedModel;
use crate::softmax::softmax;
use crate::{form, inference_protocol};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, StatusCode};
use service::admin::Admin;
use service::body;
use service::headers::text;
use service::options::RequestLimits;
use service::respond::{self, Reply};
use service::trace::TraceContext;
use service::wire::{self, Answer, Code, RequestError, Timing, header};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Answers all requests of a replica.
pub struct Handler {
    /// Classifies images.
    pub pipeline: Pipeline,
    /// One permit for each image that the replica takes at once.
    pub slots: Arc<Semaphore>,
    /// The number of slots, which is advertised to dispatchers.
    pub capacity: usize,
    /// Answers `/metrics`, `/livez` and `/readyz`.
    pub admin: Admin,
    /// Limits of one body, and of the memory of all bodies together.
    pub body: body::Limits,
    /// The longest time for a request.
    pub request_limits: RequestLimits,
    /// The served model; empty until it is loaded.
    pub model: Arc<OnceLock<ServedModel>>,
    /// This replica's name.
    pub name: String,
}

impl Handler {
    /// Answers one request.
    pub async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Reply {
        let path = request.uri().path();
        if let Some(reply) = self.admin.answer(request.method(), path) {
            return reply;
        }
        match path {
            "/predict" | "/infer" if request.method() == Method::POST => self.predict(request).await,
            "/predict" | "/infer" => respond::method_not_allowed("POST", ""),
            _ if inference_protocol::owns(path) => inference_protocol::answer(&self, request).await,
            _ => respond::not_found(path, "images go to POST /predict", ""),
        }
    }

    /// Answers `POST /predict`.
    async fn predict(&self, request: Request<Incoming>) -> Reply {
        let received = Instant::now();
        let trace = TraceContext::from_headers(request.headers());
        let reply = match self.classify(request, received).await {
            Ok(answer) => respond::json(StatusCode::OK, &answer),
            Err(fault) => respond::error(&fault, &trace.request_id()),
        };
        self.add_headers(reply, &trace)
    }

    async fn classify(&self, request: Request<Incoming>, received: Instant) -> Result<Answer, RequestError> {
        let (head, body) = request.into_parts();
        let Admitted { slot, content_type, top_k, deadline } = match self.admit(&head, received) {
            Ok(admitted) => admitted,
            Err(fault) => {
                // A body that is not read makes the server close the connection, and a client that is still sending may
                // then see a reset instead of the answer.
                body::discard(body).await;
                return Err(fault);
            }
        };
        let _in_progress = InProgress::start(received);
        let body = body::read(body, &self.body, deadline).await?;
        let image = form::encoded_image(content_type, body.to_bytes()).await?;
        let classification = self.pipeline.classify(Image::Encoded(image), deadline, slot).await?;
        let queued_ms = text(&head.headers, &header::QUEUE_MS)?.and_then(|waited| waited.parse().ok()).unwrap_or(0.0);
        Ok(self.describe(&classification, top_k, queued_ms, received.elapsed()))
    }

    /// Checks the head of a request and takes a slot for it.
    fn admit<'a>(&self, head: &'a Parts, received: Instant) -> Result<Admitted<'a>, RequestError> {
        let content_type = text(&head.headers, &CONTENT_TYPE)?;
        let (top_k, deadline) = (wire::top_k(head.uri.query())?, self.deadline(&head.headers, received)?);
        Ok(Admitted { slot: self.take_slots(1)?, content_type, top_k, deadline })
    }

    /// The answer for a classified image. The request waited `queued_ms` milliseconds in the dispatcher and took `here`
    /// in this replica.
    fn describe(&self, classification: &Classification, count: usize, queued_ms: f64, here: Duration) -> Answer {
        let ServedModel { name, labels, .. } =
            self.model.get().expect("images are classified once the model is loaded");
        let predictions = top_k(&softmax(&classification.logits), labels, count);
        let milliseconds = |duration: Duration| (duration.as_secs_f64() * 1e5).round() / 100.0;
        let timing = Timing {
            queue: queued_ms,
            decode: milliseconds(classification.times.decode),
            batch: milliseconds(classification.times.batch),
            inference: milliseconds(classification.times.inference),
            total: queued_ms + milliseconds(here),
        };
        Answer::new(predictions, name, &self.name, timing)
    }

    /// Takes `count` slots, all or none. A request that does not find them is refused: requests wait in the dispatcher.
    ///
    /// # Errors
    /// 503 `busy`.
    pub(crate) fn take_slots(&self, count: usize) -> Result<OwnedSemaphorePermit, RequestError> {
        let count = u32::try_from(count).expect("a request takes no more slots than the capacity");
        self.slots.clone().try_acquire_many_owned(count).map_err(|_| {
            let message = "this replica holds as many requests as it advertises; send to another";
            RequestError::new(Code::Busy, message).retry_after(Duration::from_secs(1))
        })
    }

    /// The instant at which a request expires.
    ///
    /// # Errors
    /// 400 when the header of the timeout is malformed.
    pub(crate) fn deadline(&self, headers: &HeaderMap, received: Instant) -> Result<Instant, RequestError> {
        Ok(received + self.request_limits.timeout(wire::timeout(text(headers, &header::TIMEOUT_MS)?)?))
    }

    /// Adds the headers of every answer about images: the capacity and the trace.
    pub(crate) fn add_headers(&self, mut reply: Reply, trace: &TraceContext) -> Reply {
        reply.headers_mut().insert(header::CAPACITY, HeaderValue::from(self.capacity));
        trace.write(reply.headers_mut());
        reply
    }
}

/// A request whose head is valid and that has a slot.
struct Admitted<'a> {
    slot: OwnedSemaphorePermit,
    content_type: Option<&'a str>,
    /// Predictions in the answer.
    top_k: usize,
    deadline: Instant,
}

/// Counts a request as in progress until dropped, and then records its latency.
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
