//! One attempt against one replica: sends the request as it came and classifies the answer. Knows nothing of the queue,
//! and does not decide whether the request is tried again.

use crate::failure::Failure;
use crate::request::BufferedRequest;
use crate::rotation::Address;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use service::body::ChunksBody;
use service::wire::{self, Code, ErrorBody, ReadyBody, header};
use std::future::poll_fn;
use std::io::Write;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Longest time for opening a connection. Replicas are on a local network, so a longer wait means an unreachable one.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);

/// Largest body of an answer, in bytes. An answer has a few hundred; 1000 predictions are under 100 KiB.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Headers of a request to a replica, with those that hyper adds. The map is allocated with room for them.
const REQUEST_HEADERS: usize = 8;

/// A replica's answer, which the client receives unchanged.
#[derive(Debug, Clone)]
pub struct ReplicaAnswer {
    /// 200, a 4xx status, or the replica's own 504.
    pub status: StatusCode,
    /// The JSON body.
    pub body: Bytes,
}

/// How an attempt ended.
#[derive(Debug)]
pub struct AttemptResult {
    /// The answer, or why there was none.
    pub answer: Result<ReplicaAnswer, Failure>,
    /// The capacity that the replica advertised with its answer.
    pub capacity: Option<usize>,
    /// The connection, if it can be used again.
    pub connection: Option<Connection>,
}

impl AttemptResult {
    /// The result of an attempt that received nothing and leaves no usable connection.
    pub fn failed(failure: Failure) -> Self {
        Self { answer: Err(failure), capacity: None, connection: None }
    }
}

/// An open connection to a replica. One request at a time uses it, and that request's own task drives it, so that no
/// data passes from task to task.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Body>,
    /// `None` once the connection has ended.
    driver: Option<Driver>,
}

type Driver = Box<http1::Connection<TokioIo<TcpStream>, Body>>;

type Body = ChunksBody<Arc<BufferedRequest>>;

impl Connection {
    async fn open(address: &Address) -> Result<Self, Failure> {
        let opened = async {
            let stream = TcpStream::connect(&**address).await?;
            // hyper writes a request in one piece, so Nagle's algorithm would only delay it.
            stream.set_nodelay(true)?;
            http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, opened).await {
            Ok(Ok((sender, driver))) => Ok(Self { sender, driver: Some(Box::new(driver)) }),
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "connecting to the replica failed");
                Err(Failure::Connect)
            }
            Err(_elapsed) => Err(Failure::Connect),
        }
    }

    /// Whether the connection can take a request. It cannot if the replica has closed it.
    async fn is_ready(&mut self) -> bool {
        drive(&mut self.driver, self.sender.ready()).await.is_ok()
    }
}

/// Runs `exchange` and, in the same task, the driver of the connection that it uses. A driver that ends is dropped; the
/// error then reaches `exchange` through hyper's channel.
///
/// Each poll has three steps. First, `exchange` hands the driver its request, or takes an answer that is there already.
/// Second, the driver reads and writes. Third, `exchange` takes what the driver has read. The first step uses a waker
/// that does nothing, and it replaces the waker that the third step of the previous poll has left with `exchange`. The
/// driver would otherwise wake this task while it runs, and tokio would poll the task once more for each answer. No
/// wake-up is lost, because the third step registers the task's own waker again.
async fn drive<F: Future>(driver: &mut Option<Driver>, exchange: F) -> F::Output {
    let mut exchange = pin!(exchange);
    poll_fn(|context| {
        if let Some(connection) = driver {
            let mut no_wake_up = Context::from_waker(Waker::noop());
            if let Poll::Ready(output) = exchange.as_mut().poll(&mut no_wake_up) {
                return Poll::Ready(output);
            }
            if Pin::new(connection).poll(context).is_ready() {
                *driver = None;
            }
        }
        exchange.as_mut().poll(context)
    })
    .await
}

/// Sends `request` to `address` over `connection` or, if there is none or the replica has closed it, over a new one.
/// The replica is told the time that remains until `deadline` and the time that the request has `waited`. The caller
/// ends the attempt at the deadline.
///
/// # Cancel safety
/// Dropping the future closes the connection, by which the replica learns that the client has left.
pub async fn attempt(
    connection: Option<Connection>,
    address: &Address,
    request: &Arc<BufferedRequest>,
    deadline: Instant,
    waited: Duration,
) -> AttemptResult {
    match exchange(connection, address, request, deadline, waited).await {
        Ok(result) => result,
        Err(failure) => AttemptResult::failed(failure),
    }
}

/// Sends `request` and receives the whole answer. An error leaves no usable connection.
async fn exchange(
    idle: Option<Connection>,
    address: &Address,
    request: &Arc<BufferedRequest>,
    deadline: Instant,
    waited: Duration,
) -> Result<AttemptResult, Failure> {
    let (response, mut connection) = send(idle, address, request, deadline, waited).await?;
    let status = response.status();
    let headers = response.headers();
    let capacity = advertised_capacity(headers);
    let is_json = headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect();
    let body = match drive(&mut connection.driver, body).await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(Failure::Invalid),
        Err(error) => {
            tracing::debug!(%address, ?error, "the answer broke off");
            return Err(Failure::Died);
        }
    };
    Ok(AttemptResult { answer: classify(status, is_json, body), capacity, connection: Some(connection) })
}

