//! One attempt against one replica: sends the request as it came, and judges the answer.

use crate::rotation::{Address, Verdict};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, StatusCode, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use service::trace::Trace;
use service::wire::{Code, ErrorBody, ReadyBody, header};
use std::time::{Duration, Instant};

/// For a connection on a local network; a replica that takes longer is passed over.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);

/// A replica that has not answered for this long has stalled.
const STALL: Duration = Duration::from_secs(2);

/// For an answer to a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// An answer is a few hundred bytes; 1000 predictions are under 100 KiB.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// What the client sent, kept until it is answered.
#[derive(Debug)]
pub struct Picture {
    /// The body in whatever form it came; never copied.
    pub body: Bytes,
    /// Its `Content-Type`, if any.
    pub content_type: Option<HeaderValue>,
    /// How many predictions are wanted.
    pub top_k: usize,
    /// Its names.
    pub trace: Trace,
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
}

/// Keeps connections to replicas open between requests.
#[derive(Debug, Clone)]
pub struct Forwarder {
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Default for Forwarder {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(20))
            .build(connector);
        Self { client }
    }
}

impl Forwarder {
    /// Sends `picture` to `address`, with the time that is left and the time already waited.
    pub async fn attempt(&self, address: &Address, picture: &Picture, deadline: Instant, waited: Duration) -> Attempt {
        let started = Instant::now();
        let left = deadline.saturating_duration_since(started);
        let (outcome, capacity) = match tokio::time::timeout(left, self.exchange(address, picture, left, waited)).await
        {
            Ok((outcome, capacity)) => (outcome, capacity),
            Err(_elapsed) => (Err(Failure::Deadline), None),
        };
        Attempt { outcome, capacity, took: started.elapsed() }
    }

    async fn exchange(
        &self,
        address: &Address,
        picture: &Picture,
        left: Duration,
        waited: Duration,
    ) -> (Result<Answer, Failure>, Option<usize>) {
        let request = match request(address, picture, left, waited) {
            Ok(request) => request,
            Err(error) => {
                tracing::warn!(%address, %error, "the replica's address is no URI");
                return (Err(Failure::Connect), None);
            }
        };
        let response = match self.client.request(request).await {
            Ok(response) => response,
            Err(error) => return (Err(cause(&error)), None),
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
            Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(Failure::Invalid),
            Err(_reset) => Err(Failure::Died),
            Ok(body) if is_json && is_final(status) => Ok(Answer { status, body }),
            Ok(body) if is_json && is_busy(status, &body) => Err(Failure::Busy),
            Ok(_) if status.is_server_error() => Err(Failure::Server),
            Ok(_) => Err(Failure::Invalid),
        };
        (outcome, capacity)
    }
}

/// Asks a replica's `/readyz`: its capacity if it is ready.
pub async fn probe(address: &Address) -> Option<usize> {
    let (status, body) = service::fetch::get(address, "/readyz", PROBE_TIMEOUT).await.ok()?;
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

fn request(
    address: &Address,
    picture: &Picture,
    left: Duration,
    waited: Duration,
) -> Result<Request<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
    let uri: Uri = format!("http://{address}/predict?top_k={}", picture.top_k).parse()?;
    let mut request = Request::post(uri)
        .header(HOST, address.as_str())
        .header(header::TIMEOUT_MS, left.as_millis().max(1).to_string())
        .header(header::QUEUE_MS, format!("{:.3}", waited.as_secs_f64() * 1e3))
        .body(Full::new(picture.body.clone()))?;
    if let Some(content_type) = &picture.content_type {
        request.headers_mut().insert(CONTENT_TYPE, content_type.clone());
    }
    picture.trace.write(request.headers_mut());
    Ok(request)
}

fn cause(error: &legacy::Error) -> Failure {
    if error.is_connect() { Failure::Connect } else { Failure::Died }
}
