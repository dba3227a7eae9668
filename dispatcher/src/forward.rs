//! One attempt against one replica: sends the request as it came, and judges the answer.

use crate::rotation::{Address, Verdict};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use service::body::{Chunks, Sending};
use service::trace::Trace;
use service::wire::{self, Code, ErrorBody, ReadyBody, header};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// For a connection on a local network; a replica that takes longer is passed over.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);

/// A replica that has not answered for this long has stalled.
const STALL: Duration = Duration::from_secs(2);

/// An answer is a few hundred bytes; 1000 predictions are under 100 KiB.
const MAX_ANSWER_BYTES: usize = 1 << 20;

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
    pub trace: Trace,
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
            // Its failed probe has ejected it.
            Self::Stalled => Verdict::Unfinished,
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
    /// Dispatched → ended.
    pub took: Duration,
    /// The connection, if it can be used again.
    pub connection: Option<Connection>,
}

/// An open connection to a replica, used by one request at a time.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Sending<Arc<Picture>>>,
}

impl Connection {
    /// Whether the replica has closed it.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    async fn open(address: &Address) -> Result<Self, Failure> {
        let opened = async {
            let stream = TcpStream::connect(&**address).await?;
            // A request is written whole; waiting to fill a packet only adds latency.
            stream.set_nodelay(true)?;
            http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)
        };
        let (sender, connection) = match tokio::time::timeout(CONNECT_TIMEOUT, opened).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "no connection");
                return Err(Failure::Connect);
            }
            Err(_elapsed) => return Err(Failure::Connect),
        };
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a replica ended");
            }
        });
        Ok(Self { sender })
    }
}

/// Sends `picture` to `address`, with the time already waited, over `connection` or, where that has gone, a new one.
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
    let started = Instant::now();
    let left = deadline.saturating_duration_since(started);
    let exchange = exchange(connection, address, picture, left, waited);
    let (outcome, capacity, connection) = match tokio::time::timeout_at(deadline.into(), exchange).await {
        Ok(Ok((answer, capacity, connection))) => (answer, capacity, Some(connection)),
        Ok(Err(failure)) => (Err(failure), None, None),
        Err(_elapsed) => (Err(Failure::Deadline), None, None),
    };
    Attempt { outcome, capacity, took: started.elapsed(), connection }
}

type Exchanged = (Result<Answer, Failure>, Option<usize>, Connection);

async fn exchange(
    connection: Option<Connection>,
    address: &Address,
    picture: &Arc<Picture>,
    left: Duration,
    waited: Duration,
) -> Result<Exchanged, Failure> {
    let mut request = request(address, picture, left, waited);
    let mut kept = connection;
    let (response, connection) = loop {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => Connection::open(address).await?,
        };
        if connection.sender.ready().await.is_err() {
            // It was closed while nobody used it.
            continue;
        }
        match connection.sender.try_send_request(request).await {
            Ok(response) => break (response, connection),
            // The replica never saw it.
            Err(mut error) => match error.take_message() {
                Some(unsent) => request = unsent,
                None => return Err(Failure::Died),
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
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
    let outcome = match body.map(|body| body.to_bytes()) {
        Err(error) if error.is::<LengthLimitError>() => return Err(Failure::Invalid),
        Err(_reset) => return Err(Failure::Died),
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

fn request(address: &Address, picture: &Arc<Picture>, left: Duration, waited: Duration) -> Request<Sending<Arc<Picture>>> {
    let mut request = Request::new(Sending::new(picture.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = if picture.top_k == wire::DEFAULT_TOP_K {
        Uri::from_static("/predict")
    } else {
        format!("/predict?top_k={}", picture.top_k).parse().expect("a number fits a query")
    };
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_str(address).expect("discovery publishes visible ASCII only"));
    headers.insert(header::TIMEOUT_MS, HeaderValue::from(left.as_millis().max(1) as u64));
    let waited = format!("{:.3}", waited.as_secs_f64() * 1e3);
    headers.insert(header::QUEUE_MS, HeaderValue::try_from(waited).expect("digits and a point fit a header"));
    if let Some(content_type) = &picture.content_type {
        headers.insert(CONTENT_TYPE, content_type.clone());
    }
    picture.trace.write(headers);
    request
}
