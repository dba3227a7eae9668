//! A request's turn with a replica: a slot there, one attempt, and the report of how it ended. The attempt goes on when
//! nobody waits for it any more, since the replica is computing and its slot is taken.

use crate::forward::{self, Answer, Attempt, Connection, Failure, Picture};
use crate::rotation::Address;
use hyper::StatusCode;
use service::wire::RequestError as Fault;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// How long after the deadline a replica may take to be rid of a request. Its slot is taken until then: it was told the
/// deadline, but may be in the middle of a computation.
const LINGER: Duration = Duration::from_secs(1);

/// What a waiting request gets: its turn, or why there will be none. Small, as every waiting request has room for one.
pub type Outcome = Result<Turn, Box<Fault>>;

/// How the next outcome comes to a request.
pub type Waiting = oneshot::Receiver<Outcome>;

/// Told to the worker when a turn is over.
#[derive(Debug)]
pub struct Report {
    /// Which turn.
    pub id: u64,
    /// The status of the answer, or why there was none.
    pub result: Result<StatusCode, Failure>,
    /// Slots that the replica advertised.
    pub capacity: Option<usize>,
    /// Dispatched → ended.
    pub took: Duration,
    /// The connection, if it can be used again.
    pub connection: Option<Connection>,
    /// Where a request that failed waits for what comes next.
    pub again: Option<oneshot::Sender<Outcome>>,
}

/// What a turn needs.
#[derive(Debug)]
pub struct Terms {
    /// Its name.
    pub id: u64,
    /// The replica.
    pub address: Address,
    /// An open connection to it, if one is idle.
    pub connection: Option<Connection>,
    /// How long the request has waited.
    pub waited: Duration,
    /// The client is answered by then.
    pub deadline: Instant,
    /// Told when the replica has stalled: the attempt then ends, and the request waits again.
    pub recalled: oneshot::Receiver<()>,
    /// Where the report goes.
    pub reports: mpsc::UnboundedSender<Report>,
}

/// The right to send one request to one replica. Reports when it is dropped, used or not.
#[derive(Debug)]
pub struct Turn {
    /// Gone once it is taken.
    terms: Option<Box<Terms>>,
}

impl Turn {
    /// A turn on these terms.
    pub fn new(terms: Terms) -> Self {
        Self { terms: Some(Box::new(terms)) }
    }

    /// Sends `picture`.
    ///
    /// # Errors
    /// Without an answer, the request waits again: for another turn, or to be told why there is none.
    ///
    /// # Cancel safety
    /// Dropped, the attempt goes on by itself until shortly after the deadline.
    pub fn take(mut self, picture: Arc<Picture>) -> impl Future<Output = Result<Answer, Waiting>> + Send {
        let Terms { id, address, connection, waited, deadline, recalled, reports } =
            *self.terms.take().expect("it is there until it is taken");
        let (started, reporter) = (Instant::now(), reports.clone());
        let run = Box::pin(async move {
            let attempt = forward::attempt(connection, &address, &picture, deadline, waited).await;
            report(&reporter, id, attempt, started.elapsed())
        });
        Running { run: Some(run), recalled: Some(recalled), reports, id, started, deadline }
    }

    /// Ends it without an attempt of its own: so a simulated replica answers.
    #[cfg(test)]
    pub fn end(mut self, result: Result<StatusCode, Failure>) -> Result<StatusCode, Waiting> {
        let terms = self.terms.take().expect("it is there until it is taken");
        let attempt = Attempt { capacity: None, connection: None, ..Attempt::failed(Failure::Died) };
        let answer = result.map(|status| Answer { status, body: bytes::Bytes::new() });
        report(&terms.reports, terms.id, Attempt { outcome: answer, ..attempt }, terms.waited)
            .map(|answer| answer.status)
    }

    /// Where it goes, and whether it is recalled.
    #[cfg(test)]
    pub fn terms(&mut self) -> &mut Terms {
        self.terms.as_mut().expect("it is there until it is taken")
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(terms) = self.terms.take() {
            let attempt = Attempt { connection: terms.connection, ..Attempt::failed(Failure::Unused) };
            // Nobody is left to wait again.
            let _nobody = report(&terms.reports, terms.id, attempt, Duration::ZERO);
        }
    }
}

fn report(
    reports: &mpsc::UnboundedSender<Report>,
    id: u64,
    attempt: Attempt,
    took: Duration,
) -> Result<Answer, Waiting> {
    let Attempt { outcome, capacity, connection } = attempt;
    let (result, again, handed) = match outcome {
        Ok(answer) => (Ok(answer.status), None, Ok(answer)),
        Err(failure) => {
            let (again, waiting) = oneshot::channel();
            (Err(failure), Some(again), Err(waiting))
        }
    };
    // A worker that has ended keeps no slots.
    let _ended = reports.send(Report { id, result, capacity, took, connection, again });
    handed
}

type Run = Pin<Box<dyn Future<Output = Result<Answer, Waiting>> + Send>>;

/// An attempt under way.
struct Running {
    /// Gone once it has ended.
    run: Option<Run>,
    /// Closed when nobody waits any more, and so tells the worker.
    recalled: Option<oneshot::Receiver<()>>,
    reports: mpsc::UnboundedSender<Report>,
    id: u64,
    started: Instant,
    deadline: Instant,
}

impl Future for Running {
    type Output = Result<Answer, Waiting>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut polled = self.run.as_mut().expect("not polled after its end").as_mut().poll(context);
        if polled.is_pending()
            && let Some(recalled) = &mut self.recalled
            && let Poll::Ready(recalled) = Pin::new(recalled).poll(context)
        {
            self.recalled = None;
            // A worker that has ended recalls nobody.
            if recalled.is_ok() {
                let stalled = Attempt::failed(Failure::Stalled);
                polled = Poll::Ready(report(&self.reports, self.id, stalled, self.started.elapsed()));
            }
        }
        if polled.is_ready() {
            self.run = None;
        }
        polled
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(run) = self.run.take() else { return };
        let (reports, id, started) = (self.reports.clone(), self.id, self.started);
        let latest = self.deadline + LINGER;
        tokio::spawn(async move {
            if tokio::time::timeout_at(latest.into(), run).await.is_err() {
                let _nobody = report(&reports, id, Attempt::failed(Failure::Deadline), started.elapsed());
            }
        });
    }
}
