//! One attempt against one replica: sends the request as it came, and judges the answer.

use crate::rotation::{Address, Verdict};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{HeaderMap, Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use service::body::{Chunks, ChunksBody};
use service::trace::TraceContext;
use service::wire::{self, Code, ErrorBody, ReadyBody, header};
use std::future::poll_fn;
use std::io::Write;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// For a connection on a local network; a replica that takes longer is passed over.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);

/// A replica that has not answered for this long has stalled.
const STALL: Duration = Duration::from_secs(2);

/// An answer is a few hundred bytes; 1000 predictions are under 100 KiB.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Of a request to a replica, with those that hyper adds.
const REQUEST_HEADERS: usize = 8;

/// What the client sent, kept until it is answered.
#[derive(Debug)]
pub struct Picture {
    /// The body in whatever form it came.
    pub body: Chunks,
    /// Its `Content-Type`, if any.
    pub content_type: Option<HeaderValue>,
    /// How many predictions are wanted.
    pub top_k: usize,
    /// Its names.
    pub trace: TraceContext,
    /// When its head had come.
    pub accepted: Instant,
    /// When the client must have its answer.
    pub deadline: Instant,
}

impl AsRef<Chunks> for Picture {
    fn as_ref(&self) -> &Chunks {
        &self.body
    }
}

/// A replica's answer, to be handed to the client as it is.
#[derive(Debug, Clone)]
pub struct Answer {
    /// 200, a 4xx, or the replica's own 504.
    pub status: StatusCode,
    /// The JSON.
    pub body: Bytes,
}

/// Why an attempt brought no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection: the replica never saw the request.
    Connect,
    /// The connection ended before the whole answer was there: the replica may have died of it.
    Died,
    /// A status or body that is not the contract's.
    Invalid,
    /// A 5xx.
    Server,
    /// The replica is full.
    Busy,
    /// The deadline came first.
    Deadline,
    /// The replica stopped answering, probes included.
    Stalled,
    /// Nobody waited any more when the turn came.
    Unused,
}

impl Failure {
    /// Its name in `dispatcher_retries_total`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Died => "reset",
            Self::Invalid => "invalid",
            Self::Server => "server_error",
            Self::Busy => "busy",
            Self::Deadline => "deadline",
            Self::Stalled => "stalled",
            Self::Unused => "unused",
        }
    }

    /// What it says about the replica, which had the request for `took`.
    pub fn verdict(self, took: Duration) -> Verdict {
        match self {
            Self::Connect | Self::Died => Verdict::Unreachable,
            // A request that had waited long may have had a few milliseconds left.
            Self::Deadline if took < STALL => Verdict::Unfinished,
            Self::Invalid | Self::Server | Self::Deadline => Verdict::Failed,
            Self::Busy => Verdict::Busy,
            // A failed probe has ejected it; or it was never asked.
            Self::Stalled | Self::Unused => Verdict::Unfinished,
        }
    }
}

/// How an attempt ended.
#[derive(Debug)]
pub struct Attempt {
    /// The answer, if there was one.
    pub outcome: Result<Answer, Failure>,
    /// Slots that the replica advertised with it.
    pub capacity: Option<usize>,
    /// The connection, if it can be used again.
    pub connection: Option<Connection>,
}

impl Attempt {
    /// It brought nothing.
    pub fn failed(failure: Failure) -> Self {
        Self { outcome: Err(failure), capacity: None, connection: None }
    }
}

/// An open connection to a replica, used by one request at a time, and driven by that request's own task: nothing is
/// handed from task to task.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Body>,
    /// Gone once the connection has ended.
    driver: Option<Driver>,
}

type Driver = Box<http1::Connection<TokioIo<TcpStream>, Body>>;

type Body = ChunksBody<Arc<Picture>>;

impl Connection {
    async fn open(address: &Address) -> Result<Self, Failure> {
        let opened = async {
            let stream = TcpStream::connect(&**address).await?;
            // A request is written whole; waiting to fill a packet only adds latency.
            stream.set_nodelay(true)?;
            http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, opened).await {
            Ok(Ok((sender, driver))) => Ok(Self { sender, driver: Some(Box::new(driver)) }),
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "no connection");
                Err(Failure::Connect)
            }
            Err(_elapsed) => Err(Failure::Connect),
        }
    }

    /// Whether the next request can be sent; not if the replica has closed it.
    async fn is_ready(&mut self) -> bool {
        driven(&mut self.driver, self.sender.ready()).await.is_ok()
    }
}

/// Runs `exchange` while driving the connection that it goes over. Whatever `exchange` waits for comes from the driver,
/// which alone therefore has to wake the task. A driver that ends is dropped, and so tells `exchange` what it has not
/// done.
async fn driven<F: Future>(driver: &mut Option<Driver>, exchange: F) -> F::Output {
    let mut exchange = pin!(exchange);
    poll_fn(|context| {
        if let Some(driving) = driver {
            let mut nobody = Context::from_waker(Waker::noop());
            if let Poll::Ready(output) = exchange.as_mut().poll(&mut nobody) {
                return Poll::Ready(output);
            }
            // Its error, if it has one, comes by way of the exchange.
            if Pin::new(driving).poll(context).is_ready() {
                *driver = None;
            }
        }
        exchange.as_mut().poll(context)
    })
    .await
}

