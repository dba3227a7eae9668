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
use service::headers::text;
use service::options::Intake;
use service::respond::{self, Reply};
use service::trace::Trace;
use service::wire::{self, Code, ErrorBody, Fault, Form, header, metric};
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
    pub intake: Intake,
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
    counter!("dispatcher_requests_total", "code" => code.into())
}

impl Handler {
    /// Answers one request. Boxed, so that a connection holds nothing of it while it is idle.
    pub fn handle(self: &Arc<Self>, request: Request<Incoming>) -> BoxFuture<'static, Reply> {
        let (head, body) = request.into_parts();
        if head.method == Method::POST && is_prediction(head.uri.path()) {
            let accepted = Instant::now();
            let trace = Trace::of(&head.headers);
            let asked = self.check(&head, accepted);
            let received = self.clone().receive(trace.clone(), asked, body).boxed();
            self.clone().predict(accepted, trace, received).boxed()
        } else {
            self.clone().inspect(head, body).boxed()
        }
    }

    async fn inspect(self: Arc<Self>, head: Parts, body: Incoming) -> Reply {
        // Nothing here takes one; unread, it would cost its sender the answer.
        body::discard(body).await;
        let path = head.uri.path();
        if path == "/openapi.json" {
            return respond::readable(&head.method, || {
                respond::whole(StatusCode::OK, "application/json", Bytes::from_static(OPENAPI))
            });
        }
        if let Some(inspection) = &self.inspection
            && let Some(reply) = inspection.answer(&head.method, path).await
        {
            return reply;
        }
        let trace = Trace::of(&head.headers);
        let mut reply = if is_prediction(path) {
            respond::method_not_allowed("POST", trace.request_id())
        } else {
            respond::not_found(path, "pictures go to POST /predict", trace.request_id())
        };
        trace.write(reply.headers_mut());
        reply
    }

    /// What the head alone tells: who asks, in what form, for how many predictions, within what time.
    fn check(&self, head: &Parts, accepted: Instant) -> Result<Asked, Fault> {
        if let Some(token) = &self.token {
            token.check(&head.headers)?;
        }
        Form::of(text(&head.headers, &CONTENT_TYPE)?)?;
        let budget = self.intake.budget(wire::timeout(text(&head.headers, &header::TIMEOUT_MS)?)?);
        Ok(Asked {
            content_type: head.headers.get(CONTENT_TYPE).cloned(),
            top_k: wire::top_k(head.uri.query())?,
            deadline: accepted + budget,
        })
    }

    /// Small, as many of it are held as requests wait: what is received with is gone by then.
    async fn predict(
        self: Arc<Self>,
        accepted: Instant,
        trace: Trace,
        received: BoxFuture<'static, Received>,
    ) -> Reply {
        let mut tally = Tally { meters: &self.meters, accepted, outcome: None, queued: false };
        let received = received.await;
        let answered = match received {
            Ok((picture, deadline)) => {
                tally.queued = true;
                self.answer(picture, accepted, deadline).await
            }
            Err(fault) => Err(fault),
        };
        // Refused at once: as a latency it would make an overload look fast.
        tally.queued &= !matches!(&answered, Err(fault) if matches!(fault.code, Code::QueueFull | Code::Overloaded));
        let mut reply = match answered {
            Ok(answer) => {
                tally.outcome = Some(outcome(&answer));
                respond::whole(answer.status, "application/json", answer.body)
            }
            Err(fault) => {
                tally.outcome = Some(fault.code.as_str().into());
                respond::fault(&fault, trace.request_id())
            }
        };
        trace.write(reply.headers_mut());
        reply
    }

    async fn receive(self: Arc<Self>, trace: Trace, asked: Result<Asked, Fault>, body: Incoming) -> Received {
        let Asked { content_type, top_k, deadline } = match asked {
            Ok(asked) => asked,
            Err(fault) => {
                body::discard(body).await;
                return Err(fault);
            }
        };
        let body = body::read(body, &self.body, deadline).await.inspect_err(|fault| {
            if fault.code == Code::QueueFull {
                counter!(metric::SHED, "reason" => "bytes").increment(1);
            }
        })?;
        Ok((Arc::new(Picture { body, content_type, top_k, trace }), deadline))
    }

    async fn answer(&self, picture: Arc<Picture>, accepted: Instant, deadline: Instant) -> Result<Answer, Fault> {
        let waited = tokio::time::timeout_at(deadline.into(), self.queued(picture, accepted, deadline));
        waited.await.unwrap_or_else(|_elapsed| {
            let budget = deadline.saturating_duration_since(accepted);
            Err(Fault::new(Code::DeadlineExceeded, format!("no answer within {} ms", budget.as_millis())))
        })
    }

    /// Waits for a turn, takes it, and waits again if it brought nothing.
    ///
    /// # Cancel safety
    /// Dropped, it gives the place up: by the deadline, or by a client that leaves.
    async fn queued(&self, picture: Arc<Picture>, accepted: Instant, deadline: Instant) -> Result<Answer, Fault> {
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
            let (job, waiting) = Job::new(accepted);
            permit.send(Message::Submit(Entry { ticket, objective: accepted + self.objective, deadline, job }));
            waiting
        };
        loop {
            place.held = true;
            let turn = waiting.await.map_err(|_gone| stopping())?;
            place.held = false;
            match turn?.take(picture.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(again) => waiting = again,
            }
        }
    }
}

/// A whole request, and when it must be answered.
type Received = Result<(Arc<Picture>, Instant), Fault>;

/// What a request asks for.
struct Asked {
    content_type: Option<HeaderValue>,
    top_k: usize,
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
struct Tally<'a> {
    meters: &'a Meters,
    accepted: Instant,
    outcome: Option<Cow<'static, str>>,
    /// Whether it was in the queue, and so says something about latency.
    queued: bool,
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        if self.queued {
            self.meters.duration.record(self.accepted.elapsed());
        }
        match self.outcome.as_deref() {
            Some("ok") => self.meters.ok.increment(1),
            outcome => outcomes(outcome.unwrap_or("client_gone")).increment(1),
        }
    }
}
