//! Serves HTTP/1.1 and HTTP/2 on a listener, with or without TLS. Limits connections and headers, and answers accepted
//! requests before it stops. Knows nothing of paths.

use crate::readiness::Readiness;
use crate::respond::Reply;
use crate::tls::Tls;
use crate::{descriptors, shutdown};
use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// The longest time for the headers of a request, and for a TLS handshake. An HTTP/1.1 connection that is idle for this
/// time is closed.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// The server pings an HTTP/2 connection that has sent nothing for this time. It closes the connection if the client
/// does not answer the ping.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// The largest headers of an HTTP/2 request, in bytes. For HTTP/1.1, hyper's limits apply: 100 headers, some 400 KiB.
const MAX_HEADER_BYTES: u32 = 16 << 10;

/// The time in which the first bytes of the connections that are accepted last must arrive. A connection without them
/// is closed without an answer.
const LAST_READ: Duration = Duration::from_millis(20);

/// The number of connections that may wait in the kernel until they are accepted. The kernel's limit
/// (`net.core.somaxconn`) may be lower. If the kernel's queue is full, a client tries again only after a second.
const BACKLOG: u32 = 4096;

/// The pause after a failed accept, which fails for instance when no file descriptors are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The pause before the first bytes of a connection are read again, if they are too few to tell HTTP/1.1 from HTTP/2.
/// Each further pause is four times as long, up to [`LONGEST_PEEK_PAUSE`].
const FIRST_PEEK_PAUSE: Duration = Duration::from_millis(5);

/// The longest pause before the first bytes of a connection are read again.
const LONGEST_PEEK_PAUSE: Duration = Duration::from_secs(1);

/// How a program drains and ends.
#[derive(Debug, Clone, Copy)]
pub struct DrainConfig {
    /// The time after the request to stop in which new connections are still accepted, while `/readyz` reports not
    /// ready.
    pub delay: Duration,
    /// The longest time, after `delay`, in which accepted requests may finish.
    pub grace: Duration,
    /// Whether the program also stops when its parent process ends.
    pub exit_with_parent: bool,
}

/// Binds `address` and prints `listening on http://HOST:PORT` to standard output. A parent process that chose port 0
/// reads the port from that line.
///
/// # Errors
/// If the address is in use, or belongs to no interface of this machine.
pub async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    listen_as("listening on http://", address).await
}

