//! Replicas by their wire contract alone, which misbehave on command.

#![allow(dead_code, reason = "each file of tests uses a part")]

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use service::respond;
use service::wire::{Answer, Code, Prediction, ReadyBody, RequestError as Fault, Timing, header};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// A body that [`Manner::Mortal`] replicas die of.
pub(crate) const POISON: &[u8] = b"poison";

/// How long a replica that died of a body takes to come back.
const RESTART: Duration = Duration::from_millis(200);

/// How a stub treats pictures.
#[derive(Debug, Clone)]
pub(crate) enum Manner {
    /// Answers at once.
    Prompt,
    /// Answers after this time.
    After(Duration),
    /// Answers once it is given a permit.
    Gated(Arc<Semaphore>),
    /// This status with a body that is no [`service::wire::ErrorBody`].
    Status(StatusCode),
    /// Hangs up without an answer, once it is given a permit.
    HangsUp(Arc<Semaphore>),
    /// Sends half of the answer and closes.
    Short,
    /// Sends half of the answer and resets.
    Resets,
    /// Neither answers nor closes, whatever it is asked, probes included; with another manner it goes on.
    Hung,
    /// Answers after this time; [`POISON`] ends the process, which is started again.
    Mortal(Duration),
}

impl Manner {
    /// Hangs up at once.
    pub(crate) fn hangs_up() -> Self {
        Self::HangsUp(Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)))
    }
}

/// A request as it reached the stub.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) query: Option<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// They as a source of replicas.
pub(crate) fn list(stubs: &[&Stub]) -> String {
    let addresses: Vec<&str> = stubs.iter().map(|stub| stub.address.as_str()).collect();
    format!("static:{}", addresses.join(","))
}

/// One replica.
pub(crate) struct Stub {
    /// `host:port`.
    pub(crate) address: String,
    shared: Arc<Shared>,
    /// Keeps the port while nobody listens on it.
    _port: TcpSocket,
}

struct Shared {
    address: SocketAddr,
    capacity: usize,
    manner: watch::Sender<Manner>,
    /// What `/readyz` says.
    ready: AtomicBool,
    /// Whether the process is to run.
    wanted: watch::Sender<bool>,
    /// Whether it does.
    running: watch::Sender<bool>,
    calls: AtomicUsize,
    in_service: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
}

impl Stub {
    /// With one slot.
    pub(crate) async fn start(manner: Manner) -> Self {
        Self::with_capacity(1, manner).await
    }

    /// With so many slots; who comes when all are taken is told that it is busy.
    pub(crate) async fn with_capacity(capacity: usize, manner: Manner) -> Self {
        let port = socket("127.0.0.1:0".parse().expect("an address"));
        let address = port.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            address,
            capacity,
            manner: watch::Sender::new(manner),
            ready: AtomicBool::new(true),
            wanted: watch::Sender::new(true),
            running: watch::Sender::new(false),
            calls: AtomicUsize::new(0),
            in_service: AtomicUsize::new(0),
            seen: Mutex::default(),
        });
        tokio::spawn(run(shared.clone()));
        let stub = Self { address: address.to_string(), shared, _port: port };
        stub.until_running(true).await;
        stub
    }

    /// Pictures that reached it.
    pub(crate) fn calls(&self) -> usize {
        self.shared.calls.load(Ordering::SeqCst)
    }

    /// The same in the order in which they came.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("nobody panics with it").clone()
    }

    /// How it treats pictures from now on.
    pub(crate) fn behave(&self, manner: Manner) {
        self.shared.manner.send_replace(manner);
    }

    /// What `/readyz` says from now on.
    pub(crate) fn set_ready(&self, ready: bool) {
        self.shared.ready.store(ready, Ordering::SeqCst);
    }

    /// As kill -9: every connection is closed, and new ones are refused.
    pub(crate) async fn kill(&self) {
        self.shared.wanted.send_replace(false);
        self.until_running(false).await;
    }

    /// Starts it again on the same port.
    pub(crate) async fn revive(&self) {
        self.shared.wanted.send_replace(true);
        self.until_running(true).await;
    }

    /// Until so many pictures have reached it.
    pub(crate) async fn until_calls(&self, count: usize) {
        for _ in 0..2000 {
            if self.calls() >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{} of {count} calls", self.calls());
    }

    async fn until_running(&self, running: bool) {
        let mut state = self.shared.running.subscribe();
        state.wait_for(|&state| state == running).await.expect("the stub outlives its handle");
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.shared.wanted.send_replace(false);
    }
}

/// Bound, so that nobody else gets the port; listening is another matter.
fn socket(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseport(true).expect("its port can be shared");
    socket.bind(address).expect("a free port");
    socket
}

