//! The connections of KEDA: HTTP/2 without TLS, each with limits. Knows nothing of the calls.

use super::ExternalScaler;
use crate::advice::AdvisedTargets;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tonic::body::Body;

/// Most connections at once. Further ones wait in the kernel. KEDA opens one for each scaler.
const MAX_CONNECTIONS: usize = 16;

/// Most calls of a connection at once. KEDA holds one open for each ScaledObject.
const MAX_CALLS: u32 = 128;

/// The time after which a connection without a call is closed. KEDA calls at least every 30 s by default, and opens
/// another connection if there is none.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The time between two questions whether the client is still there.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// The time in which a client must answer that question. Otherwise its connection is closed.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a call that a client may send ahead.
const STREAM_WINDOW_BYTES: u32 = 16 << 10;

/// Bytes of all calls of a connection that a client may send ahead.
const CONNECTION_WINDOW_BYTES: u32 = 64 << 10;

/// The largest headers of a call, in bytes.
const MAX_HEADER_BYTES: u32 = 16 << 10;

/// Most bytes of answers to a call that a client has not read yet.
const MAX_UNREAD_BYTES: usize = 16 << 10;

/// The time in which the calls of a connection may finish that is about to close.
const GRACE: Duration = Duration::from_secs(1);

/// The pause after a failed accept, which fails for instance when no file descriptors are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The running server. It ends with the runtime if it is not stopped before.
#[derive(Debug)]
pub struct Server {
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Answers KEDA on a listener, until [`stop`](Self::stop).
    pub fn start(listener: TcpListener, targets: AdvisedTargets) -> Self {
        let stop = watch::Sender::new(false);
        let scaler = ExternalScaler { targets, stop: stop.subscribe() };
        Self { accepting: tokio::spawn(accept(listener, scaler)), stop }
    }

    /// Accepts no more connections, ends all streams, and waits until the connections have ended, for [`GRACE`] and a
    /// little more at most.
    pub async fn stop(self) {
        self.accepting.abort();
        self.stop.send_replace(true);
        // The tasks of connections hold receivers until they end.
        let _all_ended = tokio::time::timeout(GRACE + ACCEPT_PAUSE, self.stop.closed()).await;
    }
}

async fn accept(listener: TcpListener, scaler: ExternalScaler) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, peer)) => {
                let scaler = scaler.clone();
                tokio::spawn(async move {
                    if let Err(error) = serve(stream, scaler).await {
                        tracing::debug!(%peer, %error, "a connection of KEDA has failed");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; if too many files are open, raise the limit");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves a connection until its client closes it, it is idle, or the server stops.
async fn serve(stream: TcpStream, scaler: ExternalScaler) -> Result<(), hyper::Error> {
    // Otherwise the kernel could hold a small answer back until the client has acknowledged the one before. If the system
    // refuses, answers are late at worst.
    let _refused = stream.set_nodelay(true);
    let mut stop = scaler.stop.clone();
    let calls = Arc::new(watch::Sender::new(0_usize));
    let idle = idle(calls.subscribe());
    let service = service_fn(move |request: Request<Incoming>| {
        let (scaler, open) = (scaler.clone(), OpenCall::new(calls.clone()));
        async move { Ok::<_, Infallible>(open.until_sent(scaler.call(request).await)) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_CALLS)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_send_buf_size(MAX_UNREAD_BYTES)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = idle => {}
        _stopped_or_dropped = stop.wait_for(|&stop| stop) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::time::timeout(GRACE, connection).await.unwrap_or(Ok(()))
}

/// Waits until a connection has had no call for [`IDLE_TIMEOUT`].
pub(super) async fn idle(mut calls: watch::Receiver<usize>) {
    loop {
        let is_idle = *calls.borrow_and_update() == 0;
        let wait = if is_idle { IDLE_TIMEOUT } else { Duration::MAX };
        match tokio::time::timeout(wait, calls.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// A call of a connection, from its arrival until its answer is sent.
#[derive(Debug)]
struct OpenCall(Arc<watch::Sender<usize>>);

impl OpenCall {
    fn new(calls: Arc<watch::Sender<usize>>) -> Self {
        calls.send_modify(|count| *count += 1);
        Self(calls)
    }

    /// The answer, whose body ends the call.
    fn until_sent(self, answer: Response<Body>) -> Response<Body> {
        answer.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _open = &self;
                frame
            }))
        })
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
