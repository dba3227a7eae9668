//! Sends requests. An open load follows a schedule and never waits for an answer before it sends the next request; a
//! closed load keeps a fixed number of requests in flight. Both run on a thread of their own, so that the rest of
//! loadgen does not delay a request.

use crate::answer::Answer;
use crate::connection::Error;
use crate::connection::pool::ConnectionPool;
use crate::part::Part;
use crate::payload::Payload;
use crate::request_id::RequestIds;
use crate::runtime;
use crate::sample::{RequestOutcome, Sample};
use crate::schedule::Schedule;
use crate::target::LoadTarget;
use crate::timer::PreciseTimer;
use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, Sender};
use hyper::StatusCode;
use service::wire::header;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc, watch};

/// Longest wait for the answers of the requests in flight after the load was stopped.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Number of tasks that run before tokio looks at sockets and timers again. While they run, a request that becomes due
/// waits.
const EVENT_INTERVAL: u32 = 5;

/// Largest number of samples that wait to be recorded, 10 MB. If recording cannot keep up, for example since a disk is
/// slow, requests are sent late, and the run is invalid.
const MAX_WAITING_SAMPLES: usize = 50_000;

/// First pause of a task of a closed load whose connection was refused. Each further refusal doubles the pause.
const FIRST_BACK_OFF: Duration = Duration::from_millis(10);

/// Longest pause of a task of a closed load whose connections are refused.
const MAX_BACK_OFF: Duration = Duration::from_secs(1);

/// The sender that each task holds while it sends a request or waits for an answer. Nothing is sent through the
/// channel. It closes when the last task has dropped its sender.
type InFlight = mpsc::Sender<Infallible>;

/// The times at which requests are sent.
#[derive(Debug, Clone, PartialEq)]
pub enum LoadPattern {
    /// An open load: one request at each time of the schedule, without waiting for answers.
    Open(Schedule),
    /// A closed load: this number of requests is kept in flight for this duration.
    Closed(usize, Duration),
}

/// A load, and the server that it is sent to.
#[derive(Debug, Clone)]
pub struct SendConfig {
    /// The times at which requests are sent.
    pub load: LoadPattern,
    /// The server that receives the load.
    pub target: LoadTarget,
    /// The bodies that the requests carry in turn; at least one.
    pub payloads: Arc<[Payload]>,
    /// The ids of the requests.
    pub request_ids: RequestIds,
    /// Largest number of open connections. A request that finds all connections in use waits, and is sent late.
    pub connections: usize,
    /// The part of the load that is sent.
    pub part: Part,
    /// The start of the load, which may lie in the future; `None` to start at once.
    pub start: Option<Instant>,
}

/// A load that is being sent.
#[derive(Debug)]
pub struct RunningLoad {
    /// The start of the load. The times in samples count from this instant.
    pub start: Instant,
    /// A sample for each request that was due. The channel closes after the last sample. It holds at most
    /// [`MAX_WAITING_SAMPLES`].
    pub samples: Receiver<Sample>,
    started: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
    /// The thread that sends the load; `None` once it has been joined.
    thread: Option<JoinHandle<Result<()>>>,
}

impl RunningLoad {
    /// Sends the load from its start on.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub fn start(config: SendConfig) -> Result<Self> {
        let (sender, samples) = crossbeam_channel::bounded(MAX_WAITING_SAMPLES);
        let (stop, stopped) = watch::channel(false);
        let started = Arc::new(AtomicUsize::new(0));
        let pool = ConnectionPool::new(config.target.destination.clone(), config.connections);
        // Read after the memory of the channel was allocated, which takes milliseconds. The first request would be late
        // otherwise.
        let start = config.start.unwrap_or_else(Instant::now);
        let client = LoadSender {
            in_flight: Semaphore::new(config.target.requests_in_flight(config.connections)),
            pool,
            target: config.target,
            payloads: config.payloads,
            request_ids: config.request_ids,
            part: config.part,
            start,
            samples: sender,
            started: started.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("sender".into())
            .spawn(move || client.run_on_this_thread(config.load, stopped))
            .context("start the thread that sends requests; raise the limit of processes (ulimit -u)")?;
        Ok(Self { start, samples, started, stop, thread: Some(thread) })
    }

    /// Number of requests that have been due so far.
    pub fn started(&self) -> usize {
        self.started.load(Ordering::Relaxed)
    }

