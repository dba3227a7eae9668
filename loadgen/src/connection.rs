//! An HTTP/1.1 connection that the task of a request drives itself. An idle connection has no task. Connections are
//! direct: proxies from the environment are not used.

use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;
use tokio::net::TcpStream;

/// Longest body of an answer, in bytes. Answers of the HTTP API have a few hundred bytes.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Longest time to open a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The reason why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The connection was refused, or not opened in time.
    Connect,
    /// The connection was closed before anything was sent. A server may close idle connections at any time.
    Unsent,
    /// The connection was closed before the answer began.
    Reset,
    /// The answer is not HTTP.
    InvalidHttp,
    /// The connection was closed within the answer.
    ShortAnswer,
    /// The answer is longer than [`MAX_ANSWER_BYTES`].
    LongAnswer,
}

impl Error {
    /// The code of this error in reports, which also contain the error codes of the HTTP API.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Unsent | Self::Reset => "reset",
            Self::InvalidHttp => "invalid_http",
            Self::ShortAnswer => "short_answer",
            Self::LongAnswer => "long_answer",
        }
    }
}

/// An open connection. It is idle unless [`ClientConnection::exchange`] runs.
pub struct ClientConnection {
    sender: SendRequest<Full<Bytes>>,
    /// The future that moves bytes between the socket and `sender`; `None` once it has ended, since a finished future
    /// must not be polled again.
    driver: Option<ConnectionDriver>,
}

type ConnectionDriver = Pin<Box<http1::Connection<TokioIo<TcpStream>, Full<Bytes>>>>;

impl ClientConnection {
    /// Opens a connection to `address`.
    ///
    /// # Errors
    /// [`Error::Connect`] if the server refuses the connection, or the connection is not open within 2 s.
    pub async fn open(address: SocketAddr) -> Result<Self, Error> {
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address));
        let stream = connecting.await.map_err(|_elapsed| Error::Connect)?.map_err(|_| Error::Connect)?;
        stream.set_nodelay(true).map_err(|_| Error::Connect)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(|_| Error::Connect)?;
        Ok(Self { sender, driver: Some(Box::pin(driver)) })
    }

    /// Whether the connection can take another request. False if the server has closed the connection, as far as is
    /// known.
    pub fn is_open(&mut self) -> bool {
        // This poll of the driver finds out whether the server has closed the connection: the driver reads the end of
        // the stream, and ends. The waker does nothing, since no task waits for an idle connection. Without
        // `unconstrained`, the poll would read nothing if this task had used up tokio's budget for its turn.
        let driver = self.driver.as_mut();
        driver.is_some_and(|driver| tokio::task::unconstrained(driver).now_or_never().is_none())
            && !self.sender.is_closed()
    }

    /// Sends a request and waits for the whole answer. After an error, or if the future is dropped before its end, the
    /// connection must not be used again.
    ///
    /// # Errors
    /// If the answer is missing or incomplete. An answer with any status is no error.
    pub async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Error> {
        let Self { sender, driver } = self;
        let mut exchange = pin!(async {
            sender.ready().await.map_err(|_| Error::Unsent)?;
            let response = sender.send_request(request).await.map_err(|error| {
                if error.is_parse() {
                    Error::InvalidHttp
                } else if error.is_canceled() {
                    Error::Unsent
                } else {
                    Error::Reset
                }
            })?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
                .collect()
                .await
                .map_err(|error| if error.is::<LengthLimitError>() { Error::LongAnswer } else { Error::ShortAnswer })?;
            Ok((status, body.to_bytes()))
        });
        // Polls the exchange, then the driver, then the exchange again. The first poll makes the request, and the
        // driver writes it. The driver reads the answer, and the last poll takes it. Each takes only one turn of the
        // task.
        poll_fn(|context| {
            if let Poll::Ready(outcome) = exchange.as_mut().poll(context) {
                return Poll::Ready(outcome);
            }
            if driver.as_mut().is_some_and(|driver| driver.as_mut().poll(context).is_ready()) {
                *driver = None;
            }
            exchange.as_mut().poll(context)
        })
        .await
    }
}