/// The life of the process, as often as it is started.
async fn run(shared: Arc<Shared>) {
    let mut wanted = shared.wanted.subscribe();
    while wanted.wait_for(|&wanted| wanted).await.is_ok() {
        let listener = socket(shared.address).listen(1024).expect("the port is kept for it");
        shared.running.send_replace(true);
        let mut connections = JoinSet::new();
        tokio::select! {
            () = accept(listener, &mut connections, &shared) => {}
            _ = wanted.wait_for(|&wanted| !wanted) => {}
        }
        connections.shutdown().await;
        shared.in_service.store(0, Ordering::SeqCst);
        shared.running.send_replace(false);
    }
}

async fn accept(listener: TcpListener, connections: &mut JoinSet<()>, shared: &Arc<Shared>) {
    loop {
        let (stream, _peer) = listener.accept().await.expect("it listens");
        connections.spawn(connection(stream, shared.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    if matches!(*shared.manner.borrow(), Manner::Resets) {
        stream.set_zero_linger().expect("a socket has it");
    }
    let service = service_fn(move |request| answer(request, shared.clone()));
    // However it ends, the dispatcher's side of it is what is tested.
    let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

type Reply = Response<Either<Full<Bytes>, Half>>;

/// Hanging up is an error in hyper's words.
async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Reply, std::io::Error> {
    let mut manners = shared.manner.subscribe();
    let manner = manners.wait_for(|manner| !matches!(manner, Manner::Hung)).await.expect("it is kept").clone();
    if request.uri().path() == "/readyz" {
        let ready = shared.ready.load(Ordering::SeqCst);
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        return Ok(respond::json(status, &ReadyBody { ready, capacity: Some(shared.capacity) }).map(Either::Left));
    }
    shared.calls.fetch_add(1, Ordering::SeqCst);
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let query = head.uri.query().map(str::to_owned);
    let seen = Seen { query, headers: head.headers, body: body.clone() };
    shared.seen.lock().expect("nobody panics with it").push(seen);
    let Some(_slot) = Slot::take(&shared) else {
        return Ok(respond::error(&Fault::new(Code::Busy, "at capacity"), "").map(Either::Left));
    };
    match manner {
        Manner::Prompt => {}
        Manner::After(time) => tokio::time::sleep(time).await,
        Manner::Gated(gate) => gate.acquire().await.expect("never closed").forget(),
        Manner::Status(status) => return Ok(respond::json(status, &"no reason").map(Either::Left)),
        Manner::HangsUp(gate) => {
            gate.acquire().await.expect("never closed").forget();
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        Manner::Short | Manner::Resets => return Ok(success(&shared).map(|whole| Either::Right(Half::of(&whole)))),
        Manner::Hung => unreachable!("it was waited for"),
        Manner::Mortal(time) => {
            if body == POISON {
                shared.wanted.send_replace(false);
                tokio::spawn(async move {
                    tokio::time::sleep(RESTART).await;
                    shared.wanted.send_replace(true);
                });
                return std::future::pending().await;
            }
            tokio::time::sleep(time).await;
        }
    }
    Ok(success(&shared).map(|whole| Either::Left(whole.into())))
}

/// A 200 of the contract.
fn success(shared: &Shared) -> Response<Bytes> {
    let prediction = Prediction { class_index: 0, label: "stub".into(), confidence: 1.0 };
    let answer = Answer::new(vec![prediction], "stub", shared.address.to_string(), Timing::default());
    let mut reply = respond::json(StatusCode::OK, &answer);
    reply.headers_mut().insert(header::CAPACITY, HeaderValue::from(shared.capacity));
    reply.map(|_whole| serde_json::to_vec(&answer).expect("JSON").into())
}

/// One picture being computed.
struct Slot(Arc<Shared>);

impl Slot {
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        let free = |taken: usize| (taken < shared.capacity).then_some(taken + 1);
        let taken = shared.in_service.fetch_update(Ordering::SeqCst, Ordering::SeqCst, free);
        taken.is_ok().then(|| Self(shared.clone()))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Killed in the meantime, it starts from none.
        let less = |taken: usize| taken.checked_sub(1);
        let _none = self.0.in_service.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
    }
}

/// A body that ends too early: half of it, a pause in which that is sent, an error.
enum Half {
    Begun { half: Bytes, length: u64 },
    Sent,
    Over,
}

impl Half {
    fn of(whole: &Bytes) -> Self {
        Self::Begun { half: whole.slice(..whole.len() / 2), length: whole.len() as u64 }
    }
}

impl Body for Half {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &*self {
            Self::Begun { half, .. } => {
                let half = half.clone();
                *self = Self::Sent;
                Poll::Ready(Some(Ok(Frame::data(half))))
            }
            Self::Sent => {
                *self = Self::Over;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Self::Over => Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionAborted.into()))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Begun { length, .. } => SizeHint::with_exact(*length),
            Self::Sent | Self::Over => SizeHint::default(),
        }
    }
}
