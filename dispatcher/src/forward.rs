//! One attempt at one replica: sends the request's body as the client sent it, and classifies the answer. Knows nothing
//! of the queue, and does not decide whether the request is tried again.

use crate::failure::AttemptFailure;
use crate::request::BufferedRequest;
use crate::rotation::Address;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use service::body::ChunksBody;
use service::wire::{self, Code, ErrorBody, header};
use std::future::poll_fn;
use std::io::Write;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// The longest time for opening a connection. Replicas are on a local network, so a replica that takes longer counts as
/// unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);

/// The largest body of an answer, in bytes. A usual answer has a few hundred bytes, and one with 1000 predictions less
/// than 100 KiB.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// The number of headers for which memory is allocated at once: those of a request to a replica, including the ones
/// that hyper adds.
const REQUEST_HEADERS: usize = 8;

/// A replica's answer, which the client receives unchanged.
#[derive(Debug, Clone)]
pub struct ReplicaAnswer {
    /// The status: 200, a 4xx status, or the replica's own 504.
    pub status: StatusCode,
    /// The JSON body.
    pub body: Bytes,
}

/// The result of an attempt.
#[derive(Debug)]
pub struct AttemptResult {
    /// The answer, or the failure of an attempt without an answer.
    pub answer: Result<ReplicaAnswer, AttemptFailure>,
    /// The capacity that the replica advertised with its answer; `None` if there was none.
    pub capacity: Option<usize>,
    /// The time that the replica says it worked for its answer; `None` if it says none.
    pub work: Option<Duration>,
    /// The time that the replica says a request costs it if its batches are full; `None` if it says none.
    pub full_work: Option<Duration>,
    /// The connection of the attempt; `None` if another request cannot use it.
    pub connection: Option<ReplicaConnection>,
}

impl AttemptResult {
    /// The result of an attempt that received no answer and leaves no usable connection.
    pub fn failed(failure: AttemptFailure) -> Self {
        Self { answer: Err(failure), capacity: None, work: None, full_work: None, connection: None }
    }
}

/// An open connection to a replica. One request at a time uses the connection. The request's own task drives it, so
/// that no data passes from task to task.
#[derive(Debug)]
pub struct ReplicaConnection {
    sender: SendRequest<RequestBody>,
    /// The future that reads and writes; `None` once the connection has ended.
    driver: Option<ConnectionDriver>,
}

type ConnectionDriver = Box<http1::Connection<TokioIo<TcpStream>, RequestBody>>;

type RequestBody = ChunksBody<Arc<BufferedRequest>>;

impl ReplicaConnection {
    async fn open(address: &Address) -> Result<Self, AttemptFailure> {
        let opened = async {
            let stream = TcpStream::connect(&**address).await?;
            // hyper writes a request in one piece, so Nagle's algorithm would only delay it.
            stream.set_nodelay(true)?;
            http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, opened).await {
            Ok(Ok((sender, driver))) => Ok(Self { sender, driver: Some(Box::new(driver)) }),
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "cannot connect to the replica");
                Err(AttemptFailure::Connect)
            }
            Err(_elapsed) => Err(AttemptFailure::Connect),
        }
    }

    /// Whether the connection can take a request; false if the replica has closed it.
    async fn is_ready(&mut self) -> bool {
        drive(&mut self.driver, self.sender.ready()).await.is_ok()
    }
}

/// Runs `exchange` and, in the same task, the driver of its connection. A driver that ends is dropped. `exchange` then
/// receives the error through hyper's channel.
///
/// Each poll has three steps. First, `exchange` hands the driver its request, or takes an answer that has arrived.
/// Second, the driver reads and writes. Third, `exchange` takes the data that the driver has read. The first step uses
/// a waker that does nothing. It replaces the waker that the third step of the previous poll has registered. With that
/// waker, the driver would wake this task while the task runs, and tokio would poll the task once more for each answer.
/// No wake-up is lost, because the third step registers the task's own waker again.
async fn drive<F: Future>(driver: &mut Option<ConnectionDriver>, exchange: F) -> F::Output {
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

/// Sends `request` to the replica `address` over `connection`. If there is no connection, or the replica has closed it,
/// a new one is opened. Headers tell the replica the time until `deadline` and the time that the request has `waited`.
/// The caller ends the attempt at the deadline.
///
/// # Cancel safety
/// Dropping the future closes the connection. The replica sees by this that the client has left.
pub async fn attempt(
    connection: Option<ReplicaConnection>,
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
    idle: Option<ReplicaConnection>,
    address: &Address,
    request: &Arc<BufferedRequest>,
    deadline: Instant,
    waited: Duration,
) -> Result<AttemptResult, AttemptFailure> {
    let (response, mut connection) = send(idle, address, request, deadline, waited).await?;
    let status = response.status();
    let headers = response.headers();
    let capacity = advertised_capacity(headers);
    let [work, full_work] = [header::WORK_US, header::FULL_WORK_US].map(|name| reported_time(headers, &name));
    let is_json = headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect();
    let body = match drive(&mut connection.driver, body).await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(AttemptFailure::Invalid),
        Err(error) => {
            tracing::debug!(%address, ?error, "the connection ended in the middle of the replica's answer");
            return Err(AttemptFailure::Died);
        }
    };
    let answer = classify(status, is_json, body);
    Ok(AttemptResult { answer, capacity, work, full_work, connection: Some(connection) })
}

