//! HTTP ↔ pipeline. Checks a request, takes a slot, and turns the model's numbers into the contract's answer.

use crate::pipeline::{Classified, Picture, Pipeline};
use crate::ranking::best;
use crate::served::Served;
use crate::softmax::softmax;
use crate::{form, inference_protocol};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, StatusCode};
use metrics::{gauge, histogram};
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

/// What every request is answered from.
pub struct Handler {
    /// Classifies.
    pub pipeline: Pipeline,
    /// As many as the advertised capacity.
    pub slots: Arc<Semaphore>,
    /// The advertised capacity.
    pub capacity: usize,
    /// Answers the admin paths.
    pub admin: Admin,
    /// What one body may cost.
    pub body: body::Limits,
    /// Longest time for a request.
    pub request_limits: RequestLimits,
    /// The model; there once it is loaded.
    pub served: Arc<OnceLock<Served>>,
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
            _ => respond::not_found(path, "pictures go to POST /predict", ""),
        }
    }

    async fn predict(&self, request: Request<Incoming>) -> Reply {
        let received = Instant::now();
        let trace = TraceContext::from_headers(request.headers());
        let reply = match self.answer(request, received).await {
            Ok(answer) => respond::json(StatusCode::OK, &answer),
            Err(fault) => respond::error(&fault, &trace.request_id()),
        };
        self.sign(reply, &trace)
    }

    async fn answer(&self, request: Request<Incoming>, received: Instant) -> Result<Answer, RequestError> {
        let (head, body) = request.into_parts();
        let Admitted { slot, content_type, top_k, deadline } = match self.admit(&head, received) {
            Ok(admitted) => admitted,
            Err(fault) => {
                // Unread, it would cost its sender the connection, and at times the answer.
                body::discard(body).await;
                return Err(fault);
            }
        };
        let _progress = Progress::start(received);
        let body = body::read(body, &self.body, deadline).await?;
        let picture = form::picture(content_type, body.to_bytes()).await?;
        let classified = self.pipeline.classify(Picture::Encoded(picture), deadline, slot).await?;
        let queued = text(&head.headers, &header::QUEUE_MS)?.and_then(|waited| waited.parse().ok()).unwrap_or(0.0);
        Ok(self.describe(&classified, top_k, queued, received.elapsed()))
    }

    /// What the head alone tells, and whether there is room.
    fn admit<'a>(&self, head: &'a Parts, received: Instant) -> Result<Admitted<'a>, RequestError> {
        let content_type = text(&head.headers, &CONTENT_TYPE)?;
        let (top_k, deadline) = (wire::top_k(head.uri.query())?, self.deadline(&head.headers, received)?);
        Ok(Admitted { slot: self.take(1)?, content_type, top_k, deadline })
    }

    fn describe(&self, classified: &Classified, top_k: usize, queued_ms: f64, here: Duration) -> Answer {
        let Served { name, labels, .. } = self.served.get().expect("nothing is classified before it is loaded");
        let predictions = best(&softmax(&classified.logits), labels, top_k);
        let milliseconds = |duration: Duration| (duration.as_secs_f64() * 1e5).round() / 100.0;
        let timing = Timing {
            queue: queued_ms,
            decode: milliseconds(classified.times.decode),
            batch: milliseconds(classified.times.batch),
            inference: milliseconds(classified.times.inference),
            total: queued_ms + milliseconds(here),
        };
        Answer::new(predictions, name, &self.name, timing)
    }

    /// So many slots at once. A request that does not find them waits in the dispatcher, not here.
    pub(crate) fn take(&self, slots: usize) -> Result<OwnedSemaphorePermit, RequestError> {
        let count = u32::try_from(slots).expect("no more than the capacity are asked for");
        self.slots.clone().try_acquire_many_owned(count).map_err(|_| {
            let message = "this replica holds as many requests as it advertises; send to another";
            RequestError::new(Code::Busy, message).retry_after(Duration::from_secs(1))
        })
    }

    /// When a request has to be answered.
    pub(crate) fn deadline(&self, headers: &HeaderMap, received: Instant) -> Result<Instant, RequestError> {
        Ok(received + self.request_limits.timeout(wire::timeout(text(headers, &header::TIMEOUT_MS)?)?))
    }

    /// Adds the headers that every answer about pictures has.
    pub(crate) fn sign(&self, mut reply: Reply, trace: &TraceContext) -> Reply {
        reply.headers_mut().insert(header::CAPACITY, HeaderValue::from(self.capacity));
        trace.write(reply.headers_mut());
        reply
    }
}

/// A request that may send its body.
struct Admitted<'a> {
    slot: OwnedSemaphorePermit,
    content_type: Option<&'a str>,
    top_k: usize,
    deadline: Instant,
}

/// Counts a request as in progress until it is dropped, and then records how long it took.
pub(crate) struct Progress {
    received: Instant,
}

impl Progress {
    pub(crate) fn start(received: Instant) -> Self {
        gauge!("inference_in_progress").increment(1.0);
        Self { received }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        gauge!("inference_in_progress").decrement(1.0);
        histogram!("inference_latency_seconds").record(self.received.elapsed());
    }
}