/// Binds `address` and prints `announcement`, followed by the bound address, to standard output.
///
/// # Errors
/// If the address is in use, or belongs to no interface of this machine.
pub async fn listen_as(announcement: &str, address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener =
        bind(address).map_err(|error| std::io::Error::new(error.kind(), format!("listen on {address}: {error}")))?;
    println!("{announcement}{}", listener.local_addr()?);
    Ok(listener)
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Without this option, a restarted program cannot listen until the kernel has forgotten the old connections.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until a request to stop ([`shutdown::requested`]). Then `/readyz` reports not ready, new
/// connections are accepted for `drain.delay`, and accepted requests finish within `drain.grace`.
pub async fn run<H, F>(listener: TcpListener, tls: Option<Tls>, readiness: Readiness, drain: DrainConfig, handle: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let stop = async {
        match shutdown::requested(drain.exit_with_parent).await {
            Ok(reason) => tracing::info!(reason, "draining"),
            Err(error) => tracing::error!(%error, "cannot watch for a request to stop, so the server stops now"),
        }
        readiness.drain();
        tokio::time::sleep(drain.delay).await;
    };
    let readiness = readiness.clone();
    let handle = move |request: Request<Incoming>| {
        let is_http1 = request.version() <= Version::HTTP_11;
        let (readiness, reply) = (readiness.clone(), handle(request));
        async move {
            let mut reply = reply.await;
            // Otherwise clients would send their next requests on connections that are about to close.
            if is_http1 && readiness.is_draining() {
                reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            reply
        }
    };
    serve(listener, tls, handle, stop, drain.grace).await;
}

/// Serves until `stop` resolves, and then lets accepted requests finish within `grace`. Connections beyond
/// [`descriptors::for_connections`] wait in the kernel's backlog.
///
/// # Cancel safety
/// Dropping the future drops the listener. Connections in progress are served until the runtime ends.
pub async fn serve<H, F>(
    listener: TcpListener,
    tls: Option<Tls>,
    handle: H,
    stop: impl Future<Output = ()>,
    grace: Duration,
) where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let server = HttpServer {
        connections: ConnectionHandler::new(tls),
        handle,
        graceful: GracefulShutdown::new(),
        pending_guard: watch::Sender::new(()),
    };
    server.accept_until(&listener, stop).await;
    server.accept_backlog(listener);
    tokio::time::sleep(LAST_READ).await;
    server.finish(grace).await;
}

/// The state that all connections of a listener share.
struct HttpServer<H> {
    connections: ConnectionHandler,
    handle: H,
    graceful: GracefulShutdown,
    /// Dropping this sender closes the connections whose protocol is not known yet. Nothing is ever sent.
    pending_guard: watch::Sender<()>,
}

impl<H, F> HttpServer<H>
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    /// Accepts connections until `stop` resolves: at most [`descriptors::for_connections`] at once.
    async fn accept_until(&self, listener: &TcpListener, stop: impl Future<Output = ()>) {
        let slots = Arc::new(Semaphore::new(descriptors::for_connections()));
        tokio::pin!(stop);
        loop {
            let accept = async {
                let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
                (slot, listener.accept().await)
            };
            let (slot, accepted) = tokio::select! {
                accepted = accept => accepted,
                () = &mut stop => return,
            };
            match accepted {
                Ok((stream, _peer)) => self.spawn(stream, Some(slot)),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection; if too many files are open, raise the limit");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Accepts the connections that wait in the kernel's backlog now, and closes the listener. The kernel refuses later
    /// connections, so their clients know that their requests were not accepted.
    fn accept_backlog(&self, listener: TcpListener) {
        let listener = match listener.into_std() {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(%error, "cannot accept the connections that still wait; they are closed unanswered");
                return;
            }
        };
        while let Ok((stream, _peer)) = listener.accept() {
            match stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
                Ok(stream) => self.spawn(stream, None),
                Err(error) => tracing::warn!(%error, "cannot serve one of the last connections; it is closed"),
            }
        }
    }

    /// Starts the task that serves a connection. The connection holds `slot` until its end.
    fn spawn(&self, stream: TcpStream, slot: Option<OwnedSemaphorePermit>) {
        let (watcher, closing) = (self.graceful.watcher(), self.pending_guard.subscribe());
        tokio::spawn(self.connections.clone().serve(stream, self.handle.clone(), watcher, closing, slot));
    }

    /// Closes idle connections, and lets the requests that have begun finish within `grace`.
    async fn finish(self, grace: Duration) {
        drop(self.pending_guard);
        if tokio::time::timeout(grace, self.graceful.shutdown()).await.is_err() {
            let grace_s = grace.as_secs_f64();
            tracing::warn!(grace_s, "the grace is over; unanswered requests are dropped (a longer --grace keeps them)");
        }
    }
}

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// Serves single connections. Holds the settings of TLS and of both protocols.
#[derive(Clone)]
struct ConnectionHandler {
    tls: Option<Tls>,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl ConnectionHandler {
    fn new(tls: Option<Tls>) -> Self {
        let mut http1 = http1::Builder::new();
        http1.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        // No limits for RST_STREAM and CONTINUATION frames are set here, because hyper and h2 have their own.
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2.timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).max_header_list_size(MAX_HEADER_BYTES);
        Self { tls, http1, http2 }
    }

    /// Serves one connection to its end. If `closing` ends before the connection's protocol is known, the connection is
    /// dropped. `slot` is released with the connection.
    async fn serve<H, F>(
        self,
        stream: TcpStream,
        handle: H,
        watcher: Watcher,
        closing: watch::Receiver<()>,
        slot: Option<OwnedSemaphorePermit>,
    ) where
        H: Fn(Request<Incoming>) -> F + Send + 'static,
        F: Future<Output = Reply> + Send + 'static,
    {
        // Answers are small and written at once. If the kernel waited to fill a packet, it would only add latency.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY on a connection; its answers may be delayed");
        }
        // The futures of TLS and HTTP/2 are boxed. Otherwise every idle HTTP/1.1 connection would have room for them.
        let served = match self.tls.clone() {
            Some(tls) => Box::pin(self.serve_tls(tls, stream, handle, watcher, closing)).await,
            None => match open(detect_protocol(&stream), closing).await {
                Ok(Some(protocol)) => self.serve_protocol(protocol, stream, handle, watcher).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            },
        };
        if let Err(error) = served {
            tracing::debug!(%error, "a connection has failed");
        }
        drop(slot);
    }

    /// Performs the TLS handshake and serves the protocol that client and server have negotiated (ALPN).
    async fn serve_tls<H, F>(
        &self,
        tls: Tls,
        stream: TcpStream,
        handle: H,
        watcher: Watcher,
        closing: watch::Receiver<()>,
    ) -> Result<(), BoxError>
    where
        H: Fn(Request<Incoming>) -> F + Send + 'static,
        F: Future<Output = Reply> + Send + 'static,
    {
        let Some(stream) = open(tls.acceptor.accept(stream), closing).await? else { return Ok(()) };
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let protocol = if is_http2 { Protocol::Http2 } else { Protocol::Http1 };
        self.serve_protocol(protocol, stream, handle, watcher).await
    }

    /// Serves requests until the connection ends.
    async fn serve_protocol<H, F>(
        &self,
        protocol: Protocol,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        handle: H,
        watcher: Watcher,
    ) -> Result<(), BoxError>
    where
        H: Fn(Request<Incoming>) -> F + Send + 'static,
        F: Future<Output = Reply> + Send + 'static,
    {
        let (stream, service) = (TokioIo::new(stream), service_fn(move |request| never_fails(handle(request))));
        match protocol {
            Protocol::Http1 => watcher.watch(self.http1.serve_connection(stream, service)).await?,
            Protocol::Http2 => Box::pin(watcher.watch(self.http2.serve_connection(stream, service))).await?,
        }
        Ok(())
    }
}

