//! HTTP ↔ job. Checks a request, queues it, and turns its outcome into the contract's answer.

use crate::forward::{Answer, Picture};
use crate::queue::{Entry, Ticket};
use crate::worker::{Handle, Job, Message};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, StatusCode};
use metrics::{counter, histogram};
use service::admin::Admin;
use service::body;
use service::headers::text;
use service::options::Intake;
use service::respond::{self, Reply};
use service::trace::Trace;
use service::wire::{self, Code, ErrorBody, Fault, Form, header, metric};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};

/// What every request is answered from.
pub struct Handler {
    /// Takes jobs.
    pub worker: Handle,
    /// Answers the admin paths.
    pub admin: Admin,
    /// What one request may cost.
    pub intake: Intake,
    /// Names the next job.
    pub next_ticket: AtomicU64,
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
            "/predict" | "/infer" => respond::method_not_allowed("POST"),
            "/status" if request.method() == Method::GET => self.status().await,
            "/status" => respond::method_not_allowed("GET"),
            _ => respond::not_found(path, "pictures go to POST /predict"),
        }
    }

    async fn predict(&self, request: Request<Incoming>) -> Reply {
        let mut tally = Tally { accepted: Instant::now(), code: None, queued: false };
        let trace = Trace::of(request.headers());
        let mut reply = match self.outcome(request, &trace, &mut tally).await {
            Ok(answer) => {
                tally.code = Some(answered_code(&answer));
                let mut reply = respond::text("application/json", String::new());
                *reply.status_mut() = answer.status;
                *reply.body_mut() = answer.body.into();
                reply
            }
            Err(fault) => {
                tally.code = Some(fault.code.as_str().into());
                respond::fault(&fault, trace.request_id())
            }
        };
        trace.write(reply.headers_mut());
        reply
    }

    async fn outcome(&self, request: Request<Incoming>, trace: &Trace, tally: &mut Tally) -> Result<Answer, Fault> {
        let (head, body) = request.into_parts();
        Form::of(text(&head.headers, CONTENT_TYPE.as_str())?)?;
        let top_k = wire::top_k(head.uri.query())?;
        let budget = self.intake.budget(wire::timeout(text(&head.headers, header::TIMEOUT_MS)?)?);
        let deadline = tally.accepted + budget;
        let picture = Picture {
            body: body::read(body, self.intake.body(), deadline).await?,
            content_type: head.headers.get(CONTENT_TYPE).cloned(),
            top_k,
            trace: trace.clone(),
        };
        tally.queued = true;
        let waited = tokio::time::timeout_at(deadline.into(), self.queued(picture, tally.accepted, deadline));
        let answer = waited.await.unwrap_or_else(|_elapsed| {
            Err(Fault::new(Code::DeadlineExceeded, format!("no answer within {} ms", budget.as_millis())))
        });
        // Refused at once: as a latency it would make an overload look fast.
        tally.queued = !matches!(&answer, Err(fault) if fault.code == Code::QueueFull);
        answer
    }

    /// Waits in the queue, and at a replica, until the outcome is there.
    ///
    /// # Cancel safety
    /// Dropped, it gives the place up: by the deadline, or by a client that leaves.
    async fn queued(&self, picture: Picture, accepted: Instant, deadline: Instant) -> Result<Answer, Fault> {
        let ticket = Ticket(self.next_ticket.fetch_add(1, Ordering::Relaxed));
        // Declared first, so dropped after `outcome` is: a withdrawal that comes before its job finds nothing, and the
        // worker then knows the job by its closed reply.
        let mut place = Place { ticket, withdrawn: &self.worker.withdrawn, held: true };
        let (reply, outcome) = oneshot::channel();
        let bytes = picture.body.len();
        let job = Job::new(Arc::new(picture), accepted, reply);
        let stopping = || Fault::new(Code::Internal, "the dispatcher is stopping");
        let message = Message::Submit(Entry { ticket, deadline, bytes, job });
        self.worker.messages.send(message).await.map_err(|_gone| stopping())?;
        let outcome = outcome.await.map_err(|_gone| stopping())?;
        place.held = false;
        outcome
    }

    async fn status(&self) -> Reply {
        let (reply, snapshot) = oneshot::channel();
        let asked = self.worker.messages.send(Message::Snapshot(reply)).await;
        match snapshot.await {
            Ok(snapshot) if asked.is_ok() => respond::json(StatusCode::OK, &snapshot),
            _ => respond::fault(&Fault::new(Code::Internal, "the dispatcher is stopping"), ""),
        }
    }
}

/// A place in the queue, given back when dropped.
struct Place<'a> {
    ticket: Ticket,
    withdrawn: &'a mpsc::UnboundedSender<Ticket>,
    held: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.held {
            // A worker that is gone holds no place.
            let _gone = self.withdrawn.send(self.ticket);
        }
    }
}

/// `ok`, or the code in the error body of the replica.
fn answered_code(answer: &Answer) -> String {
    if answer.status == StatusCode::OK {
        return "ok".into();
    }
    serde_json::from_slice::<ErrorBody>(&answer.body).map_or_else(|_| "unknown".into(), |body| body.code)
}

/// Counts a request by its outcome when dropped. One whose client left has none; had it waited, its time counts.
struct Tally {
    accepted: Instant,
    code: Option<String>,
    /// Whether it was in the queue, and so says something about latency.
    queued: bool,
}

impl Drop for Tally {
    fn drop(&mut self) {
        if self.queued {
            histogram!(metric::REQUEST_DURATION).record(self.accepted.elapsed());
        }
        let code = self.code.take().unwrap_or_else(|| "client_gone".into());
        counter!("dispatcher_requests_total", "code" => code).increment(1);
    }
}
