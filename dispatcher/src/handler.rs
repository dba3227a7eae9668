//! The HTTP interface: checks a request, reads its body, and makes the answer or the error a response of the wire
//! contract.

use crate::admin::Admin;
use crate::dispatch::{Expiry, RequestDispatcher};
use crate::fair::Tenant;
use crate::forward::ReplicaAnswer;
use crate::inference_protocol::{self, InferenceProtocol, is_infer};
use crate::meters::{RequestMeters, ShedReason, count_shed};
use crate::outcome::Outcome;
use crate::request::{BufferedRequest, Endpoint};
use crate::request_log::{EndedRequest, RequestLog};
use crate::timeline::Timeline;
use crate::token::{Account, Tokens};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};
use service::body::{BodyLimits, Upload};
use service::coding;
use service::headers::{deep_copy, text};
use service::memory_budget::MemoryBudget;
use service::options::RequestLimits;
use service::respond::{self, Reply};
use service::server::HeadArrived;
use service::trace::{ServerSpan, TraceContext};
use service::wire::{self, BodyFormat, Code, ErrorBody, PredictQuery, RequestError, header};
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
    /// Answers the paths of the Open Inference Protocol that are not for inference.
    pub inference_protocol: InferenceProtocol,
    /// The tokens, one of which a request with an image must have; `None` if it needs none.
    pub tokens: Option<Tokens>,
    /// Limits of one body.
    pub body_limits: BodyLimits,
    /// The memory that all requests share.
    pub memory_budget: MemoryBudget,
    /// Limits of one request, such as its longest time.
    pub request_limits: RequestLimits,
    /// The metrics of requests: their outcomes and durations.
    pub meters: RequestMeters,
    /// The log of requests that have ended.
    pub log: Arc<RequestLog>,
}

