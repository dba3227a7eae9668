//! Stub replicas. They follow the wire contract without a model, and fail in the ways that a test chooses.

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use service::respond;
use service::slot_channel;
use service::wire::{Answer, Code, ErrorBody, Prediction, ReadyBody, RequestError, Timing, header};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// The beginning of a body that kills stubs with [`StubBehavior::DiesOfPoison`].
pub(crate) const POISON: &[u8] = b"poison";

/// The time for which a stub holds [`POISON`] before it dies. A real replica parses and decodes a body meanwhile.
const DIES_AFTER: Duration = Duration::from_millis(15);

/// The time after which a stub that died of [`POISON`] starts again.
const RESTART: Duration = Duration::from_millis(200);

/// The way in which a stub answers images.
#[derive(Debug, Clone)]
pub(crate) enum StubBehavior {
    /// The stub answers at once.
    Prompt,
    /// The stub answers after this time.
    Delayed(Duration),
    /// The stub computes one request after the other, each for this time, and tells its clients how long it worked.
    Computes(Duration),
    /// The stub answers once the semaphore has a permit.
    Gated(Arc<Semaphore>),
    /// The stub answers with this status and a body that is no [`service::wire::ErrorBody`].
    Status(StatusCode),
    /// The stub reads each inference request, and answers that it has fewer free slots than the request has images.
    /// It answers other requests at once.
    Crowded,
    /// The stub answers with status 400 and an error body with this code.
    Refuses(&'static str),
    /// The stub closes the connection without an answer once the semaphore has a permit.
    Closes(Arc<Semaphore>),
    /// The stub sends half of the answer and closes the connection.
    ClosesHalfway,
    /// The stub sends half of the answer and resets the connection.
    ResetsHalfway,
    /// The stub answers neither images nor probes, and closes no connection. Once it gets another behavior, it answers
    /// the requests that it holds.
    Hangs,
    /// The stub answers after this time. A body that begins with [`POISON`] ends its simulated process, which starts again after [`RESTART`].
    DiesOfPoison(Duration),
}

impl StubBehavior {
    /// The behavior of a stub that closes every connection at once, without an answer.
    pub(crate) fn closes() -> Self {
        Self::Closes(Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)))
    }
}

/// A request that a stub has received.
#[derive(Debug, Clone)]
pub(crate) struct ReceivedRequest {
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// The value of `--replicas` for a static list of the given stubs.
pub(crate) fn static_list(stubs: &[&StubReplica]) -> String {
    let addresses: Vec<&str> = stubs.iter().map(|stub| stub.address.as_str()).collect();
    format!("static:{}", addresses.join(","))
}

/// One stub replica.
pub(crate) struct StubReplica {
    /// The address that the stub listens on, `host:port`.
    pub(crate) address: String,
    shared: Arc<StubState>,
    /// A socket that reserves the port while the simulated process does not run.
    _port: TcpSocket,
}

/// The state that a stub shares with the tasks that serve its connections.
struct StubState {
    address: SocketAddr,
    capacity: AtomicUsize,
    behavior: watch::Sender<StubBehavior>,
    /// Whether `/readyz` answers that the stub is ready.
    ready: AtomicBool,
    /// Whether the simulated process should run.
    should_run: watch::Sender<bool>,
    /// Whether the simulated process runs.
    runs: watch::Sender<bool>,
    calls: AtomicUsize,
    slots_in_use: AtomicUsize,
    /// The only worker of a stub that computes.
    worker: tokio::sync::Mutex<()>,
    /// The time for which that worker has worked.
    worked: Mutex<Duration>,
    received: Mutex<Vec<ReceivedRequest>>,
}

impl StubState {
    fn capacity(&self) -> usize {
        self.capacity.load(Ordering::SeqCst)
    }
}

impl StubReplica {
    /// Starts a stub with one slot.
    pub(crate) async fn start(behavior: StubBehavior) -> Self {
        Self::with_capacity(1, behavior).await
    }