    /// Whether the load is over: all requests have ended, or [`STOP_GRACE`] has passed since a stop. All samples are in
    /// the channel then. A request that has not ended has a sample, too, which says so.
    ///
    /// # Errors
    /// If the runtime or the timer of the sending thread failed.
    ///
    /// # Panics
    /// If the sending thread has panicked.
    pub fn is_over(&mut self) -> Result<bool> {
        if let Some(thread) = self.thread.take_if(|thread| thread.is_finished()) {
            match thread.join() {
                Ok(outcome) => outcome?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(self.thread.is_none())
    }

    /// Stops the load: no further request is sent, and the load is over when the requests in flight have ended, or
    /// after [`STOP_GRACE`].
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}

/// Sends the requests of a load, which share this state.
struct LoadSender {
    target: LoadTarget,
    payloads: Arc<[Payload]>,
    request_ids: RequestIds,
    part: Part,
    start: Instant,
    samples: Sender<Sample>,
    started: Arc<AtomicUsize>,
    /// A permit for each request that the connections can carry at once.
    in_flight: Semaphore,
    pool: ConnectionPool,
}

impl LoadSender {
    /// Sends the load on a runtime of this thread's own. Returns when the load is over.
    fn run_on_this_thread(self, load: LoadPattern, stopped: watch::Receiver<bool>) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .event_interval(EVENT_INTERVAL)
            .build()
            .context("create the runtime that sends requests; raise the limit of open files (ulimit -n)")?;
        runtime::run(runtime, async {
            // A timer that becomes the earliest of all costs a system call, since tokio wakes itself for it. This timer
            // is always due before the timeout of any request, so those timeouts never become the earliest.
            let before_timeouts = (self.target.timeout / 2).max(Duration::from_millis(1));
            let _earliest_timer = tokio::spawn(async move {
                loop {
                    tokio::time::sleep(before_timeouts).await;
                }
            });
            // Sending is a spawned task, since each wake-up of the future that `block_on` runs costs a system call,
            // too.
            tokio::spawn(self.run(load, stopped)).await?
        })
    }

    /// Sends the load, and waits until all requests have ended or [`STOP_GRACE`] after a stop is over.
    async fn run(self, load: LoadPattern, mut stopped: watch::Receiver<bool>) -> Result<()> {
        let client = Arc::new(self);
        let (in_flight, mut all_ended) = mpsc::channel(1);
        match load {
            LoadPattern::Open(schedule) => tokio::select! {
                sent = client.send_open(&schedule, &in_flight) => sent?,
                _stop = stopped.wait_for(|stop| *stop) => {}
            },
            LoadPattern::Closed(concurrency, duration) => {
                let start = tokio::select! {
                    () = tokio::time::sleep_until(client.start.into()) => true,
                    _stop = stopped.wait_for(|stop| *stop) => false,
                };
                if start {
                    client.send_closed(concurrency, duration, &stopped, &in_flight);
                }
            }
        }
        drop(in_flight);
        let grace_is_over = async {
            // The result holds a lock, which must not be held during the sleep.
            drop(stopped.wait_for(|stop| *stop).await);
            tokio::time::sleep(STOP_GRACE).await;
        };
        tokio::select! {
            _nothing = all_ended.recv() => {}
            () = grace_is_over => {}
        }
        Ok(())
    }

    /// Starts each request of this part at its time of `schedule`.
    async fn send_open(self: &Arc<Self>, schedule: &Schedule, in_flight: &InFlight) -> Result<()> {
        let timer = PreciseTimer::new()
            .context("create the timer for send times; raise the limit of open files (ulimit -n)")?;
        for (index, scheduled) in schedule.times().enumerate().filter(|(index, _)| self.part.owns(*index)) {
            timer.wait_until(self.start + scheduled).await.context("wait for the next send time")?;
            let (request, in_flight) = (DueRequest::new(self, index, scheduled), in_flight.clone());
            tokio::spawn(async move {
                request.send().await;
                drop(in_flight);
            });
        }
        Ok(())
    }

    /// Starts this part's share of `concurrency` tasks, each of which sends one request after another for `duration`.
    fn send_closed(
        self: &Arc<Self>,
        concurrency: usize,
        duration: Duration,
        stop: &watch::Receiver<bool>,
        in_flight: &InFlight,
    ) {
        for first in (0..concurrency).filter(|&first| self.part.owns(first)) {
            let (client, stop, in_flight) = (self.clone(), stop.clone(), in_flight.clone());
            tokio::spawn(async move {
                let mut back_off = FIRST_BACK_OFF;
                for index in (first..).step_by(concurrency) {
                    let scheduled = client.start.elapsed();
                    if scheduled >= duration || *stop.borrow() {
                        break;
                    }
                    if DueRequest::new(&client, index, scheduled).send().await {
                        back_off = FIRST_BACK_OFF;
                    } else {
                        // Without a pause, the task would send thousands of requests per second to a server that is
                        // not there.
                        tokio::time::sleep(back_off.min(duration.saturating_sub(client.start.elapsed()))).await;
                        back_off = (2 * back_off).min(MAX_BACK_OFF);
                    }
                }
                drop(in_flight);
            });
        }
    }

    /// Sends request `index` with its payload, and waits for the whole answer.
    async fn exchange(&self, index: usize) -> Exchange {
        let payload = &self.payloads[index % self.payloads.len()];
        let request = || {
            let mut request = self.target.request(payload);
            request.headers_mut().insert(header::REQUEST_ID, self.request_ids.header(index));
            request
        };
        match self.pool.exchange(request).await {
            Ok(received) => Exchange {
                status: Some(received.status),
                received_bytes: received.body.len() as u32,
                answer: self.target.answers.read(&received, payload.label.as_deref()),
            },
            Err(error) => Exchange::failed(error),
        }
    }
}

/// The outcome of sending one request.
struct Exchange {
    /// The HTTP status; `None` without an answer.
    status: Option<StatusCode>,
    /// Length of the answer's body, in bytes.
    received_bytes: u32,
    answer: Answer,
}

impl Exchange {
    /// A request without an answer.
    fn failed(error: Error) -> Self {
        Self { status: None, received_bytes: 0, answer: Answer::failed(error.code()) }
    }
}

/// A request that is due, until it has ended. If it is dropped before, because loadgen does not wait any longer, its
/// sample says that it is unfinished.
struct DueRequest {
    client: Arc<LoadSender>,
    index: usize,
    scheduled: Duration,
    send_delay: Duration,
    has_ended: bool,
}

impl DueRequest {
    /// Request `index`, which is due now, and was scheduled for `scheduled`.
    fn new(client: &Arc<LoadSender>, index: usize, scheduled: Duration) -> Self {
        client.started.fetch_add(1, Ordering::Relaxed);
        Self { client: client.clone(), index, scheduled, send_delay: Duration::ZERO, has_ended: false }
    }

