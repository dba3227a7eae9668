//! The HTTP interface: checks a request, reads its body, and turns the answer or the error into the contract's
//! response.

use crate::admin::Admin;
use crate::dispatch::Dispatcher;
use crate::forward::ReplicaAnswer;
use crate::meters::{CLIENT_GONE, OK, RequestMeters, ShedReason, count_shed};
use crate::request::BufferedRequest;
use crate::token::Token;
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};
use service::body::{self, BodyLimits};
use service::headers::{deep_copy, text};
use service::options::RequestLimits;
use service::respond::{self, Reply};
use service::trace::TraceContext;
use service::wire::{self, BodyFormat, Code, ErrorBody, RequestError, header};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

/// The answer to `GET /openapi.json`.
static OPENAPI: &[u8] = include_bytes!("openapi.json");

/// Answers every request to the dispatcher's address.
pub struct Handler {
    /// Takes classification requests through the queue.
    pub dispatcher: Dispatcher,
    /// Answers the admin paths; `None` if they have an address of their own.
    pub admin: Option<Admin>,
    /// The token that `/predict` requires, if there is one.
    pub token: Option<Token>,
    /// Limits of one body.
    pub body_limits: BodyLimits,
    /// Limits of one request, its time among them.
    pub request_limits: RequestLimits,
    /// Outcomes and durations.
    pub meters: RequestMeters,
}

impl Handler {
    /// Answers one request. Boxed, so that an idle connection holds no memory for it.
    pub fn handle(self: &Arc<Self>, request: Request<Incoming>) -> BoxFuture<'static, Reply> {
        let (head, body) = request.into_parts();
        if head.method == Method::POST && is_prediction(head.uri.path()) {
            let accepted = Instant::now();
            let trace = TraceContext::from_headers(&head.headers);
            let checked = self.check(&head, accepted);
            // Boxed apart, so that the memory for receiving is free again while the request waits.
            let received = self.clone().receive(trace, checked, body).boxed();
            self.clone().predict(accepted, received).boxed()
        } else {
            self.clone().answer_other(head, body).boxed()
        }
    }

    /// Answers a request that is not for a classification.
    async fn answer_other(self: Arc<Self>, head: Parts, body: Incoming) -> Reply {
        // A connection that is closed with an unread body is reset, and the client loses the answer.
        body::discard(body).await;
        let path = head.uri.path();
        if path == "/openapi.json" {
            return respond::read_only(&head.method, || {
                respond::bytes(StatusCode::OK, "application/json", Bytes::from_static(OPENAPI))
            });
        }
        if let Some(admin) = &self.admin
            && let Some(reply) = admin.answer(&head.method, path).await
        {
            return reply;
        }
        let trace = TraceContext::from_headers(&head.headers);
        let mut reply = if is_prediction(path) {
            respond::method_not_allowed("POST", &trace.request_id())
        } else {
            respond::not_found(path, "send images to POST /predict", &trace.request_id())
        };
        trace.write(reply.headers_mut());
        reply
    }

    /// Checks the token, the body format, the number of predictions and the timeout, all before the body is read.
    fn check(&self, head: &Parts, accepted: Instant) -> Result<CheckedHead, RequestError> {
        if let Some(token) = &self.token {
            token.check(&head.headers)?;
        }
        BodyFormat::from_content_type(text(&head.headers, &CONTENT_TYPE)?)?;
        let budget = self.request_limits.timeout(wire::timeout(text(&head.headers, &header::TIMEOUT_MS)?)?);
        Ok(CheckedHead {
            content_type: head.headers.get(CONTENT_TYPE).map(deep_copy),
            top_k: wire::top_k(head.uri.query())?,
            accepted,
            deadline: accepted + budget,
        })
    }

    /// Answers a classification request. As many of these futures are held as requests wait, so it is kept small: it
    /// holds `received`, whose memory is freed once the body has arrived.
    fn predict(
        self: Arc<Self>,
        accepted: Instant,
        received: BoxFuture<'static, Received>,
    ) -> impl Future<Output = Reply> + Send {
        let mut recorder = OutcomeRecorder { handler: self, accepted, outcome: None, was_queued: false };
        async move {
            let request = match received.await {
                Ok(request) => request,
                Err((error, trace)) => return recorder.refuse(&error, &trace),
            };
            recorder.was_queued = true;
            match recorder.handler.dispatcher.answer(&request).await {
                Ok(answer) => {
                    recorder.set_outcome(outcome(&answer));
                    let mut reply = respond::bytes(answer.status, "application/json", answer.body);
                    request.trace.write(reply.headers_mut());
                    reply
                }
                Err(error) => {
                    // A refusal is immediate. Counted as a latency, it would make an overload look fast.
                    recorder.was_queued = !matches!(error.code, Code::QueueFull | Code::Overloaded);
                    recorder.refuse(&error, &request.trace)
                }
            }
        }
    }

    /// Reads the body of a request. Discards it if the head is not valid.
    async fn receive(
        self: Arc<Self>,
        trace: TraceContext,
        checked: Result<CheckedHead, RequestError>,
        body: Incoming,
    ) -> Received {
        let CheckedHead { content_type, top_k, accepted, deadline } = match checked {
            Ok(head) => head,
            Err(error) => {
                body::discard(body).await;
                return Err((error, trace));
            }
        };
        match body::read(body, &self.body_limits, deadline).await {
            Ok(body) => Ok(Arc::new(BufferedRequest { body, content_type, top_k, trace, accepted, deadline })),
            Err(error) => {
                if error.code == Code::QueueFull {
                    count_shed(ShedReason::Bytes);
                }
                Err((error, trace))
            }
        }
    }
}

/// A whole request; or the error and the trace of a request that was refused.
type Received = Result<Arc<BufferedRequest>, (RequestError, TraceContext)>;

/// The values in the head of a request, all of them valid.
struct CheckedHead {
    content_type: Option<HeaderValue>,
    top_k: usize,
    accepted: Instant,
    deadline: Instant,
}

fn is_prediction(path: &str) -> bool {
    matches!(path, "/predict" | "/infer")
}

/// The value of the label `code` for an answer: [`OK`], or the code in the replica's error body.
fn outcome(answer: &ReplicaAnswer) -> Cow<'static, str> {
    if answer.status == StatusCode::OK {
        return OK.into();
    }
    serde_json::from_slice::<ErrorBody>(&answer.body).map_or("unknown".into(), |body| body.code.into())
}

/// Records a request's outcome and duration when it is dropped, so that a request whose client leaves is recorded too.
struct OutcomeRecorder {
    handler: Arc<Handler>,
    accepted: Instant,
    /// `None` if the client leaves before the answer.
    outcome: Option<Cow<'static, str>>,
    /// Whether the request was in the queue. Only then does its duration tell how fast requests are answered.
    was_queued: bool,
}

impl OutcomeRecorder {
    fn set_outcome(&mut self, outcome: Cow<'static, str>) {
        self.outcome = Some(outcome);
    }

    /// The response to a request that is refused.
    fn refuse(&mut self, error: &RequestError, trace: &TraceContext) -> Reply {
        self.set_outcome(error.code.as_str().into());
        let mut reply = respond::error(error, &trace.request_id());
        trace.write(reply.headers_mut());
        reply
    }
}

impl Drop for OutcomeRecorder {
    fn drop(&mut self) {
        if self.was_queued {
            self.handler.meters.duration.record(self.accepted.elapsed());
        }
        self.handler.meters.count(self.outcome.take().unwrap_or(CLIENT_GONE.into()));
    }
}
