//! HTTP/1.1 on a listener: bounded connections and headers, graceful end.

use crate::readiness::Readiness;
use crate::respond::Reply;
use crate::shutdown;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::Service;

/// Connections at once; more wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 8192;

/// For the whole of a request's headers; also how long an idle connection is kept.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// For the requests of the last connections: a connection from which nothing was read is closed without an answer.
const LAST_READ: Duration = Duration::from_millis(20);

/// After a failed accept (no descriptors left), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| std::io::Error::new(error.kind(), format!("listen on {address}: {error}")))?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(listener)
}

/// Serves until this process is told to stop, and then drains in order: not ready, still accepting, finishing.
pub async fn run<H, F>(listener: TcpListener, readiness: Readiness, drain: Drain, handle: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Reply> + Send,
{
    let service = tower::service_fn(move |request| {
        let reply = handle(request);
        async move { Ok::<_, Infallible>(reply.await) }
    });
    let stop = async {
        match shutdown::requested(drain.with_parent).await {
            Ok(reason) => tracing::info!(reason, "draining"),
            Err(error) => tracing::error!(%error, "cannot wait for signals; stopping"),
        }
        readiness.drain();
        tokio::time::sleep(drain.delay).await;
    };
    serve(listener, service, stop, drain.grace).await;
}

/// Serves until `stop` resolves, then finishes what was accepted for `grace` at most.
///
/// # Cancel safety
/// Dropping the future drops the listener; connections in progress go on until the runtime ends.
pub async fn serve<S>(listener: TcpListener, service: S, stop: impl Future<Output = ()>, grace: Duration)
where
    S: Service<Request<Incoming>, Response = Reply, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let serve = |stream: TcpStream, slot: Option<OwnedSemaphorePermit>| {
        // Answers are small and whole: waiting to fill a packet only adds latency.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "set_nodelay failed");
        }
        let service = TowerToHyperService::new(service.clone());
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
            drop(slot);
        });
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
        let stream = match accepted {
            Ok((stream, _peer)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        serve(stream, Some(slot));
    }
    // Whoever has connected by now is served still, and what it has sent by now is read.
    for _ in 0..MAX_CONNECTIONS {
        let Some(Ok((stream, _peer))) = accepted_already(&listener).await else { break };
        serve(stream, None);
    }
    tokio::time::sleep(LAST_READ).await;
    drop(listener);
    if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
        tracing::warn!(grace_s = grace.as_secs_f64(), "grace is over; unanswered requests are dropped");
    }
}

/// A connection that the kernel has accepted; nothing if none waits.
async fn accepted_already(listener: &TcpListener) -> Option<std::io::Result<(TcpStream, SocketAddr)>> {
    std::future::poll_fn(|context| match listener.poll_accept(context) {
        Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
