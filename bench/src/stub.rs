//! Stub replicas on loopback: servers that take any body and always give the same answer, on one thread of this
//! process.
//!
//! They have no model and no metrics, and spend as little as they can, for they share the machine with the program that
//! is measured. They can record each request, and stand still on purpose.

use crate::cores;
use anyhow::{Context, Result};
use http_body_util::BodyExt;
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use service::respond::{self, Reply};
use service::wire::{Answer, Code, Prediction, ReadyBody, RequestError, Timing, header};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};

/// Connections that may wait to be accepted; the system's own bound is usually lower.
const BACKLOG: u32 = 4096;

/// How the stubs are set up.
#[derive(Debug, Clone)]
pub(crate) struct StubSettings {
    /// Number of stubs, each with an address of its own.
    pub(crate) count: usize,
    /// Requests that one stub takes at once; it refuses further ones with `503 busy`.
    pub(crate) capacity: usize,
    /// The time that a request takes.
    pub(crate) work: AnswerDelay,
    /// Whether requests are recorded. A record takes 40 bytes, too many for millions of requests.
    pub(crate) records: bool,
    /// The behaviour of the stubs' thread.
    pub(crate) behavior: ThreadBehavior,
    /// The core on which the stubs' thread stays; `None` for any.
    pub(crate) core: Option<u32>,
}

impl Default for StubSettings {
    fn default() -> Self {
        Self {
            count: 1,
            capacity: 1,
            work: AnswerDelay::None,
            records: true,
            behavior: ThreadBehavior::Sleeps,
            core: None,
        }
    }
}

/// The time from the end of a request's body to its answer.
#[derive(Debug, Clone)]
pub(crate) enum AnswerDelay {
    /// Every request is answered at once.
    None,
    /// Every request takes this time. Like a forward pass, it goes on and keeps its slot when the client has left.
    Takes(Duration),
    /// Every request waits until this is true, or its sender is gone.
    Gate(watch::Receiver<bool>),
}

/// The behaviour of the stubs' thread.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ThreadBehavior {
    /// It sleeps while it has nothing to do.
    Sleeps,
    /// It never sleeps, so that waking it costs the sender nothing. It takes a whole core.
    BusyWaits,
    /// It stands still once, at the first request that comes `after` the first one, for `length`.
    Stalls { after: Duration, length: Duration },
}

/// A request that a stub has worked on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    /// The request's `x-request-id`, if that is a number.
    pub(crate) id: Option<u32>,
    /// When the request's head had arrived.
    pub(crate) arrived: Instant,
    /// When the request was done.
    pub(crate) done: Instant,
}

/// Running stubs. They end when dropped.
pub(crate) struct StubReplicas {
    /// One address for each stub.
    pub(crate) addresses: Vec<SocketAddr>,
    log: Arc<RequestLog>,
    /// Dropped to end the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct RequestLog {
    records: Mutex<Vec<Record>>,
    refused: AtomicU64,
}

impl StubReplicas {
    /// Starts them.
    ///
    /// # Errors
    /// When loopback has no ports left, or the thread cannot stay on its core.
    pub(crate) fn start(settings: StubSettings) -> Result<Self> {
        let log = Arc::new(RequestLog::default());
        let (stop, stopped) = oneshot::channel();
        let (started, addresses) = mpsc::sync_channel(1);
        let thread = {
            let log = log.clone();
            std::thread::Builder::new().name("stubs".into()).spawn(move || match listen(&settings, &log) {
                Err(error) => started.send(Err(error)).expect("the starter waits for this"),
                Ok((runtime, addresses)) => {
                    started.send(Ok(addresses)).expect("the starter waits for this");
                    let _dropped = runtime.block_on(stopped);
                }
            })?
        };
        let addresses = addresses.recv().expect("the thread sends first of all")?;
        Ok(Self { addresses, log, stop: Some(stop), thread: Some(thread) })
    }

    /// The requests that were done since the last call, in the order in which they were done.
    pub(crate) fn take_records(&self) -> Vec<Record> {
        std::mem::take(&mut self.log.records.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Requests beyond the capacity, which the stubs refused.
    pub(crate) fn refused(&self) -> u64 {
        self.log.refused.load(Ordering::Relaxed)
    }
}

impl Drop for StubReplicas {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the thread of the stub replicas panicked");
        }
    }
}

/// Prepares everything that the calling thread is to run, on its core.
fn listen(settings: &StubSettings, log: &Arc<RequestLog>) -> Result<(Runtime, Vec<SocketAddr>)> {
    if let Some(core) = settings.core {
        cores::pin_this_thread(core)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut addresses = Vec::new();
    for _ in 0..settings.count {
        let listener = runtime.block_on(listener())?;
        addresses.push(listener.local_addr()?);
        runtime.spawn(accept(listener, Arc::new(StubReplica::new(settings, log.clone())?)));
    }
    if matches!(settings.behavior, ThreadBehavior::BusyWaits) {
        runtime.spawn(async {
            loop {
                tokio::task::yield_now().await;
            }
        });
    }
    Ok((runtime, addresses))
}

async fn listener() -> Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).context("find a free port on loopback")?;
    Ok(socket.listen(BACKLOG)?)
}

async fn accept(listener: TcpListener, stub: Arc<StubReplica>) {
    while let Ok((stream, _peer)) = listener.accept().await {
        if let Err(error) = stream.set_nodelay(true) {
            eprintln!("a stub's answers may wait for a full packet: {error}");
        }
        tokio::spawn(serve(stream, stub.clone()));
    }
}

