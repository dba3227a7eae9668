//! Stub replicas on loopback: servers that accept any body and always give the same answer. All stub replicas run on
//! one thread of this process.
//!
//! They have no model and no metrics, and use little processor time, since they share the machine with the program that
//! is measured. They can record the requests, and can stall on purpose.

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

/// Connections that may wait to be accepted. The limit of the system, `net.core.somaxconn`, applies too.
const BACKLOG: u32 = 4096;

/// The configuration of stub replicas.
#[derive(Debug, Clone)]
pub(crate) struct StubSettings {
    /// Number of stub replicas, each with its own address.
    pub(crate) count: usize,
    /// Slots of a stub replica: the number of requests that it accepts at once. It refuses more with `503 busy`.
    pub(crate) capacity: usize,
    /// The time from the end of a request's body to its answer.
    pub(crate) answer_delay: AnswerDelay,
    /// Whether requests are recorded. A record takes 40 bytes of memory, too many for millions of requests.
    pub(crate) records: bool,
    /// The behaviour of the thread that runs the stub replicas.
    pub(crate) behavior: ThreadBehavior,
    /// The core to which the thread is pinned; `None` if it may use any core.
    pub(crate) core: Option<u32>,
}

impl Default for StubSettings {
    fn default() -> Self {
        Self {
            count: 1,
            capacity: 1,
            answer_delay: AnswerDelay::None,
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
    /// Every request is answered after this time. Like a forward pass, it keeps its slot for this time even if the
    /// client leaves.
    Fixed(Duration),
    /// Every request is answered once the channel's value is true, or its sender has been dropped.
    UntilOpen(watch::Receiver<bool>),
}

/// The behaviour of the thread that runs the stub replicas.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ThreadBehavior {
    /// The thread sleeps while it has nothing to do.
    Sleeps,
    /// The thread never sleeps, so that the sender spends no time on waking it. It uses a whole core.
    BusyWaits,
    /// The thread stalls once: it handles nothing for the time `length`. The stall begins with the first request that
    /// arrives at least the time `after` later than the very first request.
    Stalls { after: Duration, length: Duration },
}

/// A request that a stub replica has accepted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    /// The request's `x-request-id`; `None` if that is no number.
    pub(crate) id: Option<u32>,
    /// The time at which the request's head had arrived.
    pub(crate) arrived: Instant,
    /// The time at which the request gave its slot back.
    pub(crate) done: Instant,
}

/// Running stub replicas. They end when this value is dropped.
pub(crate) struct StubReplicas {
    /// The address of each stub replica.
    pub(crate) addresses: Vec<SocketAddr>,
    log: Arc<RequestLog>,
    /// The sender whose dropping ends the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct RequestLog {
    records: Mutex<Vec<Record>>,
    refused: AtomicU64,
}

impl StubReplicas {
    /// Starts stub replicas, which then listen at [`StubReplicas::addresses`].
    ///
    /// # Errors
    /// If no port on loopback is free, or the thread cannot be started or pinned to its core.
    pub(crate) fn start(settings: StubSettings) -> Result<Self> {
        let log = Arc::new(RequestLog::default());
        let (stop, stopped) = oneshot::channel();
        let (started, addresses) = mpsc::sync_channel(1);
        let thread = {
            let log = log.clone();
            std::thread::Builder::new().name("stubs".into()).spawn(move || match listen(&settings, &log) {
                Err(error) => started.send(Err(error)).expect("`start` waits for this message"),
                Ok((runtime, addresses)) => {
                    started.send(Ok(addresses)).expect("`start` waits for this message");
                    let _dropped = runtime.block_on(stopped);
                }
            })
        };
        let thread = thread.context("start the thread of the stub replicas; see ulimit -u")?;
        let addresses = addresses.recv().expect("the thread sends its addresses or an error before it ends")?;
        Ok(Self { addresses, log, stop: Some(stop), thread: Some(thread) })
    }

