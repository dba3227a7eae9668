//! Serves one connection from its first byte to its end: TLS, the choice of the protocol, and its time limits. Knows
//! nothing of paths.

use super::activity::{Activity, LAST_SILENCE, LINGER, Step, Timeouts};
use super::answer::OpenRequest;
use super::http2::{self as lazy_http2, LazyConnection};
use super::limits::{ConnectionLimits, Limit};
use super::meters::ConnectionMeters;
use super::plain::{PlainConnection, PlainRequests};
use super::stream::{GuardedStream, Protocol, Resettable};
use crate::memory_budget::MemoryBudget;
use crate::respond::Reply;
use crate::tls::Tls;
use crate::upgrade::Upgrade;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{Either, ready};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// The server pings an HTTP/2 connection that has sent nothing for this time. It closes the connection if the client
/// does not answer the ping.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// The most requests that an HTTP/2 connection may have at once. Proxies send the requests of many clients over one
/// connection, and requests may wait for seconds, so fewer would slow these clients down.
const MAX_STREAMS: u32 = 200;

/// The most bytes that hyper reads from an HTTP/1.1 connection at once. A body of common size needs one or two reads.
const READ_BUFFER_BYTES: usize = 256 << 10;

/// The bytes that the incomplete heads of all connections may hold together, apart from the first 2 KiB of each.
const HEAD_MEMORY_BYTES: usize = 16 << 20;

/// Serves single connections. Holds the settings of TLS and of both protocols.
#[derive(Clone)]
pub(super) struct ConnectionHandler {
    tls: Option<Tls>,
    limits: Arc<ConnectionLimits>,
    meters: Arc<ConnectionMeters>,
    head_memory: MemoryBudget,
    /// Answers plain requests; `None` if hyper serves all requests.
    plain: Option<Arc<dyn PlainRequests>>,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    /// The settings that hyper sends first on an HTTP/2 connection.
    http2_settings: Bytes,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl ConnectionHandler {
    /// Serves connections within `limits`, with TLS if `tls` is given. `plain` answers plain requests; if it is `None`,
    /// hyper serves all of them. `meters` counts the connections.
    ///
    /// # Panics
    /// If it is called outside a tokio runtime.
    pub(super) fn new(
        tls: Option<Tls>,
        limits: ConnectionLimits,
        plain: Option<Arc<dyn PlainRequests>>,
        meters: Arc<ConnectionMeters>,
    ) -> Self {
        let mut http1 = http1::Builder::new();
        // The time limits are in `Activity`. hyper's own limit for a head would count the time before the head, too.
        http1.header_read_timeout(None).max_buf_size(READ_BUFFER_BYTES);
        http1.max_header_size(limits.max_header_bytes as usize);
        // No limits for RST_STREAM and CONTINUATION frames are set here, because hyper and h2 have their own.
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2.timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).max_concurrent_streams(MAX_STREAMS);
        http2.max_header_list_size(limits.max_header_bytes);
        let head_memory = MemoryBudget::new(HEAD_MEMORY_BYTES);
        let http2_settings = lazy_http2::settings(&http2);
        Self { tls, limits: Arc::new(limits), meters, head_memory, plain, http1, http2, http2_settings }
    }

