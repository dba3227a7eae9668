//! An HTTP/2 connection that hyper gets only when the client has sent a whole header block. Knows no requests.

use super::stream::{GuardedStream, Resettable};
use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::graceful::GracefulConnection;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// The `SETTINGS` frame that hyper sends on each connection of `http2`.
///
/// # Panics
/// If hyper waits for the client before it sends its settings, or if it is called outside a tokio runtime.
pub(super) fn settings(http2: &http2::Builder<TokioExecutor>) -> Bytes {
    let (mut client, server) = tokio::io::duplex(1 << 10);
    let service = service_fn(async |_: Request<Incoming>| Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())));
    let connection = http2.serve_connection(TokioIo::new(server), service);
    let is_waiting = connection.now_or_never().is_none();
    let mut frame = Vec::new();
    let read = client.read_buf(&mut frame).now_or_never();
    assert!(is_waiting && matches!(read, Some(Ok(1..))), "hyper sends its settings and waits for the client");
    frame.into()
}

/// A connection, which `start` hands to hyper once it is open.
pub(super) struct LazyConnection<S: Resettable, F, C> {
    settings: Bytes,
    opening: Option<(GuardedStream<S>, F)>,
    serving: Option<Pin<Box<C>>>,
}

// No field is pinned in its place.
impl<S: Resettable, F, C> Unpin for LazyConnection<S, F, C> {}

impl<S, F, C> LazyConnection<S, F, C>
where
    S: AsyncRead + AsyncWrite + Resettable + Unpin,
    F: FnOnce(GuardedStream<S>) -> C,
    C: GracefulConnection,
{
    /// A connection of which hyper would send `settings` first.
    pub(super) fn new(stream: GuardedStream<S>, settings: Bytes, start: F) -> Self {
        Self { settings, opening: Some((stream, start)), serving: None }
    }

    /// Hands the connection to hyper.
    fn serve(&mut self) -> std::io::Result<&mut Pin<Box<C>>> {
        if let Some((mut stream, start)) = self.opening.take() {
            stream.end_opening(self.settings.clone())?;
            self.serving = Some(Box::pin(start(stream)));
        }
        self.serving.as_mut().ok_or_else(|| std::io::ErrorKind::NotConnected.into())
    }

    /// Tells the client to send no more requests, and closes the connection after the last answer.
    pub(super) fn graceful_shutdown(mut self: Pin<&mut Self>) {
        // hyper writes the frame that tells the client. After an error, the connection ends when it is polled.
        if let Ok(serving) = self.serve() {
            serving.as_mut().graceful_shutdown();
        }
    }
}

impl<S, F, C> Future for LazyConnection<S, F, C>
where
    S: AsyncRead + AsyncWrite + Resettable + Unpin,
    F: FnOnce(GuardedStream<S>) -> C,
    C: GracefulConnection,
    C::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Output = Result<(), Box<dyn std::error::Error + Send + Sync>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some((stream, _)) = &mut this.opening {
            ready!(stream.poll_open(context, &this.settings))?;
        }
        this.serve()?.as_mut().poll(context).map_err(Into::into)
    }
}