    /// The requests that have given their slots back since the last call, in the order in which they did.
    pub(crate) fn take_records(&self) -> Vec<Record> {
        std::mem::take(&mut self.log.records.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The number of requests that the stub replicas have refused because all slots were taken.
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
            eprintln!("the thread of the stub replicas panicked; the figures may be wrong");
        }
    }
}

/// Pins the calling thread to its core, and makes a runtime in which the stub replicas listen. They answer once the
/// runtime is run. Returns the runtime and the addresses.
fn listen(settings: &StubSettings, log: &Arc<RequestLog>) -> Result<(Runtime, Vec<SocketAddr>)> {
    if let Some(core) = settings.core {
        cores::pin_this_thread(core)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("start the runtime of the stub replicas; see ulimit -n")?;
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
            eprintln!("answers of a stub replica may be late, since TCP_NODELAY cannot be set: {error}");
        }
        tokio::spawn(serve(stream, stub.clone()));
    }
}

async fn serve(stream: TcpStream, stub: Arc<StubReplica>) {
    let service = service_fn(move |request| {
        let stub = stub.clone();
        async move { Ok::<_, Infallible>(stub.answer(request).await) }
    });
    // An error means that the client has left, and ends this connection only.
    let _left = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

struct StubReplica {
    delay: RunningDelay,
    log: Arc<RequestLog>,
    records: bool,
    capacity: usize,
    in_flight: AtomicUsize,
    stall: Mutex<Option<PendingStall>>,
    answer: Reply,
    ready: Reply,
}

/// An [`AnswerDelay`] with the thread that it needs.
enum RunningDelay {
    None,
    Fixed(DelayThread),
    UntilOpen(watch::Receiver<bool>),
}

/// A stall that has not begun yet.
#[derive(Debug, Clone, Copy)]
struct PendingStall {
    first_request: Option<Instant>,
    after: Duration,
    length: Duration,
}

/// A slot of a stub replica that one request has taken. Dropping this value frees the slot and records the request.
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
        let &StubSettings { capacity, records, ref answer_delay, behavior, .. } = settings;
        let delay = match answer_delay {
            AnswerDelay::None => RunningDelay::None,
            AnswerDelay::Fixed(length) => {
                let thread = DelayThread::start(*length, capacity);
                RunningDelay::Fixed(thread.context("start the thread that delays answers; see ulimit -u")?)
            }
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
        Ok(Self { delay, log, records, capacity, in_flight, stall, answer, ready })
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
        match &self.delay {
            RunningDelay::None => drop(slot),
            RunningDelay::Fixed(delay) => delay.pass(slot).await,
            RunningDelay::UntilOpen(gate) => {
                let mut gate = gate.clone();
                // An error means that the gate's sender was dropped. Requests are answered then, too.
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

    /// Begins the stall if it is due at the time `arrived`. The whole thread sleeps, and so all connections stall.
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

/// A thread that delays all requests by the same time. tokio's timers would not do: they round up to whole
/// milliseconds, and with one request at a time that would hide the latency that a proxy adds.
struct DelayThread {
    length: Duration,
    /// The channel to the thread: for each request the time at which it is due, its slot, and the sender that ends its
    /// wait. The channel has room for one request for each slot, so it is never full.
    waiting: mpsc::SyncSender<(Instant, TakenSlot, oneshot::Sender<()>)>,
}

impl DelayThread {
    fn start(length: Duration, capacity: usize) -> std::io::Result<Self> {
        let (waiting, arrived) = mpsc::sync_channel::<(Instant, TakenSlot, oneshot::Sender<()>)>(capacity);
        std::thread::Builder::new().name("delay".into()).spawn(move || {
            // All requests wait for the same time, so they are due in the order of the channel.
            for (due, slot, request) in arrived {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                drop(slot);
                // An error means that the client has left.
                let _left = request.send(());
            }
        })?;
        Ok(Self { length, waiting })
    }

    async fn pass(&self, slot: TakenSlot) {
        let (sender, passed) = oneshot::channel();
        let place = (Instant::now() + self.length, slot, sender);
        self.waiting.try_send(place).expect("the channel has room for every slot, and the thread outlives the sender");
        passed.await.expect("the thread answers every request");
    }
}