    /// Serves one connection to its end. Once `stop` is true, a connection without a request is closed. `held` is
    /// dropped with the connection.
    pub(super) async fn serve<H, F>(self, stream: TcpStream, handle: H, stop: watch::Receiver<bool>, held: impl Send)
    where
        H: Fn(Request<Incoming>) -> F + Send + 'static,
        F: Future<Output = Reply> + Send + 'static,
    {
        // Answers are small and written at once. If the kernel waited to fill a packet, it would only add latency.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY on a connection; its answers may be delayed");
        }
        let activity = Arc::new(Activity::new(Instant::now(), self.meters.clone()));
        let served = match self.tls.clone() {
            // The future of TLS is boxed. Otherwise every idle connection without TLS would have room for it.
            Some(tls) => {
                Box::pin(async move {
                    let mut stop = stop;
                    let handshake = tokio::time::timeout(self.limits.header_timeout, tls.acceptor.accept(stream));
                    let Some(accepted) = until_stopped(handshake, LAST_SILENCE, &mut stop).await else { return Ok(()) };
                    let stream = accepted.inspect_err(|_| activity.end_by(Limit::HeaderTimeout))??;
                    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    let expected = if is_http2 { Protocol::Http2 } else { Protocol::Http1 };
                    self.serve_stream(stream, Some(expected), activity, handle, stop).await
                })
                .await
            }
            None => self.serve_stream(stream, None, activity, handle, stop).await,
        };
        if let Err(error) = served {
            tracing::debug!(error, "a connection has failed");
        }
        drop(held);
    }

    /// Waits for the first request and serves the connection. `expected` is the protocol that TLS has negotiated.
    pub(super) async fn serve_stream<S, H, F>(
        &self,
        stream: S,
        expected: Option<Protocol>,
        activity: Arc<Activity>,
        handle: H,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), BoxError>
    where
        S: AsyncRead + AsyncWrite + Resettable + Unpin + Send + 'static,
        H: Fn(Request<Incoming>) -> F + Send + 'static,
        F: Future<Output = Reply> + Send + 'static,
    {
        let timeouts = Timeouts::new(&self.limits, rand::random());
        let mut stream = GuardedStream::new(stream, activity.clone(), self.head_memory.clone(), &self.limits);
        // A client that has ended its handshake while the server drains has had no time to send a request.
        let patience = if *stop.borrow() { LAST_SILENCE } else { Duration::ZERO };
        match until_stopped(tokio::time::timeout(timeouts.idle, stream.wait()), patience, &mut stop).await {
            Some(Ok(Ok(true))) => {}
            Some(Ok(Err(error))) => return Err(error.into()),
            Some(Err(_)) => {
                activity.end_by(Limit::Idle);
                return Ok(());
            }
            // The server stops, or the client has closed the connection.
            None | Some(Ok(Ok(false))) => return Ok(()),
        }
        // Boxed, because it is short and the connection may be long.
        let first = Box::pin(stream.read_first_head(expected, self.limits.max_header_bytes as usize));
        let first = tokio::time::timeout(self.limits.header_timeout, first);
        let Some(protocol) = until_stopped(first, LAST_SILENCE, &mut stop).await else { return Ok(()) };
        let protocol = protocol.inspect_err(|_| activity.end_by(Limit::HeaderTimeout))??;
        let (mut arrived, mut _ahead_memory) = (None, None);
        if let (Protocol::Http1, Some(plain)) = (protocol, &self.plain) {
            let max_head_bytes = self.limits.max_header_bytes as usize;
            let mut connection = PlainConnection::new(stream, activity.clone(), plain.clone(), max_head_bytes);
            let served =
                drive(Pin::new(&mut connection), PlainConnection::end, &activity, &timeouts, false, stop.clone());
            served.await?;
            match connection.into_rest()? {
                Some(rest) => (stream, arrived, _ahead_memory) = (rest.stream, rest.arrived, rest.ahead_memory),
                None => return Ok(()),
            }
        }
        let answering = activity.clone();
        let arrived = Mutex::new(arrived);
        let service = service_fn(move |mut request: Request<Incoming>| {
            if let Some(arrived) = arrived.lock().unwrap_or_else(PoisonError::into_inner).take() {
                request.extensions_mut().insert(arrived);
            }
            let (open, refusal) = OpenRequest::begin(answering.clone(), &request);
            let reply = match refusal {
                Some(refusal) => Either::Left(ready(refusal)),
                None => Either::Right(handle(request)),
            };
            // An async block instead of `map` would hold the future twice, so each connection would take more memory.
            reply.map(|reply| Ok::<_, Infallible>(open.answer(reply)))
        });
        match protocol {
            Protocol::Http1 => {
                let mut connection = self.http1.serve_connection(TokioIo::new(stream), service);
                let end = http1::Connection::graceful_shutdown;
                let served = drive(Pin::new(&mut connection), end, &activity, &timeouts, false, stop.clone()).await;
                // hyper does not close the stream after a request that asked for another protocol (`Upgrade`,
                // `CONNECT`), whether the answer has granted it or not.
                if !activity.is_closed() && served.as_ref().map_or_else(is_malformed, |()| true) {
                    let parts = connection.into_parts();
                    let stream = parts.io.into_inner();
                    match activity.upgrade() {
                        Some(upgrade) => Box::pin(speak(upgrade, stream, parts.read_buf, stop)).await,
                        None => Box::pin(close(stream, stop)).await,
                    }
                }
                served
            }
            Protocol::Http2 => {
                let serve = |stream| self.http2.serve_connection(TokioIo::new(stream), service);
                let mut connection = LazyConnection::new(stream, self.http2_settings.clone(), serve);
                let end = LazyConnection::graceful_shutdown;
                drive(Pin::new(&mut connection), end, &activity, &timeouts, true, stop).await
            }
        }
    }
}