/// Sends `request` over `idle`. If there is no such connection, or the replica has closed it, a new one is opened.
/// Returns the head of the response, and the connection over which the body of the response arrives.
async fn send(
    mut idle: Option<ReplicaConnection>,
    address: &Address,
    request: &Arc<BufferedRequest>,
    deadline: Instant,
    waited: Duration,
) -> Result<(Response<Incoming>, ReplicaConnection), AttemptFailure> {
    // The request is made here, because each async function that passed it on would hold a copy of it.
    let remaining = deadline.saturating_duration_since(Instant::now());
    let mut request = replica_request(address, request, remaining, waited);
    loop {
        let mut connection = match idle.take() {
            Some(connection) => connection,
            None => ReplicaConnection::open(address).await?,
        };
        if !connection.is_ready().await {
            continue;
        }
        let ReplicaConnection { sender, driver } = &mut connection;
        match drive(driver, sender.try_send_request(request)).await {
            Ok(response) => return Ok((response, connection)),
            Err(mut error) => match error.take_message() {
                // hyper returns a request only if it has written nothing of it, so the replica has not received it.
                Some(unsent) => request = unsent,
                None => {
                    let error = error.error();
                    tracing::debug!(%address, ?error, "the connection ended before the replica answered");
                    return Err(AttemptFailure::Died);
                }
            },
        }
    }
}

/// Returns the answer for the client, or the failure that status and body stand for.
fn classify(status: StatusCode, is_json: bool, body: Bytes) -> Result<ReplicaAnswer, AttemptFailure> {
    if is_json && is_final(status) {
        Ok(ReplicaAnswer { status, body })
    } else if is_json && is_busy(status, &body) {
        Err(AttemptFailure::Busy)
    } else if status.is_server_error() {
        Err(AttemptFailure::Server)
    } else {
        Err(AttemptFailure::Invalid)
    }
}

/// Whether any other replica would answer with the same status, so that a retry would not help.
fn is_final(status: StatusCode) -> bool {
    status == StatusCode::OK || status.is_client_error() || status == StatusCode::GATEWAY_TIMEOUT
}

/// Whether the answer says that all slots of the replica are taken. A 503 with another body, such as that of a proxy,
/// is a failure like any 5xx.
fn is_busy(status: StatusCode, body: &[u8]) -> bool {
    status == StatusCode::SERVICE_UNAVAILABLE
        && serde_json::from_slice::<ErrorBody>(body).is_ok_and(|error| error.code == Code::Busy.as_str())
}

fn advertised_capacity(headers: &HeaderMap) -> Option<usize> {
    let capacity = headers.get(header::CAPACITY)?.to_str().ok()?.parse().ok()?;
    (capacity > 0).then_some(capacity)
}

/// The time in the header `name`, in microseconds; `None` if the header is absent, malformed or repeated.
fn reported_time(headers: &HeaderMap, name: &HeaderName) -> Option<Duration> {
    let mut values = headers.get_all(name).iter();
    let microseconds = wire::number(values.next()?.to_str().ok()?)?;
    values.next().is_none().then(|| Duration::from_micros(microseconds))
}

/// The request that the replica receives.
fn replica_request(
    address: &Address,
    buffered: &Arc<BufferedRequest>,
    remaining: Duration,
    waited: Duration,
) -> Request<RequestBody> {
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
    // There is room for 20 digits, a point and 3 digits. `format!` would allocate memory for every request.
    let mut text = [0; MAX_LENGTH];
    let mut unwritten = &mut text[..];
    write!(unwritten, "{}.{:03}", microseconds / 1000, microseconds % 1000)
        .expect("no request waits for more milliseconds than 20 digits can count");
    let length = MAX_LENGTH - unwritten.len();
    HeaderValue::from_bytes(&text[..length]).expect("digits and a point are valid in a header")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_body_distinguish_answers_from_failures() {
        let busy = r#"{"success":false,"code":"busy","error":"","request_id":""}"#;
        let other = r#"{"success":false,"code":"internal","error":"","request_id":""}"#;
        for (status, is_json, body, expected) in [
            (200, true, "{}", None),
            (400, true, other, None),
            (504, true, other, None),
            (200, false, "{}", Some(AttemptFailure::Invalid)),
            (302, true, "{}", Some(AttemptFailure::Invalid)),
            (400, false, "", Some(AttemptFailure::Invalid)),
            (500, true, other, Some(AttemptFailure::Server)),
            (503, true, busy, Some(AttemptFailure::Busy)),
            (503, true, other, Some(AttemptFailure::Server)),
            (503, false, busy, Some(AttemptFailure::Server)),
        ] {
            let classified =
                classify(StatusCode::from_u16(status).expect("the number is a valid status"), is_json, body.into());
            assert_eq!(classified.err(), expected, "{status} {is_json} {body}");
        }
    }

    #[test]
    fn the_work_of_a_replica_is_one_whole_number_of_microseconds() {
        for (values, expected) in [
            (&[][..], None),
            (&["0"], Some(0)),
            (&["48700"], Some(48_700)),
            (&["18446744073709551615"], Some(u64::MAX)),
            (&["18446744073709551616"], None),
            (&["-1"], None),
            (&["+1"], None),
            (&["1.5"], None),
            (&["1e3"], None),
            (&[" "], None),
            (&[""], None),
            (&["10, 20"], None),
            (&["soon"], None),
            (&["10", "20"], None),
            (&["10", "10"], None),
        ] {
            let headers = values.iter().map(|&value| (header::WORK_US, HeaderValue::from_static(value))).collect();
            assert_eq!(reported_time(&headers, &header::WORK_US), expected.map(Duration::from_micros), "{values:?}");
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