/// Sends `request` over `idle` or, if there is no such connection or the replica has closed it, over a new one. Returns
/// the head of the response and the connection over which its body arrives.
async fn send(
    mut idle: Option<Connection>,
    address: &Address,
    request: &Arc<BufferedRequest>,
    deadline: Instant,
    waited: Duration,
) -> Result<(Response<Incoming>, Connection), Failure> {
    // Made here and not passed in, because each async function would hold a copy of it.
    let remaining = deadline.saturating_duration_since(Instant::now());
    let mut request = replica_request(address, request, remaining, waited);
    loop {
        let mut connection = match idle.take() {
            Some(connection) => connection,
            None => Connection::open(address).await?,
        };
        if !connection.is_ready().await {
            continue;
        }
        let Connection { sender, driver } = &mut connection;
        match drive(driver, sender.try_send_request(request)).await {
            Ok(response) => return Ok((response, connection)),
            Err(mut error) => match error.take_message() {
                // hyper gives back a request of which it has written nothing, so the replica has not seen it.
                Some(unsent) => request = unsent,
                None => {
                    tracing::debug!(%address, error = ?error.error(), "the connection ended without an answer");
                    return Err(Failure::Died);
                }
            },
        }
    }
}

/// An answer that the client may receive, or the failure that status and body mean.
fn classify(status: StatusCode, is_json: bool, body: Bytes) -> Result<ReplicaAnswer, Failure> {
    if is_json && is_final(status) {
        Ok(ReplicaAnswer { status, body })
    } else if is_json && is_busy(status, &body) {
        Err(Failure::Busy)
    } else if status.is_server_error() {
        Err(Failure::Server)
    } else {
        Err(Failure::Invalid)
    }
}

/// Whether every other replica would answer with the same status, so that a retry would not help.
fn is_final(status: StatusCode) -> bool {
    status == StatusCode::OK || status.is_client_error() || status == StatusCode::GATEWAY_TIMEOUT
}

/// Whether the replica says that all of its slots are taken. Another 503, such as a proxy's, is a failure like any 5xx.
fn is_busy(status: StatusCode, body: &[u8]) -> bool {
    status == StatusCode::SERVICE_UNAVAILABLE
        && serde_json::from_slice::<ErrorBody>(body).is_ok_and(|error| error.code == Code::Busy.as_str())
}

fn advertised_capacity(headers: &HeaderMap) -> Option<usize> {
    let capacity = headers.get(header::CAPACITY)?.to_str().ok()?.parse().ok()?;
    (capacity > 0).then_some(capacity)
}

/// Probes a replica: its capacity if `/readyz` says within `timeout` that the replica is ready, else `None`.
pub async fn probe(address: &Address, timeout: Duration) -> Option<usize> {
    let (status, body) = service::fetch::get(address, "/readyz", timeout).await.ok()?;
    let ready: ReadyBody = serde_json::from_slice(&body).ok()?;
    (status == StatusCode::OK && ready.ready).then(|| ready.capacity.unwrap_or(1))
}

/// The request that the replica receives.
fn replica_request(
    address: &Address,
    buffered: &Arc<BufferedRequest>,
    remaining: Duration,
    waited: Duration,
) -> Request<Body> {
    let mut request = Request::new(ChunksBody::new(buffered.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = if buffered.top_k == wire::DEFAULT_TOP_K {
        Uri::from_static("/predict")
    } else {
        format!("/predict?top_k={}", buffered.top_k).parse().expect("a number is valid in a query")
    };
    let mut headers = HeaderMap::with_capacity(REQUEST_HEADERS);
    headers.insert(HOST, HeaderValue::from_str(address).expect("discovery publishes visible ASCII only"));
    headers.insert(header::TIMEOUT_MS, HeaderValue::from(remaining.as_millis().max(1) as u64));
    headers.insert(header::QUEUE_MS, milliseconds(waited));
    if let Some(content_type) = &buffered.content_type {
        headers.insert(CONTENT_TYPE, content_type.clone());
    }
    buffered.trace.write(&mut headers);
    *request.headers_mut() = headers;
    request
}

/// Milliseconds with three decimal places, such as `12.345`.
fn milliseconds(duration: Duration) -> HeaderValue {
    const MAX_LENGTH: usize = 24;
    let microseconds = duration.as_micros();
    // 20 digits, a point and 3 digits. Every request passes here, and `format!` would allocate.
    let mut text = [0; MAX_LENGTH];
    let mut unwritten = &mut text[..];
    write!(unwritten, "{}.{:03}", microseconds / 1000, microseconds % 1000)
        .expect("20 digits of milliseconds are longer than any deadline");
    let length = MAX_LENGTH - unwritten.len();
    HeaderValue::from_bytes(&text[..length]).expect("digits and a point are valid in a header")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_body_tell_answers_from_failures() {
        let busy = r#"{"success":false,"code":"busy","error":"","request_id":""}"#;
        let other = r#"{"success":false,"code":"internal","error":"","request_id":""}"#;
        for (status, is_json, body, expected) in [
            (200, true, "{}", None),
            (400, true, other, None),
            (504, true, other, None),
            (200, false, "{}", Some(Failure::Invalid)),
            (302, true, "{}", Some(Failure::Invalid)),
            (400, false, "", Some(Failure::Invalid)),
            (500, true, other, Some(Failure::Server)),
            (503, true, busy, Some(Failure::Busy)),
            (503, true, other, Some(Failure::Server)),
            (503, false, busy, Some(Failure::Server)),
        ] {
            let classified = classify(StatusCode::from_u16(status).expect("a status"), is_json, body.into());
            assert_eq!(classified.err(), expected, "{status} {is_json} {body}");
        }
    }

    #[test]
    fn milliseconds_have_three_decimal_places() {
        for (microseconds, expected) in
            [(0, "0.000"), (7, "0.007"), (12_345, "12.345"), (86_400_000_000, "86400000.000")]
        {
            assert_eq!(milliseconds(Duration::from_micros(microseconds)), expected);
        }
    }
}