async fn serve(stream: TcpStream, stub: Arc<StubReplica>) {
    let service = service_fn(move |request| {
        let stub = stub.clone();
        async move { Ok::<_, Infallible>(stub.answer(request).await) }
    });
    // An error ends this connection only: the client has left.
    let _left = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

struct StubReplica {
    pause: RunningDelay,
    log: Arc<RequestLog>,
    records: bool,
    capacity: usize,
    in_flight: AtomicUsize,
    stall: Mutex<Option<PendingStall>>,
    answer: Reply,
    ready: Reply,
}

/// The time between a request and its answer; see [`AnswerDelay`].
enum RunningDelay {
    None,
    Fixed(DelayThread),
    Gate(watch::Receiver<bool>),
}

/// A stall that has not happened yet.
#[derive(Debug, Clone, Copy)]
struct PendingStall {
    first_request: Option<Instant>,
    after: Duration,
    length: Duration,
}

/// One of a stub's slots, taken by one request. Dropping it frees the slot and records the request.
struct TakenSlot {
    stub: Arc<StubReplica>,
    id: Option<u32>,
    arrived: Instant,
}

impl Drop for TakenSlot {
    fn drop(&mut self) {
        if self.stub.records {
            let record = Record { id: self.id, arrived: self.arrived, done: Instant::now() };
            self.stub.log.records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
        }
        self.stub.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl StubReplica {
    fn new(settings: &StubSettings, log: Arc<RequestLog>) -> Result<Self> {
        let &StubSettings { capacity, records, ref work, behavior, .. } = settings;
        let pause = match work {
            AnswerDelay::None => RunningDelay::None,
            AnswerDelay::Fixed(length) => RunningDelay::Fixed(DelayThread::start(*length, capacity)?),
            AnswerDelay::UntilOpen(gate) => RunningDelay::UntilOpen(gate.clone()),
        };
        let stall = match behavior {
            ThreadBehavior::Sleeps | ThreadBehavior::BusyWaits => None,
            ThreadBehavior::Stalls { after, length } => Some(PendingStall { first_request: None, after, length }),
        };
        let prediction = Prediction { class_index: 7, label: "striped square".into(), confidence: 0.998 };
        let answer = Answer::new(vec![prediction; 2], "stub", "stub", Timing::default());
        let mut answer = respond::json(StatusCode::OK, &answer);
        answer.headers_mut().insert(header::CAPACITY, HeaderValue::from(capacity));
        let ready = respond::json(StatusCode::OK, &ReadyBody { ready: true, capacity: Some(capacity) });
        let (in_flight, stall) = (AtomicUsize::new(0), Mutex::new(stall));
        Ok(Self { pause, log, records, capacity, in_flight, stall, answer, ready })
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Reply {
        if request.method() == Method::GET {
            return self.ready.clone();
        }
        let Some(slot) = self.take_slot(&request) else {
            self.log.refused.fetch_add(1, Ordering::Relaxed);
            return respond::error(&RequestError::new(Code::Busy, "at capacity"), "");
        };
        self.stall(slot.arrived);
        let mut body = request.into_body();
        while let Some(frame) = body.frame().await {
            if let Err(error) = frame {
                return respond::error(
                    &RequestError::new(Code::BadRequest, format!("the body ended early: {error}")),
                    "",
                );
            }
        }
        match &self.pause {
            RunningDelay::None => drop(slot),
            RunningDelay::Fixed(delay) => delay.pass(slot).await,
            RunningDelay::UntilOpen(gate) => {
                let mut gate = gate.clone();
                // An error says that the gate's owner is gone; the gate is open then.
                drop(gate.wait_for(|open| *open).await);
                drop(slot);
            }
        }
        self.answer.clone()
    }

    fn take_slot(self: &Arc<Self>, request: &Request<Incoming>) -> Option<TakenSlot> {
        let arrived = Instant::now();
        if self.in_flight.fetch_add(1, Ordering::Relaxed) >= self.capacity {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let id = || request.headers().get(header::REQUEST_ID)?.to_str().ok()?.parse().ok();
        Some(TakenSlot { id: if self.records { id() } else { None }, stub: self.clone(), arrived })
    }

    /// Stops the stubs' thread, and so every connection, if the stall is due.
    fn stall(&self, arrived: Instant) {
        let mut stall = self.stall.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pending) = &mut *stall else { return };
        let first = *pending.first_request.get_or_insert(arrived);
        if arrived - first >= pending.after {
            let length = pending.length;
            *stall = None;
            std::thread::sleep(length);
        }
    }
}

/// Lets each request pass after the same time. It has a thread of its own, because tokio's timers round up to whole
/// milliseconds: with one request at a time, that would hide the time that a proxy adds.
struct DelayThread {
    length: Duration,
    /// Holds a request for each taken slot at most, so it is never full.
    waiting: mpsc::SyncSender<(Instant, TakenSlot, oneshot::Sender<()>)>,
}

impl DelayThread {
    fn start(length: Duration, capacity: usize) -> std::io::Result<Self> {
        let (waiting, arrived) = mpsc::sync_channel::<(Instant, TakenSlot, oneshot::Sender<()>)>(capacity);
        std::thread::Builder::new().name("delay".into()).spawn(move || {
            // All requests wait for the same time, so the first to come is the first to pass.
            for (due, slot, request) in arrived {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                drop(slot);
                // An error says that the client has left.
                let _left = request.send(());
            }
        })?;
        Ok(Self { length, waiting })
    }

    async fn pass(&self, slot: TakenSlot) {
        let (sender, passed) = oneshot::channel();
        let place = (Instant::now() + self.length, slot, sender);
        self.waiting.try_send(place).expect("there are as many places as slots, and the thread outlives its sender");
        passed.await.expect("the thread lets every request pass");
    }
}