/// Wraps the reply in the `Result` that hyper requires. An async block instead of `map` would hold the future twice, so
/// each connection would take more memory.
fn never_fails(reply: impl Future<Output = Reply>) -> impl Future<Output = Result<Reply, Infallible>> {
    reply.map(Ok)
}

/// Waits at most [`HEADER_TIMEOUT`] for `opening`, the first step of a connection. `None` if `closing` ends first.
async fn open<T, E: Into<BoxError>>(
    opening: impl Future<Output = Result<T, E>>,
    mut closing: watch::Receiver<()>,
) -> Result<Option<T>, BoxError> {
    tokio::select! {
        opened = tokio::time::timeout(HEADER_TIMEOUT, opening) => opened?.map(Some).map_err(Into::into),
        // Nothing is sent on this channel. It ends when the server drops the sender.
        _sender_dropped = closing.changed() => Ok(None),
    }
}

/// Detects the protocol of a connection without TLS by its first bytes. HTTP/2 begins with `PRI`, which is no method of
/// HTTP/1.1 (RFC 9113, 3.4). The bytes stay in the kernel, so that an idle connection needs no buffer.
async fn detect_protocol(stream: &TcpStream) -> std::io::Result<Protocol> {
    let (mut first, mut pause) = ([0; 3], FIRST_PEEK_PAUSE);
    loop {
        let count = stream.peek(&mut first).await?;
        if count == 0 || first[..count] != b"PRI"[..count] {
            return Ok(Protocol::Http1);
        }
        if count == first.len() {
            return Ok(Protocol::Http2);
        }
        // The bytes that have arrived make the socket readable, so a wait for readability would end at once. The pause
        // grows, so that many connections with too few bytes do not keep the server busy.
        tokio::time::sleep(pause).await;
        pause = (pause * 4).min(LONGEST_PEEK_PAUSE);
    }
}
