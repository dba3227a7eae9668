//! An HTTP/2 connection, which carries several requests at once. A task of its own drives it.

use super::destination::{Destination, OpenError};
use super::{Error, MAX_ANSWER_BYTES, Received};
use bytes::{Bytes, BytesMut};
use h2::client::{Builder, SendRequest};
use h2::{Ping, Reason};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::header::{CONTENT_LENGTH, HeaderValue};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::AbortHandle;

/// Longest time from the open connection to the server's first frames.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes that the server may send ahead of the reader, for each stream and for the whole connection. Enough for the
/// longest answer.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Longest header block of an answer, in bytes.
const MAX_HEADER_BYTES: u32 = 64 << 10;

/// An open connection. Dropping it closes the socket.
pub struct Http2Connection {
    sender: SendRequest<Bytes>,
    driver: AbortHandle,
    is_closed: Arc<AtomicBool>,
    answers: AtomicUsize,
}

impl Drop for Http2Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Http2Connection {
    /// Opens a connection, and waits until the server's settings have arrived. So no request is refused because the
    /// connection has more streams than the server permits.
    ///
    /// # Errors
    /// As [`Destination::open`], or if the server does not answer in HTTP/2 within 5 s.
    ///
    /// # Panics
    /// If it is called outside a tokio runtime.
    pub async fn open(destination: &Destination) -> Result<Self, OpenError> {
        let stream = destination.open().await?;
        let greeting = async {
            let handshake = Builder::new()
                .enable_push(false)
                .initial_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .max_header_list_size(MAX_HEADER_BYTES)
                .handshake(stream);
            let (sender, mut driver) = handshake.await.map_err(|_| OpenError::NotHttp2)?;
            let mut ping_pong = driver.ping_pong().expect("no other call has taken it");
            let is_closed = Arc::new(AtomicBool::new(false));
            let closed = is_closed.clone();
            let task = tokio::spawn(async move {
                // Each request learns of the error by itself.
                let _ended = driver.await;
                closed.store(true, Ordering::Relaxed);
            });
            let connection = Self { sender, driver: task.abort_handle(), is_closed, answers: AtomicUsize::new(0) };
            // The server's settings are its first frame, so they arrive before the answer to a ping.
            ping_pong.ping(Ping::opaque()).await.map_err(|_| OpenError::NotHttp2)?;
            Ok(connection)
        };
        match tokio::time::timeout(PREFACE_TIMEOUT, greeting).await {
            Ok(opened) => opened,
            Err(_elapsed) => {
                let message = format!("no HTTP/2 settings of the server within {PREFACE_TIMEOUT:?}");
                Err(OpenError::Connect(io::Error::new(io::ErrorKind::TimedOut, message)))
            }
        }
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// The number of requests that the server permits on this connection at once.
    pub fn max_streams(&self) -> usize {
        self.sender.current_max_send_streams()
    }

    /// The number of answers that have come on this connection.
    pub fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }

    /// Sends a request and waits for the whole answer. If the future is dropped before its end, the request is
    /// cancelled and the others on this connection go on.
    ///
    /// # Errors
    /// If the answer is missing or incomplete. An answer with any status is no error. [`Error::Unsent`] says that the
    /// server has not processed the request and takes no further one on this connection, and [`Error::Refused`] that it
    /// has not processed this one.
    pub async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Received, Error> {
        let (mut head, body) = request.into_parts();
        let body = body.collect().await.expect("a body in memory has no errors").to_bytes();
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        // A clone may have a request of its own that waits for a free stream.
        let mut sender = self.sender.clone();
        let is_empty = body.is_empty();
        let request = Request::from_parts(head, ());
        let (response, mut stream) = sender.send_request(request, is_empty).map_err(|_| Error::Unsent)?;
        if !is_empty {
            // An error here means that the stream is closed. The response then says why.
            let _closed = stream.send_data(body, true);
        }
        let (head, mut body) = response.await.map_err(|error| before_answer(&error))?.into_parts();
        let mut bytes = BytesMut::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.map_err(|_| Error::ShortAnswer)?;
            if bytes.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(Error::LongAnswer);
            }
            // An error here means that the stream has ended, and needs no window any more.
            let _ended = body.flow_control().release_capacity(chunk.len());
            bytes.extend_from_slice(&chunk);
        }
        self.answers.fetch_add(1, Ordering::Relaxed);
        Ok(Received { status: head.status, headers: head.headers, body: bytes.freeze() })
    }
}

/// The error of a request whose answer has not begun.
fn before_answer(error: &h2::Error) -> Error {
    if error.is_remote() && error.is_go_away() {
        // A request fails by GOAWAY only if its stream is above the last one that the server processes.
        Error::Unsent
    } else if error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM) {
        Error::Refused
    } else if error.is_library() && error.reason().is_some() {
        Error::InvalidHttp
    } else {
        Error::Reset
    }
}