    /// Sends the request, waits for its end and records its sample. Returns whether there was a connection to send it
    /// over.
    async fn send(mut self) -> bool {
        let client = self.client.clone();
        let _permit = client.in_flight.acquire().await.expect("the semaphore is never closed");
        self.send_delay = self.latency();
        let left = client.target.timeout.saturating_sub(self.send_delay);
        let in_time = async {
            if left.is_zero() { None } else { tokio::time::timeout(left, client.exchange(self.index)).await.ok() }
        };
        let exchange = in_time.await.unwrap_or_else(|| Exchange::failed(Error::Timeout));
        let code = exchange.answer.outcome.code();
        let is_connected =
            ![Error::Connect, Error::OpenFiles, Error::Tls].iter().any(|error| code == Some(error.code()));
        self.end(exchange);
        is_connected
    }

    /// Time since the scheduled send time.
    fn latency(&self) -> Duration {
        self.client.start.elapsed().saturating_sub(self.scheduled)
    }

    /// Records the sample.
    fn end(&mut self, exchange: Exchange) {
        self.has_ended = true;
        let Exchange { status, received_bytes, answer: Answer { outcome, replica, timing } } = exchange;
        let image = self.index % self.client.payloads.len();
        let sample = Sample {
            index: self.index,
            image,
            scheduled: self.scheduled,
            send_delay: self.send_delay,
            latency: self.latency(),
            sent_bytes: self.client.payloads[image].body.len() as u32,
            received_bytes,
            status: status.map(|status| status.as_u16()),
            replica,
            timing,
            outcome,
        };
        // Sending fails only if the run was dropped. No report needs the sample then.
        let _sent = self.client.samples.send(sample);
    }
}

impl Drop for DueRequest {
    fn drop(&mut self) {
        if !self.has_ended {
            let outcome = RequestOutcome::Unfinished;
            self.end(Exchange {
                status: None,
                received_bytes: 0,
                answer: Answer { outcome, replica: None, timing: None },
            });
        }
    }
}
