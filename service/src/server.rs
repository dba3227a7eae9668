//! HTTP/1.1 and HTTP/2 on a listener, with or without TLS: bounded connections and headers, graceful end.

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

/// For the whole of a request's headers and for a TLS handshake; also how long an idle connection is kept.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// An HTTP/2 connection that is silent for this long is asked whether it still lives, and closed if it does not.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Of a request in HTTP/2; HTTP/1.1 has 100 lines and 400 KiB.
const MAX_HEADER_BYTES: u32 = 16 << 10;

/// For the requests of the last connections: a connection from which nothing was read is closed without an answer.
const LAST_READ: Duration = Duration::from_millis(20);

/// Connections that the kernel keeps while they are not yet accepted (or fewer: `net.core.somaxconn`). A client that
/// finds no room tries again only after a second.
const BACKLOG: u32 = 4096;

/// After a failed accept (no descriptors left), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Between the first two looks at a beginning that does not yet tell one protocol from the other, and at most.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LAST_LOOK: Duration = Duration::from_secs(1);

/// How a program leaves.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// Told to stop → no new requests.
    pub delay: Duration,
    /// No new requests → exit, at most.
    pub grace: Duration,
    /// Whether the parent's end is a reason to stop.
    pub with_parent: bool,
}

/// Binds `address` and says so in one line on standard output, where whoever started this on port 0 reads the port.
///
/// # Errors
/// When the address is taken or not ours.
pub async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    listen_as("listening on http://", address).await
}

/// The same, in other words.
///
/// # Errors
/// See [`listen`].
pub async fn listen_as(announcement: &str, address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener =
        bind(address).map_err(|error| std::io::Error::new(error.kind(), format!("listen on {address}: {error}")))?;
    println!("{announcement}{}", listener.local_addr()?);
    Ok(listener)
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Or a restart would have to wait until the last connections are forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until this process is told to stop, and then drains in order: not ready, still accepting, finishing.
pub async fn run<H, F>(listener: TcpListener, tls: Option<Tls>, readiness: Readiness, drain: Drain, handle: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let stop = async {
        match shutdown::requested(drain.with_parent).await {
            Ok(reason) => tracing::info!(reason, "draining"),
            Err(error) => tracing::error!(%error, "cannot wait for signals; stopping"),
        }
        readiness.drain();
        tokio::time::sleep(drain.delay).await;
    };
    let leaving = readiness.clone();
    let handle = move |request: Request<Incoming>| {
        let is_http1 = request.version() <= Version::HTTP_11;
        let (leaving, reply) = (leaving.clone(), handle(request));
        async move {
            let mut reply = reply.await;
            // So that clients with a connection of their own move on before it is closed under them.
            if is_http1 && leaving.is_draining() {
                reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            reply
        }
    };
    serve(listener, tls, handle, stop, drain.grace).await;
}

/// Serves until `stop` resolves, then finishes what was accepted for `grace` at most. Connections beyond what the limit
/// of open files leaves for them wait in the kernel's backlog.
///
/// # Cancel safety
/// Dropping the future drops the listener; connections in progress go on until the runtime ends.
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
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(descriptors::for_connections()));
    let (closing, closed) = watch::channel(());
    let protocols = Protocols::new(tls);
    let serve = |stream: TcpStream, slot: Option<OwnedSemaphorePermit>| {
        let (watcher, closed) = (graceful.watcher(), closed.clone());
        tokio::spawn(protocols.clone().serve(stream, handle.clone(), watcher, closed, slot));
    };
    tokio::pin!(stop);
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, _peer)) => serve(stream, Some(slot)),
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Whoever has connected by now is served still, and what it has sent by now is read; whoever comes after that is
    // refused, and knows that it was.
    match listener.into_std() {
        Ok(listener) => {
            while let Ok((stream, _peer)) = listener.accept() {
                match stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
                    Ok(stream) => serve(stream, None),
                    Err(error) => tracing::warn!(%error, "a last connection is lost"),
                }
            }
        }
        Err(error) => tracing::warn!(%error, "connections that were not yet accepted are lost"),
    }
    tokio::time::sleep(LAST_READ).await;
    drop(closing);
    if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
        tracing::warn!(grace_s = grace.as_secs_f64(), "grace is over; unanswered requests are dropped");
    }
}

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// How each is spoken.
#[derive(Clone)]
struct Protocols {
    tls: Option<Tls>,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Protocols {
    fn new(tls: Option<Tls>) -> Self {
        let mut http1 = http1::Builder::new();
        http1.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        // Against floods of resets and of CONTINUATION frames, hyper's and h2's own bounds are in force.
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2.timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).max_header_list_size(MAX_HEADER_BYTES);
        Self { tls, http1, http2 }
    }

