//! HTTP ↔ job. Checks a request, queues it, and turns its outcome into the contract's answer.

use crate::forward::{Answer, Picture};
use crate::inspection::Inspection;
use crate::queue::{Entry, Ticket};
use crate::token::Token;
use crate::worker::{Handle, Job, Message};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};
use metrics::{Counter, Histogram, counter, histogram};
use service::body::{self, Limits};
use service::headers::{deep_copy, text};
use service::options::RequestLimits;
use service::respond::{self, Reply};
use service::trace::TraceContext;
use service::wire::{self, BodyFormat, Code, ErrorBody, RequestError as Fault, header, metric};
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Describes this interface, for people's tools.
static OPENAPI: &[u8] = include_bytes!("openapi.json");

/// What every request is answered from.
pub struct Handler {
    /// Takes jobs.
    pub worker: Handle,
    /// Answers the admin paths, unless they have an address of their own.
    pub inspection: Option<Inspection>,
    /// What clients must prove to know.
    pub token: Option<Token>,
    /// What one body may cost.
    pub body: Limits,
    /// Longest time for a request.
    pub request_limits: RequestLimits,
    /// Accepted → answered, at most, to count as good.
    pub objective: Duration,
    /// Names the next job.
    pub next_ticket: AtomicU64,
    /// Counts outcomes.
    pub meters: Meters,
}

/// The metrics that every request touches, looked up once.
pub struct Meters {
    duration: Histogram,
    ok: Counter,
}

impl Default for Meters {
    fn default() -> Self {
        Self { duration: histogram!(metric::REQUEST_DURATION), ok: outcomes("ok") }
    }
}

fn outcomes(code: impl Into<String>) -> Counter {
    counter!(metric::REQUESTS, "code" => code.into())
}

impl Handler {
    /// Answers one request. Boxed, so that a connection holds nothing of it while it is idle.
    pub fn handle(self: &Arc<Self>, request: Request<Incoming>) -> BoxFuture<'static, Reply> {
        let (head, body) = request.into_parts();
        if head.method == Method::POST && is_prediction(head.uri.path()) {
            let accepted = Instant::now();
            let trace = TraceContext::from_headers(&head.headers);
            let asked = self.check(&head, accepted);
            let received = self.clone().receive(trace, asked, body).boxed();
            self.clone().predict(accepted, received).boxed()
        } else {
            self.clone().inspect(head, body).boxed()
        }
    }

    async fn inspect(self: Arc<Self>, head: Parts, body: Incoming) -> Reply {
        // Nothing here takes one; unread, it would cost its sender the answer.
        body::discard(body).await;
        let path = head.uri.path();
        if path == "/openapi.json" {
            return respond::read_only(&head.method, || {
                respond::bytes(StatusCode::OK, "application/json", Bytes::from_static(OPENAPI))
            });
        }
        if let Some(inspection) = &self.inspection
            && let Some(reply) = inspection.answer(&head.method, path).await
        {
            return reply;
        }
        let trace = TraceContext::from_headers(&head.headers);
        let mut reply = if is_prediction(path) {
            respond::method_not_allowed("POST", &trace.request_id())
        } else {
            respond::not_found(path, "pictures go to POST /predict", &trace.request_id())
        };
        trace.write(reply.headers_mut());
        reply
    }

    /// What the head alone tells: who asks, in what form, for how many predictions, within what time.
    fn check(&self, head: &Parts, accepted: Instant) -> Result<Asked, Fault> {
        if let Some(token) = &self.token {
            token.check(&head.headers)?;
        }
        BodyFormat::from_content_type(text(&head.headers, &CONTENT_TYPE)?)?;
        let budget = self.request_limits.timeout(wire::timeout(text(&head.headers, &header::TIMEOUT_MS)?)?);
        Ok(Asked {
            content_type: head.headers.get(CONTENT_TYPE).map(deep_copy),
            top_k: wire::top_k(head.uri.query())?,
            accepted,
            deadline: accepted + budget,
        })
    }

    /// Small, as many of it are held as requests wait: what is received with is gone by then.
    fn predict(
        self: Arc<Self>,
        accepted: Instant,
        received: BoxFuture<'static, Received>,
    ) -> impl Future<Output = Reply> + Send {
        let mut tally = Tally { handler: self, accepted, outcome: None, queued: false };
        async move {
            let picture = match received.await {
                Ok(picture) => picture,
                Err((fault, trace)) => return tally.refuse(&fault, &trace),
            };
            tally.queued = true;
            match tally.handler.answer(&picture).await {
                Ok(answer) => {
                    tally.ended(outcome(&answer));
                    let mut reply = respond::bytes(answer.status, "application/json", answer.body);
                    picture.trace.write(reply.headers_mut());
                    reply
                }
                Err(fault) => {
                    // Refused at once: as a latency it would make an overload look fast.
                    tally.queued = !matches!(fault.code, Code::QueueFull | Code::Overloaded);
                    tally.refuse(&fault, &picture.trace)
                }
            }
        }
    }

    async fn receive(self: Arc<Self>, trace: TraceContext, asked: Result<Asked, Fault>, body: Incoming) -> Received {
        let Asked { content_type, top_k, accepted, deadline } = match asked {
            Ok(asked) => asked,
            Err(fault) => {
                body::discard(body).await;
                return Err((fault, trace));
            }
        };
        match body::read(body, &self.body, deadline).await {
            Ok(body) => Ok(Arc::new(Picture { body, content_type, top_k, trace, accepted, deadline })),
            Err(fault) => {
                if fault.code == Code::QueueFull {
                    counter!(metric::SHED, "reason" => "bytes").increment(1);
                }
                Err((fault, trace))
            }
        }
    }

    fn answer(&self, picture: &Arc<Picture>) -> impl Future<Output = Result<Answer, Box<Fault>>> + Send {
        let waited = tokio::time::timeout_at(picture.deadline.into(), self.queued(picture));
        waited.map(|in_time| {
            in_time.unwrap_or_else(|_elapsed| {
                let budget = picture.deadline.saturating_duration_since(picture.accepted);
                let message = format!("no answer within {} ms", budget.as_millis());
                Err(Fault::new(Code::DeadlineExceeded, message).into())
            })
        })
    }

    /// Waits for a turn, takes it, and waits again if it brought nothing.
    ///
    /// # Cancel safety
    /// Dropped, it gives the place up: by the deadline, or by a client that leaves.
    async fn queued(&self, picture: &Arc<Picture>) -> Result<Answer, Box<Fault>> {
        let ticket = Ticket(self.next_ticket.fetch_add(1, Ordering::Relaxed));
        // Declared first, so dropped after `waiting` is: a withdrawal that comes before its job finds nothing, and the
        // worker then knows the job by its closed reply.
        let mut place = Place { ticket, worker: &self.worker, held: true };
        let stopping = || Fault::new(Code::Internal, "the dispatcher is stopping");
        let mut waiting = {
            let permit = match self.worker.messages.try_reserve() {
                Ok(permit) => permit,
                // Rare, and boxed so that it costs nothing otherwise.
                Err(_full) => self.worker.messages.reserve().boxed().await.map_err(|_gone| stopping())?,
            };
            let (job, waiting) = Job::new(picture.accepted);
            let objective = picture.accepted + self.objective;
            permit.send(Message::Submit(Entry { ticket, objective, deadline: picture.deadline, job }));
            waiting
        };
        loop {
            place.held = true;
            let outcome = waiting.await.map_err(|_gone| stopping())?;
            place.held = false;
            let turn = outcome?;
            match turn.take(picture.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(again) => waiting = again,
            }
        }
    }
}