/// Sends `picture` to `address`, with the time already waited, over `connection` or, where that has gone, a new one.
/// The replica is told what remains until `deadline`; ending the attempt is the caller's.
///
/// # Cancel safety
/// Dropped, it closes the connection, which tells the replica that nobody waits.
pub async fn attempt(
    connection: Option<Connection>,
    address: &Address,
    picture: &Arc<Picture>,
    deadline: Instant,
    waited: Duration,
) -> Attempt {
    match exchange(connection, address, picture, deadline, waited).await {
        Ok((outcome, capacity, connection)) => Attempt { outcome, capacity, connection: Some(connection) },
        Err(failure) => Attempt::failed(failure),
    }
}

type Exchanged = (Result<Answer, Failure>, Option<usize>, Connection);

async fn exchange(
    mut kept: Option<Connection>,
    address: &Address,
    picture: &Arc<Picture>,
    deadline: Instant,
    waited: Duration,
) -> Result<Exchanged, Failure> {
    let mut request = request(address, picture, deadline.saturating_duration_since(Instant::now()), waited);
    let (response, mut connection) = loop {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => Connection::open(address).await?,
        };
        if !connection.is_ready().await {
            // It was closed while nobody used it.
            continue;
        }
        let Connection { sender, driver } = &mut connection;
        match driven(driver, sender.try_send_request(request)).await {
            Ok(response) => break (response, connection),
            // The replica never saw it.
            Err(mut error) => match error.take_message() {
                Some(unsent) => request = unsent,
                None => {
                    tracing::debug!(%address, error = ?error.error(), "no answer");
                    return Err(Failure::Died);
                }
            },
        }
    };
    let status = response.status();
    let capacity = response
        .headers()
        .get(header::CAPACITY)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .filter(|&capacity| capacity > 0);
    let is_json = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect();
    let outcome = match driven(&mut connection.driver, body).await.map(|body| body.to_bytes()) {
        Err(error) if error.is::<LengthLimitError>() => return Err(Failure::Invalid),
        Err(error) => {
            tracing::debug!(%address, ?error, "half an answer");
            return Err(Failure::Died);
        }
        Ok(body) if is_json && is_final(status) => Ok(Answer { status, body }),
        Ok(body) if is_json && is_busy(status, &body) => Err(Failure::Busy),
        Ok(_) if status.is_server_error() => Err(Failure::Server),
        Ok(_) => Err(Failure::Invalid),
    };
    Ok((outcome, capacity, connection))
}

/// Asks a replica's `/readyz`: its capacity if it is ready and says so within `patience`.
pub async fn probe(address: &Address, patience: Duration) -> Option<usize> {
    let (status, body) = service::fetch::get(address, "/readyz", patience).await.ok()?;
    let ready: ReadyBody = serde_json::from_slice(&body).ok()?;
    (status == StatusCode::OK && ready.ready).then(|| ready.capacity.unwrap_or(1))
}

/// Another replica would say the same.
fn is_final(status: StatusCode) -> bool {
    status == StatusCode::OK || status.is_client_error() || status == StatusCode::GATEWAY_TIMEOUT
}

/// Full, and nothing else: another 503, such as a proxy's, is a fault like any 5xx.
fn is_busy(status: StatusCode, body: &[u8]) -> bool {
    status == StatusCode::SERVICE_UNAVAILABLE
        && serde_json::from_slice::<ErrorBody>(body).is_ok_and(|error| error.code == Code::Busy.as_str())
}

fn request(address: &Address, picture: &Arc<Picture>, left: Duration, waited: Duration) -> Request<Body> {
    let mut request = Request::new(ChunksBody::new(picture.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = if picture.top_k == wire::DEFAULT_TOP_K {
        Uri::from_static("/predict")
    } else {
        format!("/predict?top_k={}", picture.top_k).parse().expect("a number fits a query")
    };
    let mut headers = HeaderMap::with_capacity(REQUEST_HEADERS);
    headers.insert(HOST, HeaderValue::from_str(address).expect("discovery publishes visible ASCII only"));
    headers.insert(header::TIMEOUT_MS, HeaderValue::from(left.as_millis().max(1) as u64));
    headers.insert(header::QUEUE_MS, milliseconds(waited));
    if let Some(content_type) = &picture.content_type {
        headers.insert(CONTENT_TYPE, content_type.clone());
    }
    picture.trace.write(&mut headers);
    *request.headers_mut() = headers;
    request
}

/// With three digits after the point, such as `12.345`.
fn milliseconds(duration: Duration) -> HeaderValue {
    let microseconds = duration.as_micros();
    // 24 bytes hold what a deadline, capped at a day, permits; integers are cheaper to write than fractions.
    let mut text = [0; 24];
    let mut rest = &mut text[..];
    let _fits = write!(rest, "{}.{:03}", microseconds / 1000, microseconds % 1000);
    let left = rest.len();
    HeaderValue::from_bytes(&text[..24 - left]).expect("digits and a point fit a header")
}