    /// Starts a stub with `capacity` slots. While all slots are taken, further requests are answered with `busy`.
    pub(crate) async fn with_capacity(capacity: usize, behavior: StubBehavior) -> Self {
        let port = socket("127.0.0.1:0".parse().expect("the address is well formed"));
        let address = port.local_addr().expect("the socket is bound");
        let shared = Arc::new(StubState {
            address,
            capacity: AtomicUsize::new(capacity),
            behavior: watch::Sender::new(behavior),
            ready: AtomicBool::new(true),
            should_run: watch::Sender::new(true),
            runs: watch::Sender::new(false),
            calls: AtomicUsize::new(0),
            slots_in_use: AtomicUsize::new(0),
            worker: tokio::sync::Mutex::default(),
            worked: Mutex::default(),
            received: Mutex::default(),
        });
        tokio::spawn(run(shared.clone()));
        let stub = Self { address: address.to_string(), shared, _port: port };
        stub.until_running(true).await;
        stub
    }

    /// The number of images that the stub has received.
    pub(crate) fn calls(&self) -> usize {
        self.shared.calls.load(Ordering::SeqCst)
    }

    /// The requests with images that the stub has received, in order of arrival.
    pub(crate) fn received(&self) -> Vec<ReceivedRequest> {
        self.shared.received.lock().expect("no thread panics while it holds the lock").clone()
    }

    /// The time for which a stub that computes has worked.
    pub(crate) fn worked(&self) -> Duration {
        *self.shared.worked.lock().expect("no thread panics while it holds the lock")
    }

    /// Changes the way in which the stub answers images.
    pub(crate) fn set_behavior(&self, behavior: StubBehavior) {
        self.shared.behavior.send_replace(behavior);
    }

    /// Sets whether `/readyz` answers that the stub is ready.
    pub(crate) fn set_ready(&self, ready: bool) {
        self.shared.ready.store(ready, Ordering::SeqCst);
    }

    /// Changes the number of slots, as another process at the same address might.
    pub(crate) fn set_capacity(&self, capacity: usize) {
        self.shared.capacity.store(capacity, Ordering::SeqCst);
    }

    /// Ends the simulated process, as SIGKILL would: every connection is closed, and new ones are refused.
    pub(crate) async fn kill(&self) {
        self.shared.should_run.send_replace(false);
        self.until_running(false).await;
    }

    /// Starts the simulated process again on the same port.
    pub(crate) async fn restart(&self) {
        self.shared.should_run.send_replace(true);
        self.until_running(true).await;
    }

