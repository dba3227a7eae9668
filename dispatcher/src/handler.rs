//! The HTTP interface: checks a request, reads its body, and makes the answer or the error a response of the wire
//! contract.

use crate::admin::Admin;
use crate::dispatch::RequestDispatcher;
use crate::fair::Tenant;
use crate::forward::ReplicaAnswer;
use crate::meters::{CLIENT_GONE, OK, RequestMeters, ShedReason, count_shed};
use crate::request::BufferedRequest;
use crate::token::{Account, Tokens};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, StatusCode};
use service::body::{self, BodyLimits};
use service::coding;
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
    /// Sends classification requests through the queue to a replica.
    pub dispatcher: RequestDispatcher,
    /// Answers the admin paths; `None` if they are served on an address of their own.
    pub admin: Option<Admin>,
    /// The tokens, one of which a request with an image must have; `None` if it needs none.
    pub tokens: Option<Tokens>,
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
        if wire::takes_image(&head.method, head.uri.path()) {
            let accepted = Instant::now();
            let trace = TraceContext::from_headers(&head.headers);
            let account = self.tokens.as_ref().map(|tokens| tokens.account(&head.headers)).transpose();
            let counted = account.as_ref().ok().cloned().flatten();
            let checked = account.and_then(|account| self.check(&head, account.as_deref(), accepted));
            // Boxed on its own, so that the memory for reading the body is free while the request waits.
            let received = self.clone().receive(trace, checked, body).boxed();
            self.clone().predict(accepted, counted, received).boxed()
        } else {
            self.clone().answer_other(head, body).boxed()
        }
    }

    /// Answers a request for anything but a classification.
    async fn answer_other(self: Arc<Self>, head: Parts, body: Incoming) -> Reply {
        // Closing a connection with an unread body would reset it, and the client would lose the answer.
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
        let mut reply = match wire::image_methods(path) {
            Some(methods) => respond::method_not_allowed(methods, &trace.request_id()),
            None => respond::not_found(path, "send images to POST /predict", &trace.request_id()),
        };
        trace.write(reply.headers_mut());
        reply
    }

    /// Checks the rate of the token's tenant, the body format, the number of predictions and the timeout, all before the
    /// body is read.
    fn check(&self, head: &Parts, account: Option<&Account>, accepted: Instant) -> Result<CheckedHead, RequestError> {
        if let Some(account) = account {
            account.check_rate(accepted)?;
        }
        coding::check(&head.headers)?;
        BodyFormat::from_content_type(text(&head.headers, &CONTENT_TYPE)?)?;
        let budget = self.request_limits.timeout(wire::timeout(text(&head.headers, &header::TIMEOUT_MS)?)?);
        Ok(CheckedHead {
            tenant: account.map(|account| account.tenant).unwrap_or_default(),
            content_type: head.headers.get(CONTENT_TYPE).map(deep_copy),
            top_k: wire::top_k(head.uri.query())?,
            accepted,
            deadline: accepted + budget,
        })
    }

    /// Answers a classification request. Every waiting request holds one of these futures, so the future is small: the
    /// memory of `received` is freed once the body has arrived.
    fn predict(
        self: Arc<Self>,
        accepted: Instant,
        account: Option<Arc<Account>>,
        received: BoxFuture<'static, Received>,
    ) -> impl Future<Output = Reply> + Send {
        let mut recorder = OutcomeRecorder { handler: self, accepted, account, outcome: None, was_queued: false };
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
                    // A refusal takes no time. If it counted as a latency, an overload would look fast.
                    recorder.was_queued = !matches!(error.code, Code::QueueFull | Code::Overloaded);
                    recorder.refuse(&error, &request.trace)
                }
            }
        }
    }

    /// Reads the body of a request. If the head is not valid, the body is discarded.
    async fn receive(
        self: Arc<Self>,
        trace: TraceContext,
        checked: Result<CheckedHead, RequestError>,
        body: Incoming,
    ) -> Received {
        let CheckedHead { tenant, content_type, top_k, accepted, deadline } = match checked {
            Ok(head) => head,
            Err(error) => {
                body::discard(body).await;
                return Err((error, trace));
            }
        };
        match body::read(body, &self.body_limits, deadline).await {
            Ok(body) => Ok(Arc::new(BufferedRequest { body, content_type, tenant, top_k, trace, accepted, deadline })),
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
    tenant: Tenant,
    content_type: Option<HeaderValue>,
    top_k: usize,
    accepted: Instant,
    deadline: Instant,
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
    accepted: Instant,
    /// The account of the request's token; `None` if it has none.
    account: Option<Arc<Account>>,
    /// The value of the label `code`; `None` if the client leaves before the answer.
    outcome: Option<Cow<'static, str>>,
    /// Whether the request was in the queue. The durations of other requests are not recorded.
    was_queued: bool,
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
        if self.was_queued {
            self.handler.meters.duration.record(self.accepted.elapsed());
        }
        let outcome = self.outcome.take().unwrap_or(CLIENT_GONE.into());
        if let Some(account) = &self.account {
            account.meters.count(&outcome);
        }
        self.handler.meters.count(outcome);
    }
}
