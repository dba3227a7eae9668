//! Serves HTTP/1.1 and HTTP/2 on a listener, with or without TLS. Limits connections and headers, and answers accepted
//! requests before it stops. Knows nothing of paths.

mod activity;
mod answer;
mod connection;
#[cfg(test)]
mod differential;
mod frames;
mod framing;
mod http2;
mod limits;
mod listener;
mod meters;
mod opening;
mod peers;
mod plain;
mod plain_answer;
#[cfg(test)]
mod plain_differential;
mod plain_head;
mod refusal;
mod stream;

pub use framing::RefusedFraming;
pub use limits::ConnectionLimits;
pub use listener::{listen, listen_as};
pub use meters::CONNECTION_METRICS;
pub use plain::{Answer, Answering, HeadArrived, PlainRequests, TakenRequest};
pub use plain_answer::PlainAnswer;
pub use plain_head::{PlainHead, Unusual};

use crate::readiness::Readiness;
use crate::respond::Reply;
use crate::tls::Tls;
use crate::{descriptors, shutdown};
use connection::ConnectionHandler;
use hyper::body::Incoming;
use hyper::{Request, Version};
use limits::Limit;
use meters::ConnectionMeters;
use peers::Peers;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// The time in which the first bytes of the connections that are accepted last must arrive. A connection without them
/// is closed without an answer.
const LAST_READ: Duration = Duration::from_millis(20);

/// The pause after a failed accept, which fails for instance when no file descriptors are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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

/// A listener with its name, the label `listener` of the metrics.
pub struct NamedListener {
    /// The name.
    pub name: &'static str,
    /// The listener.
    pub listener: TcpListener,
}

/// Serves until a request to stop ([`shutdown::requested`]). Then `/readyz` reports not ready, new
/// connections are accepted for `drain.delay`, and accepted requests finish within `drain.grace`. `plain` answers plain
/// requests over HTTP/1.1, and `handle` all others.
pub async fn run<H, F>(
    listener: TcpListener,
    tls: Option<Tls>,
    limits: ConnectionLimits,
    readiness: Readiness,
    drain: DrainConfig,
    plain: Option<Arc<dyn PlainRequests>>,
    handle: H,
) where
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
        readiness.finish();
    };
    let readiness = readiness.clone();
    let handle = move |request: Request<Incoming>| {
        let is_http1 = request.version() <= Version::HTTP_11;
        let (readiness, reply) = (readiness.clone(), handle(request));
        async move {
            let mut reply = reply.await;
            // Otherwise clients would send their next requests on connections that are about to close.
            if is_http1 && readiness.is_draining() {
                answer::close_after(&mut reply);
            }
            reply
        }
    };
    let listener = NamedListener { name: "main", listener };
    serve_within(listener, tls, limits, plain, handle, stop, drain.grace).await;
}

/// Serves like [`serve_within`], with the default limits.
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
    let listener = NamedListener { name: "main", listener };
    serve_within(listener, tls, ConnectionLimits::default(), None, handle, stop, grace).await;
}

/// Serves until `stop` resolves, and then lets accepted requests finish within `grace`. Connections beyond
/// [`descriptors::for_connections`] wait in the kernel's backlog. `plain` answers plain requests over HTTP/1.1.
///
/// # Cancel safety
/// Dropping the future drops the listener. Connections in progress are served until the runtime ends.
pub async fn serve_within<H, F>(
    listener: NamedListener,
    tls: Option<Tls>,
    limits: ConnectionLimits,
    plain: Option<Arc<dyn PlainRequests>>,
    handle: H,
    stop: impl Future<Output = ()>,
    grace: Duration,
) where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let NamedListener { name, listener } = listener;
    let meters = Arc::new(ConnectionMeters::new(name));
    let server = HttpServer {
        peers: limits.max_connections_per_peer.map(|limit| Arc::new(Peers::new(limit))),
        connections: ConnectionHandler::new(tls, limits, plain, meters.clone()),
        meters,
        handle,
        stop: watch::Sender::new(false),
    };
    server.accept_until(&listener, stop).await;
    server.accept_backlog(listener);
    tokio::time::sleep(LAST_READ).await;
    server.finish(grace).await;
}

/// The state that all connections of a listener share.
struct HttpServer<H> {
    connections: ConnectionHandler,
    meters: Arc<ConnectionMeters>,
    /// The connections of each client; `None` if their number is not limited.
    peers: Option<Arc<Peers>>,
    handle: H,
    /// Whether connections close once they have no request. Every connection holds a receiver until its end.
    stop: watch::Sender<bool>,
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
                Ok((stream, peer)) => self.spawn(stream, peer, Some(slot)),
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
        while let Ok((stream, peer)) = listener.accept() {
            match stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
                Ok(stream) => self.spawn(stream, peer, None),
                Err(error) => tracing::warn!(%error, "cannot serve one of the last connections; it is closed"),
            }
        }
    }

    /// Starts the task that serves a connection. The connection holds `slot` until its end. A connection of a client
    /// that has too many is closed.
    fn spawn(&self, stream: TcpStream, peer: SocketAddr, slot: Option<OwnedSemaphorePermit>) {
        let counted = match &self.peers {
            None => None,
            Some(peers) => match peers.connect(peer.ip()) {
                Some(counted) => Some(counted),
                None => {
                    self.meters.count_closed(Limit::PerPeer);
                    return tracing::debug!(%peer, "too many connections (--max-connections-per-peer)");
                }
            },
        };
        let (connections, handle, stop) = (self.connections.clone(), self.handle.clone(), self.stop.subscribe());
        tokio::spawn(connections.serve(stream, handle, stop, (slot, counted)));
    }

    /// Closes idle connections, and lets the requests that have begun finish within `grace`.
    async fn finish(self, grace: Duration) {
        self.stop.send_replace(true);
        if tokio::time::timeout(grace, self.stop.closed()).await.is_err() {
            let grace_s = grace.as_secs_f64();
            tracing::warn!(grace_s, "the grace is over; unanswered requests are dropped (a longer --grace keeps them)");
        }
    }
}