    /// Waits until the stub has received `count` images.
    pub(crate) async fn until_calls(&self, count: usize) {
        for _ in 0..2000 {
            if self.calls() >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the stub has received {} of {count} images", self.calls());
    }

    async fn until_running(&self, running: bool) {
        let mut runs = self.shared.runs.subscribe();
        runs.wait_for(|&runs| runs == running).await.expect("the stub outlives its handle");
    }
}

impl Drop for StubReplica {
    fn drop(&mut self) {
        self.shared.should_run.send_replace(false);
    }
}

/// Returns a bound socket. It reserves its port without listening; `run` listens on further sockets with the same port.
fn socket(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("the system opens another socket");
    socket.set_reuseport(true).expect("the system can share a port");
    socket.bind(address).expect("the system has a free port");
    socket
}

/// Runs the simulated process whenever it should run.
async fn run(shared: Arc<StubState>) {
    let mut should_run = shared.should_run.subscribe();
    while should_run.wait_for(|&should_run| should_run).await.is_ok() {
        let listener = socket(shared.address).listen(1024).expect("the port is reserved");
        shared.runs.send_replace(true);
        let mut connections = JoinSet::new();
        tokio::select! {
            () = accept(listener, &mut connections, &shared) => {}
            _ = should_run.wait_for(|&should_run| !should_run) => {}
        }
        connections.shutdown().await;
        shared.slots_in_use.store(0, Ordering::SeqCst);
        shared.runs.send_replace(false);
    }
}

async fn accept(listener: TcpListener, connections: &mut JoinSet<()>, shared: &Arc<StubState>) {
    loop {
        let (stream, _peer) = listener.accept().await.expect("the stub listens");
        connections.spawn(connection(stream, shared.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(stream: TcpStream, shared: Arc<StubState>) {
    if matches!(*shared.behavior.borrow(), StubBehavior::ResetsHalfway) {
        // With this option, closing the connection resets it.
        stream.set_zero_linger().expect("the socket is open");
    }
    let service = service_fn(move |request| answer(request, shared.clone()));
    // An error is ignored, because the tests check only the dispatcher's side of the connection.
    let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

type StubReply = Response<Either<Full<Bytes>, BrokenBody>>;

/// Answers one request. If this returns an error, hyper closes the connection.
async fn answer(request: Request<Incoming>, shared: Arc<StubState>) -> Result<StubReply, std::io::Error> {
    let mut behaviors = shared.behavior.subscribe();
    let behavior = behaviors.wait_for(|behavior| !matches!(behavior, StubBehavior::Hangs)).await;
    let behavior = behavior.expect("`shared` holds the sender").clone();
    if request.uri().path() == "/readyz" {
        let ready = shared.ready.load(Ordering::SeqCst);
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        return Ok(respond::json(status, &ReadyBody { ready, capacity: Some(shared.capacity()) }).map(Either::Left));
    }
    if request.uri().path() == slot_channel::PATH {
        return Ok(respond::not_found(slot_channel::PATH, "it has no channel for claims", "").map(Either::Left));
    }
    shared.calls.fetch_add(1, Ordering::SeqCst);
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let query = head.uri.query().map(str::to_owned);
    let path = head.uri.path().to_owned();
    let path_is_infer = path.ends_with("/infer") && path.starts_with("/v2/");
    let received = ReceivedRequest { path, query, headers: head.headers, body: body.clone() };
    shared.received.lock().expect("no thread panics while it holds the lock").push(received);
    let Some(_slot) = SlotInUse::take(&shared) else {
        return Ok(busy(&shared, &behavior).map(Either::Left));
    };
    match behavior {
        StubBehavior::Crowded if path_is_infer => {
            let mut reply = respond::inference_error(&RequestError::new(Code::Busy, "not enough free slots"));
            reply.headers_mut().insert(header::CAPACITY, HeaderValue::from(shared.capacity()));
            reply.headers_mut().insert(header::WORK_US, HeaderValue::from(1));
            return Ok(reply.map(Either::Left));
        }
        StubBehavior::Prompt | StubBehavior::Crowded => {}
        StubBehavior::Delayed(time) => tokio::time::sleep(time).await,
        StubBehavior::Computes(time) => {
            return Ok(compute(&shared, time).await.map(|whole| Either::Left(whole.into())));
        }
        StubBehavior::Gated(gate) => gate.acquire().await.expect("the semaphore is never closed").forget(),
        StubBehavior::Status(status) => return Ok(respond::json(status, &"no reason").map(Either::Left)),
        StubBehavior::Refuses(code) => {
            let (code, error, request_id) = (code.into(), String::new(), String::new());
            let body = ErrorBody { success: false, code, error, request_id };
            return Ok(respond::json(StatusCode::BAD_REQUEST, &body).map(Either::Left));
        }
        StubBehavior::Closes(gate) => {
            gate.acquire().await.expect("the semaphore is never closed").forget();
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        StubBehavior::ClosesHalfway | StubBehavior::ResetsHalfway => {
            return Ok(success(&shared).map(|whole| Either::Right(BrokenBody::of(&whole))));
        }
        StubBehavior::Hangs => unreachable!("`wait_for` has returned another behavior"),
        StubBehavior::DiesOfPoison(time) => {
            if body.starts_with(POISON) {
                tokio::time::sleep(DIES_AFTER).await;
                shared.should_run.send_replace(false);
                tokio::spawn(async move {
                    tokio::time::sleep(RESTART).await;
                    shared.should_run.send_replace(true);
                });
                return std::future::pending().await;
            }
            tokio::time::sleep(time).await;
        }
    }
    Ok(success(&shared).map(|whole| Either::Left(whole.into())))
}

/// Waits for the worker, works for `time`, and answers.
async fn compute(shared: &StubState, time: Duration) -> Response<Bytes> {
    let _worker = shared.worker.lock().await;
    let started = Instant::now();
    tokio::time::sleep(time).await;
    let mut reply = success(shared);
    let worked = started.elapsed();
    reply.headers_mut().insert(header::WORK_US, HeaderValue::from(worked.as_micros() as u64));
    reply.headers_mut().insert(header::FULL_WORK_US, HeaderValue::from(time.as_micros() as u64 / 2));
    *shared.worked.lock().expect("no thread panics while it holds the lock") += worked;
    reply
}

/// The answer that all slots are taken. It tells when one is probably free, as replicas do: after the mean time between
/// two answers.
fn busy(shared: &StubState, behavior: &StubBehavior) -> Response<Full<Bytes>> {
    let mut reply = respond::error(&RequestError::new(Code::Busy, "at capacity"), "");
    reply.headers_mut().insert(header::SLOTS_TAKEN, HeaderValue::from(shared.slots_in_use.load(Ordering::SeqCst)));
    let between_answers = match behavior {
        StubBehavior::Computes(time) => Some(*time),
        StubBehavior::Delayed(time) => Some(time.div_f64(shared.capacity() as f64)),
        _ => None,
    };
    if let Some(time) = between_answers {
        reply.headers_mut().insert(header::RETRY_MS, HeaderValue::from(time.as_millis() as u64));
    }
    reply
}

/// An answer with status 200 in the form of the wire contract, to a request that holds a slot.
fn success(shared: &StubState) -> Response<Bytes> {
    let prediction = Prediction { class_index: 0, label: "stub".into(), confidence: 1.0 };
    let answer = Answer::new(vec![prediction], "stub", shared.address.to_string(), Timing::default());
    let mut reply = respond::json(StatusCode::OK, &answer);
    let others = shared.slots_in_use.load(Ordering::SeqCst).saturating_sub(1);
    for (name, number) in [(header::CAPACITY, shared.capacity()), (header::SLOTS_TAKEN, others)] {
        reply.headers_mut().insert(name, HeaderValue::from(number));
    }
    reply.map(|_whole| serde_json::to_vec(&answer).expect("an answer can be written as JSON").into())
}

/// A slot of the stub. It is free again when this value is dropped.
struct SlotInUse(Arc<StubState>);

impl SlotInUse {
    fn take(shared: &Arc<StubState>) -> Option<Self> {
        let capacity = shared.capacity();
        let free = |taken: usize| (taken < capacity).then_some(taken + 1);
        let taken = shared.slots_in_use.fetch_update(Ordering::SeqCst, Ordering::SeqCst, free);
        taken.is_ok().then(|| Self(shared.clone()))
    }
}

impl Drop for SlotInUse {
    fn drop(&mut self) {
        // If no slot is in use, the simulated process has ended in the meantime, which freed all slots.
        let one_less = |taken: usize| taken.checked_sub(1);
        let _restarted = self.0.slots_in_use.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
    }
}

/// A body that breaks off. It yields the first half, pauses so that hyper can send that half, and then yields an error.
enum BrokenBody {
    Unsent { half: Bytes, length: u64 },
    Sent,
    BrokenOff,
}

impl BrokenBody {
    fn of(whole: &Bytes) -> Self {
        Self::Unsent { half: whole.slice(..whole.len() / 2), length: whole.len() as u64 }
    }
}

impl Body for BrokenBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &*self {
            Self::Unsent { half, .. } => {
                let half = half.clone();
                *self = Self::Sent;
                Poll::Ready(Some(Ok(Frame::data(half))))
            }
            Self::Sent => {
                *self = Self::BrokenOff;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Self::BrokenOff => Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionAborted.into()))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Unsent { length, .. } => SizeHint::with_exact(*length),
            Self::Sent | Self::BrokenOff => SizeHint::default(),
        }
    }
}
