//! The HTTP interface: checks a request, reads its body, and makes the answer or the error a response of the wire
//! contract.

use crate::admin::Admin;
use crate::dispatch::RequestDispatcher;
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
use service::body::{BodyLimits, Upload};
use service::headers::{deep_copy, text};
use service::options::RequestLimits;
use service::respond::{self, Reply};
use service::trace::TraceContext;
use service::wire::{self, BodyFormat, Code, ErrorBody, RequestError, header};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The answer to `GET /openapi.json`.
static OPENAPI: &[u8] = include_bytes!("openapi.json");

/// Answers every request to the dispatcher's address.
pub struct Handler {
    /// Sends classification requests through the queue to a replica.
    pub dispatcher: RequestDispatcher,
    /// Answers the admin paths; `None` if they are served on an address of their own.
    pub admin: Option<Admin>,
    /// The token that `/predict` and `/infer` require; `None` if they require none.
    pub token: Option<Token>,
    /// Limits of one body.
    pub body_limits: BodyLimits,
    /// Limits of one request, such as its longest time.
    pub request_limits: RequestLimits,
    /// The metrics of requests: their outcomes and durations.
    pub meters: RequestMeters,
}

impl Handler {
    /// Answers one request. The future is boxed, so that an idle connection holds no memory for it.
    pub fn handle(self: &Arc<Self>, request: Request<Incoming>) -> BoxFuture<'static, Reply> {
        let (head, body) = request.into_parts();
        if head.method == Method::POST && is_prediction(head.uri.path()) {
            let trace = TraceContext::from_headers(&head.headers);
            let (checked, upload) = (self.check(&head), Upload::new(&head.headers, body));
            // Boxed on its own, so that the memory for reading the body is free while the request waits.
            let received = self.clone().receive(trace, checked, upload).boxed();
            self.clone().predict(received).boxed()
        } else {
            self.clone().answer_other(head, body).boxed()
        }
    }

    /// Answers a request for anything but a classification.
    async fn answer_other(self: Arc<Self>, head: Parts, body: Incoming) -> Reply {
        // Closing a connection with an unread body would reset it, and the client would lose the answer.
        Upload::new(&head.headers, body).discard().await;
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
    fn check(&self, head: &Parts) -> Result<CheckedHead, RequestError> {
        if let Some(token) = &self.token {
            token.check(&head.headers)?;
        }
        BodyFormat::from_content_type(text(&head.headers, &CONTENT_TYPE)?)?;
        let budget = self.request_limits.timeout(wire::timeout(text(&head.headers, &header::TIMEOUT_MS)?)?);
        Ok(CheckedHead {
            content_type: head.headers.get(CONTENT_TYPE).map(deep_copy),
            top_k: wire::top_k(head.uri.query())?,
            budget,
        })
    }

    /// Answers a classification request. Every waiting request holds one of these futures, so the future is small: the
    /// memory of `received` is freed once the body has arrived.
    fn predict(self: Arc<Self>, received: BoxFuture<'static, Received>) -> impl Future<Output = Reply> + Send {
        let mut recorder = OutcomeRecorder { handler: self, queued: None, outcome: None };
        async move {
            let request = match received.await {
                Ok(request) => request,
                Err((error, trace)) => return recorder.refuse(&error, &trace),
            };
            recorder.queued = Some(request.accepted);
            match recorder.handler.dispatcher.answer(&request).await {
                Ok(answer) => {
                    recorder.set_outcome(outcome(&answer));
                    let mut reply = respond::bytes(answer.status, "application/json", answer.body);
                    request.trace.write(reply.headers_mut());
                    reply
                }
                Err(error) => {
                    // A refusal takes no time. If it counted as a latency, an overload would look fast.
                    recorder.queued.take_if(|_| matches!(error.code, Code::QueueFull | Code::Overloaded));
                    recorder.refuse(&error, &request.trace)
                }
            }
        }
    }

    /// Reads the body of a request. If the head is not valid, the body is discarded. The request is accepted, and its
    /// time begins, when the whole body has arrived: a slow network is not a slow service.
    async fn receive(
        self: Arc<Self>,
        trace: TraceContext,
        checked: Result<CheckedHead, RequestError>,
        upload: Upload,
    ) -> Received {
        let CheckedHead { content_type, top_k, budget } = match checked {
            Ok(head) => head,
            Err(error) => {
                upload.discard().await;
                return Err((error, trace));
            }
        };
        let (arrived, kept) = (Instant::now(), content_type.as_ref().map_or(0, HeaderValue::len));
        match upload.read(&self.body_limits, kept + trace.header_bytes(), None).await {
            Ok(body) => {
                let accepted = Instant::now();
                self.meters.upload.record(accepted - arrived);
                let deadline = accepted + budget;
                Ok(Arc::new(BufferedRequest { body, content_type, top_k, trace, accepted, deadline }))
            }
            Err(error) => {
                if error.code == Code::QueueFull {
                    count_shed(ShedReason::Bytes);
                }
                Err((error, trace))
            }
        }
    }
}

/// A request with its body, or the error and the trace context of a request that is refused.
type Received = Result<Arc<BufferedRequest>, (RequestError, TraceContext)>;

/// The values in the head of a request after they were checked.
struct CheckedHead {
    content_type: Option<HeaderValue>,
    top_k: usize,
    /// The time from the arrival of the whole request to its answer.
    budget: Duration,
}

fn is_prediction(path: &str) -> bool {
    matches!(path, "/predict" | "/infer")
}

/// The value of the label `code` for an answer: [`OK`], the code in the replica's error body, or `unknown` if the body
/// has no code.
fn outcome(answer: &ReplicaAnswer) -> Cow<'static, str> {
    if answer.status == StatusCode::OK {
        return OK.into();
    }
    serde_json::from_slice::<ErrorBody>(&answer.body).map_or("unknown".into(), |body| body.code.into())
}

/// Records the outcome and the duration of a request. This happens in the destructor, so that a request whose client
/// leaves is recorded, too.
struct OutcomeRecorder {
    handler: Arc<Handler>,
    /// The instant at which the request was accepted, if it was in the queue. The durations of other requests are not
    /// recorded.
    queued: Option<Instant>,
    /// The value of the label `code`; `None` if the client leaves before the answer.
    outcome: Option<Cow<'static, str>>,
}

impl OutcomeRecorder {
    fn set_outcome(&mut self, outcome: Cow<'static, str>) {
        self.outcome = Some(outcome);
    }

    /// Returns the response to a request that is refused or has failed.
    fn refuse(&mut self, error: &RequestError, trace: &TraceContext) -> Reply {
        self.set_outcome(error.code.as_str().into());
        let mut reply = respond::error(error, &trace.request_id());
        trace.write(reply.headers_mut());
        reply
    }
}

impl Drop for OutcomeRecorder {
    fn drop(&mut self) {
        if let Some(accepted) = self.queued {
            self.handler.meters.duration.record(accepted.elapsed());
        }
        self.handler.meters.count(self.outcome.take().unwrap_or(CLIENT_GONE.into()));
    }
}