    /// Serves one connection to its end. `closed` ends when those that have not begun are to be dropped; `slot` is
    /// given back with the connection.
    async fn serve<H, F>(
        self,
        stream: TcpStream,
        handle: H,
        watcher: Watcher,
        closed: watch::Receiver<()>,
        slot: Option<OwnedSemaphorePermit>,
    ) where
        H: Fn(Request<Incoming>) -> F + Send + 'static,
        F: Future<Output = Reply> + Send + 'static,
    {
        // Answers are small and whole: waiting to fill a packet only adds latency.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "set_nodelay failed");
        }
        // What is idle most of the time is small: the rarer ways are boxed, so that they cost those who go them.
        let served = match self.tls.clone() {
            Some(tls) => Box::pin(self.serve_securely(tls, stream, handle, watcher, closed)).await,
            None => match begun(protocol(&stream), closed).await {
                Ok(Some(protocol)) => self.speak(protocol, stream, handle, watcher).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            },
        };
        if let Err(error) = served {
            tracing::debug!(%error, "connection ended");
        }
        drop(slot);
    }

    async fn serve_securely<H, F>(
        &self,
        tls: Tls,
        stream: TcpStream,
        handle: H,
        watcher: Watcher,
        closed: watch::Receiver<()>,
    ) -> Result<(), Failure>
    where
        H: Fn(Request<Incoming>) -> F + Send + 'static,
        F: Future<Output = Reply> + Send + 'static,
    {
        let Some(stream) = begun(tls.acceptor.accept(stream), closed).await? else { return Ok(()) };
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        self.speak(if is_http2 { Protocol::Http2 } else { Protocol::Http1 }, stream, handle, watcher).await
    }

    async fn speak<H, F>(
        &self,
        protocol: Protocol,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        handle: H,
        watcher: Watcher,
    ) -> Result<(), Failure>
    where
        H: Fn(Request<Incoming>) -> F + Send + 'static,
        F: Future<Output = Reply> + Send + 'static,
    {
        let (stream, service) = (TokioIo::new(stream), service_fn(move |request| infallible(handle(request))));
        match protocol {
            Protocol::Http1 => watcher.watch(self.http1.serve_connection(stream, service)).await?,
            Protocol::Http2 => Box::pin(watcher.watch(self.http2.serve_connection(stream, service))).await?,
        }
        Ok(())
    }
}

/// As hyper wants it. Not an async block, which would hold the future twice.
fn infallible(reply: impl Future<Output = Reply>) -> impl Future<Output = Result<Reply, Infallible>> {
    reply.map(Ok)
}

/// What comes of `opening` a connection within [`HEADER_TIMEOUT`]; nothing if it is `closed` first.
async fn begun<T, E: Into<Failure>>(
    opening: impl Future<Output = Result<T, E>>,
    mut closed: watch::Receiver<()>,
) -> Result<Option<T>, Failure> {
    tokio::select! {
        opened = tokio::time::timeout(HEADER_TIMEOUT, opening) => opened?.map(Some).map_err(Into::into),
        // Nothing is ever sent; it ends with its sender.
        _ended = closed.changed() => Ok(None),
    }
}

/// What a client without TLS begins to speak: HTTP/2 begins with `PRI `, which is no method of HTTP/1.1 (RFC 9113, 3.4).
/// Until its first byte is there, a connection costs no buffer.
async fn protocol(stream: &TcpStream) -> std::io::Result<Protocol> {
    let (mut first, mut pause) = ([0; 3], FIRST_LOOK);
    loop {
        let count = stream.peek(&mut first).await?;
        if count == 0 || first[..count] != b"PRI"[..count] {
            return Ok(Protocol::Http1);
        }
        if count == first.len() {
            return Ok(Protocol::Http2);
        }
        // What is there already wakes nobody when more comes. Ever rarer looks, or idle connections would keep it busy.
        tokio::time::sleep(pause).await;
        pause = (pause * 4).min(LAST_LOOK);
    }
}