impl Handler {
    /// Answers one request. The future is boxed, so that an idle connection holds no memory for it.
    pub fn handle(self: &Arc<Self>, request: Request<Incoming>) -> BoxFuture<'static, Reply> {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        let uses_protocol = is_infer(path);
        if wire::takes_image(&head.method, path) || uses_protocol && head.method == Method::POST {
            let arrived = head.extensions.get().map_or_else(Instant::now, |&HeadArrived(arrived)| arrived);
            let mut trace = TraceContext::from_headers(&head.headers);
            let account = self.tokens.as_ref().map(|tokens| tokens.account(&head.headers)).transpose();
            let counted = account.as_ref().ok().cloned().flatten();
            let checked = account.and_then(|account| self.check(&head, account.as_deref(), arrived));
            let memory_budget = counted.as_ref().map_or(&self.memory_budget, |account| &account.memory_budget).clone();
            let logged = self.log.is_on().then(|| {
                let span = self.log.begin_span(&mut trace);
                LoggedRequest::new(path, arrived, trace.clone(), span).into()
            });
            let upload = Upload::new(&head.headers, body);
            // Boxed on its own, so that the memory for reading the body is free while the request waits.
            let received = self.clone().receive(trace, checked, upload, memory_budget, arrived).boxed();
            let predicted = self.clone().predict(received, Expiry::Timer, counted, uses_protocol, logged);
            predicted.map(|predicted| predicted.map_or_else(|refusal| *refusal, Prediction::into_reply)).boxed()
        } else {
            self.clone().answer_other(head, body).boxed()
        }
    }

    /// Answers a request for anything but a classification.
    async fn answer_other(self: Arc<Self>, head: Parts, body: Incoming) -> Reply {
        // Closing a connection with an unread body would reset it, and the client would lose the answer.
        Upload::new(&head.headers, body).discard().await;
        let path = head.uri.path();
        if inference_protocol::owns(path) {
            return self.inference_protocol.answer(&head.method, path).await;
        }
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
    fn check(&self, head: &Parts, account: Option<&Account>, arrived: Instant) -> Result<CheckedHead, RequestError> {
        if let Some(account) = account {
            account.check_rate(arrived)?;
        }
        coding::check(&head.headers)?;
        let endpoint = if is_infer(head.uri.path()) {
            Endpoint::Infer(inference_protocol::endpoint(head).into())
        } else {
            BodyFormat::from_content_type(text(&head.headers, &CONTENT_TYPE)?)?;
            Endpoint::Predict(PredictQuery::parse(head.uri.query())?)
        };
        let budget = self.request_limits.timeout(wire::timeout(text(&head.headers, &header::TIMEOUT_MS)?)?);
        Ok(CheckedHead {
            tenant: account.map(|account| account.tenant).unwrap_or_default(),
            content_type: head.headers.get(CONTENT_TYPE).map(deep_copy),
            endpoint,
            budget,
        })
    }

    /// Answers a classification request. The error is the response to a request that is refused or has failed. Every
    /// waiting request holds one of these futures, so the future is small: the memory of `received` is freed once the body
    /// has arrived.
    pub(crate) fn predict(
        self: Arc<Self>,
        received: impl Future<Output = Received> + Send + 'static,
        expiry: Expiry,
        account: Option<Arc<Account>>,
        uses_protocol: bool,
        logged: Option<Box<LoggedRequest>>,
    ) -> impl Future<Output = Result<Prediction, Box<Reply>>> + Send {
        let (queued, outcome) = (None, Outcome::ClientGone);
        let mut recorder = OutcomeRecorder { handler: self, account, queued, outcome, uses_protocol, logged };
        async move {
            let request = match received.await {
                Ok(request) => request,
                Err((error, trace)) => return Err(recorder.refuse(&error, &trace).into()),
            };
            recorder.queued = Some(request.accepted);
            if let Some(logged) = &mut recorder.logged {
                logged.accepted = Some(request.accepted);
                (logged.body_bytes, logged.timeline) = (request.body.len(), request.timeline.clone());
            }
            match recorder.handler.dispatcher.answer(&request, expiry).await {
                Ok(answer) => {
                    recorder.set_outcome(outcome_of(&answer), answer.status.as_u16());
                    Ok(Prediction { answer, request })
                }
                Err(error) => {
                    // A refusal takes no time. If it counted as a latency, an overload would look fast.
                    recorder.queued.take_if(|_| matches!(error.code, Code::QueueFull | Code::Overloaded));
                    Err(recorder.refuse(&error, &request.trace).into())
                }
            }
        }
    }

    /// Reads the body of a request. If the head is not valid, the body is discarded. The request is accepted, and its
    /// time begins, when the whole body has arrived: a slow network is not a slow service. The body counts towards
    /// `memory_budget`.
    async fn receive(
        self: Arc<Self>,
        trace: TraceContext,
        checked: Result<CheckedHead, RequestError>,
        upload: Upload,
        memory_budget: MemoryBudget,
        arrived: Instant,
    ) -> Received {
        let CheckedHead { tenant, content_type, endpoint, budget } = match checked {
            Ok(head) => head,
            Err(error) => {
                upload.discard().await;
                return Err((error, trace));
            }
        };
        let kept = content_type.as_ref().map_or(0, HeaderValue::len) + endpoint.kept_bytes();
        match upload.read(&self.body_limits, &memory_budget, kept + trace.header_bytes(), None).await {
            Ok(body) => {
                let accepted = Instant::now();
                self.meters.upload.record(accepted - arrived);
                let (deadline, timeline) = (accepted + budget, self.log.timeline());
                let request =
                    BufferedRequest { body, content_type, tenant, endpoint, trace, accepted, deadline, timeline };
                Ok(Arc::new(request))
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
pub(crate) type Received = Result<Arc<BufferedRequest>, (RequestError, TraceContext)>;

/// The answer of a replica, and the request that it answers.
pub(crate) struct Prediction {
    pub(crate) answer: ReplicaAnswer,
    pub(crate) request: Arc<BufferedRequest>,
}

impl Prediction {
    fn into_reply(self) -> Reply {
        let Self { answer, request } = self;
        let mut reply = respond::bytes(answer.status, answer.kind.content_type(), answer.body);
        if let Some(length) = answer.json_length {
            reply.headers_mut().insert(header::INFERENCE_JSON_LENGTH, HeaderValue::from(length));
        }
        request.trace.write(reply.headers_mut());
        reply
    }
}

/// The values in the head of a request after they were checked.
struct CheckedHead {
    tenant: Tenant,
    content_type: Option<HeaderValue>,
    endpoint: Endpoint,
    /// The time from the arrival of the whole request to its answer.
    budget: Duration,
}

/// The outcome of a request that a replica has answered.
fn outcome_of(answer: &ReplicaAnswer) -> Outcome {
    if answer.status == StatusCode::OK {
        return Outcome::Classified;
    }
    match serde_json::from_slice::<ErrorBody>(&answer.body) {
        Ok(body) => Outcome::of_code(&body.code, answer.status.as_u16()),
        Err(_) => Outcome::of_status(answer.status.as_u16()),
    }
}

/// Records the outcome and the duration of a request. This happens in the destructor, so that a request whose client
/// leaves is recorded, too.
struct OutcomeRecorder {
    handler: Arc<Handler>,
    /// The account of the request's token; `None` if it has none.
    account: Option<Arc<Account>>,
    /// The instant at which the request was accepted, if it was in the queue. The durations of other requests are not
    /// recorded.
    queued: Option<Instant>,
    /// The outcome. It stays as it is if the client leaves before the answer.
    outcome: Outcome,
    /// Whether the request is one of the Open Inference Protocol, whose errors have another form.
    uses_protocol: bool,
    /// The values that only the log of requests needs; `None` while that log is off.
    logged: Option<Box<LoggedRequest>>,
}

/// The values of a request that only the log of requests needs.
pub(crate) struct LoggedRequest {
    path: &'static str,
    trace: TraceContext,
    /// The instant at which the head of the request had arrived.
    arrived: Instant,
    /// The instant at which the whole request had arrived; `None` before.
    accepted: Option<Instant>,
    /// The status of the answer; `None` if the client leaves before the answer.
    status: Option<u16>,
    body_bytes: usize,
    timeline: Option<Arc<Timeline>>,
    span: Option<ServerSpan>,
}

impl LoggedRequest {
    pub(crate) fn new(path: &str, arrived: Instant, trace: TraceContext, span: Option<ServerSpan>) -> Self {
        let path = match path {
            "/predict" => "/predict",
            "/infer" => "/infer",
            // The name of the model is the client's text, which may be long.
            _ if is_infer(path) => "/v2/models/MODEL/infer",
            _ => "/predictions/MODEL",
        };
        Self { path, trace, arrived, accepted: None, status: None, body_bytes: 0, timeline: None, span }
    }
}

impl OutcomeRecorder {
    fn set_outcome(&mut self, outcome: Outcome, status: u16) {
        self.outcome = outcome;
        if let Some(logged) = &mut self.logged {
            logged.status = Some(status);
        }
    }

    /// Returns the response to a request that is refused or has failed.
    fn refuse(&mut self, error: &RequestError, trace: &TraceContext) -> Reply {
        self.set_outcome(Outcome::Failed(error.code), error.code.status());
        let mut reply = if self.uses_protocol {
            respond::inference_error(error)
        } else {
            respond::error(error, &trace.request_id())
        };
        trace.write(reply.headers_mut());
        reply
    }
}

impl Drop for OutcomeRecorder {
    fn drop(&mut self) {
        let elapsed = self.queued.map(|accepted| accepted.elapsed());
        if let Some(elapsed) = elapsed {
            self.handler.meters.duration.record(elapsed);
        }
        // A request that was not queued took none of its time.
        let verdict = self.handler.meters.count(self.outcome, elapsed.unwrap_or_default());
        if let Some(logged) = &self.logged {
            let now = Instant::now();
            self.handler.log.record(&EndedRequest {
                request_id: logged.trace.request_id(),
                path: logged.path,
                status: logged.status,
                outcome: self.outcome,
                verdict,
                body_bytes: logged.body_bytes,
                arrived: logged.arrived,
                accepted: logged.accepted.unwrap_or(now),
                ended: now,
                timeline: logged.timeline.as_deref(),
                span: logged.span,
            });
        }
        if let Some(account) = &self.account {
            account.meters.count(self.outcome);
        }
    }
}