/// The result of `step`; `None` if the server stops and `patience` passes first.
async fn until_stopped<T>(
    step: impl Future<Output = T>,
    patience: Duration,
    stop: &mut watch::Receiver<bool>,
) -> Option<T> {
    let stopped = async {
        let _stopped_or_dropped = stop.wait_for(|&stop| stop).await.map(drop);
        if !patience.is_zero() {
            tokio::time::sleep(patience).await;
        }
    };
    tokio::select! {
        biased;
        result = step => Some(result),
        () = stopped => None,
    }
}

/// Speaks another protocol on a stream that hyper has left open, until the server stops. hyper has read `read_ahead`.
async fn speak<S>(upgrade: &Upgrade, mut stream: GuardedStream<S>, read_ahead: Bytes, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Resettable + Unpin + Send + 'static,
{
    stream.pass_on(read_ahead);
    let _ended_or_stopped = until_stopped(upgrade.run(Box::new(stream)), Duration::ZERO, &mut stop).await;
}

/// Closes a stream that hyper has left open.
async fn close<S>(mut stream: GuardedStream<S>, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Resettable + Unpin,
{
    let closing = tokio::time::timeout(LINGER, stream.shutdown());
    // After an error or the time limit, the stream is closed nevertheless, because it is dropped.
    let _closed = until_stopped(closing, LAST_SILENCE, &mut stop).await;
}

/// Whether a connection has ended because of a malformed request, to which hyper has sent an answer.
fn is_malformed(error: &BoxError) -> bool {
    error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse)
}

/// Runs `connection` until it ends, or until its client has used up a time limit. `graceful_shutdown` tells the client to
/// send no more requests, and lets the connection end after the last answer.
async fn drive<C, E>(
    mut connection: Pin<&mut C>,
    graceful_shutdown: impl Fn(Pin<&mut C>),
    activity: &Activity,
    timeouts: &Timeouts,
    is_http2: bool,
    mut stop: watch::Receiver<bool>,
) -> Result<(), BoxError>
where
    C: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
{
    let stop_flag = stop.clone();
    let mut stopped = pin!(async { stop.wait_for(|&stop| stop).await.map(drop) }.fuse());
    let (mut is_stopping, mut is_ending) = (false, false);
    // The time since the connection's start at which the timer rings.
    let mut armed = timeouts.idle;
    let mut timer = pin!(tokio::time::sleep_until(activity.instant(armed).into()));
    // Both futures are polled only if that can change something. Polling them with the connection, several times for
    // each request, would cost a tenth of a request's time.
    let (mut is_watching, mut is_timing) = (false, false);
    std::future::poll_fn(|context| {
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(context) {
                return Poll::Ready(ended.map_err(Into::into));
            }
            if !is_stopping && (!is_watching || stop_flag.has_changed().unwrap_or(true)) {
                is_watching = true;
                if stopped.as_mut().poll(context).is_ready() {
                    is_stopping = true;
                    activity.drain(Instant::now());
                }
            }
            // hyper would close a connection in the middle of a head or a handshake at once.
            if is_stopping && !is_ending && !activity.is_opening() {
                is_ending = true;
                graceful_shutdown(connection.as_mut());
                continue;
            }
            let Some((at, step)) = activity.next_step(timeouts) else { return Poll::Pending };
            // The timer is moved only if it would ring too late. It then often rings too early, but moving it for every
            // request would cost more.
            if timer.is_elapsed() || armed > at {
                armed = at;
                timer.as_mut().reset(activity.instant(at).into());
            } else if is_timing {
                return Poll::Pending;
            }
            is_timing = true;
            if timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if now < activity.instant(at) {
                continue;
            }
            match step {
                Step::Abort(reason, limit) => {
                    if let Some(limit) = limit {
                        activity.end_by(limit);
                    }
                    activity.abort();
                    return Poll::Ready(Err(reason.into()));
                }
                Step::Close => {
                    activity.close();
                    return Poll::Ready(Ok(()));
                }
                Step::Retire => {
                    if !activity.is_aged() {
                        activity.end_by(Limit::Idle);
                    }
                    activity.retire(now);
                    graceful_shutdown(connection.as_mut());
                }
                Step::Age => {
                    activity.end_by(Limit::Age);
                    activity.age();
                    // An HTTP/1.1 client learns it from its next answer.
                    if is_http2 {
                        activity.retire(now);
                        graceful_shutdown(connection.as_mut());
                    }
                }
            }
        }
    })
    .await
}