/// A whole request; or why not, and of which.
type Received = Result<Arc<Picture>, (Fault, TraceContext)>;

/// What a request asks for.
struct Asked {
    content_type: Option<HeaderValue>,
    top_k: usize,
    accepted: Instant,
    deadline: Instant,
}

fn is_prediction(path: &str) -> bool {
    matches!(path, "/predict" | "/infer")
}

/// A place in the queue, given back when dropped.
struct Place<'a> {
    ticket: Ticket,
    worker: &'a Handle,
    held: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.held {
            self.worker.withdraw(self.ticket);
        }
    }
}

/// `ok`, or the code in the error body of the replica.
fn outcome(answer: &Answer) -> Cow<'static, str> {
    if answer.status == StatusCode::OK {
        return "ok".into();
    }
    serde_json::from_slice::<ErrorBody>(&answer.body).map_or("unknown".into(), |body| body.code.into())
}

/// Counts a request by its outcome when dropped. One whose client left has none; had it waited, its time counts.
struct Tally {
    handler: Arc<Handler>,
    accepted: Instant,
    outcome: Option<Cow<'static, str>>,
    /// Whether it was in the queue, and so says something about latency.
    queued: bool,
}

impl Tally {
    fn ended(&mut self, outcome: Cow<'static, str>) {
        self.outcome = Some(outcome);
    }

    fn refuse(&mut self, fault: &Fault, trace: &TraceContext) -> Reply {
        self.ended(fault.code.as_str().into());
        let mut reply = respond::error(fault, &trace.request_id());
        trace.write(reply.headers_mut());
        reply
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        if self.queued {
            self.handler.meters.duration.record(self.accepted.elapsed());
        }
        match self.outcome.as_deref() {
            Some("ok") => self.handler.meters.ok.increment(1),
            outcome => outcomes(outcome.unwrap_or("client_gone")).increment(1),
        }
    }
}
