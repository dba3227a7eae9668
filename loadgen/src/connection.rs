//! One HTTP/1.1 connection, driven by whoever uses it: between two exchanges it costs nothing, not even a task.

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

/// Answers are a few hundred bytes.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// For a connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there was no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// Refused, or not made in time.
    Connect,
    /// Closed before anything was sent: by a server that keeps connections for a while only.
    Unsent,
    /// Closed before the answer began.
    Reset,
    /// What came back is not HTTP.
    InvalidHttp,
    /// Closed within the answer.
    ShortAnswer,
    /// The answer has no end, or one far beyond what the contract knows.
    LongAnswer,
}

impl Error {
    /// In reports, where the contract's codes stand too.
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

/// Open, and idle unless [`Connection::exchange`] runs.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Nothing once it has ended, so that nobody waits for it any more.
    driver: Option<Driver>,
}

type Driver = Pin<Box<http1::Connection<TokioIo<TcpStream>, Full<Bytes>>>>;

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// [`Error::Connect`].
    pub async fn open(address: SocketAddr) -> Result<Self, Error> {
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address));
        let stream = connecting.await.map_err(|_elapsed| Error::Connect)?.map_err(|_| Error::Connect)?;
        stream.set_nodelay(true).map_err(|_| Error::Connect)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(|_| Error::Connect)?;
        Ok(Self { sender, driver: Some(Box::pin(driver)) })
    }

    /// Whether it can take another request: the server has not closed it meanwhile, as far as is known.
    pub fn is_open(&mut self) -> bool {
        // Reads what has come since, which is nothing or the end, however much this task has read already.
        let driver = self.driver.as_mut();
        driver.is_some_and(|driver| tokio::task::unconstrained(driver).now_or_never().is_none())
            && !self.sender.is_closed()
    }

    /// Sends a request and waits for the whole answer. After an error, or if dropped before its end, the connection is
    /// of no more use.
    ///
    /// # Errors
    /// See [`Error`]; any status is an answer.
    pub async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Error> {
        let Self { sender, driver } = self;
        let mut exchange = pin!(async {
            sender.ready().await.map_err(|_| Error::Unsent)?;
            let response = sender.send_request(request).await.map_err(|error| match () {
                () if error.is_parse() => Error::InvalidHttp,
                () if error.is_canceled() => Error::Unsent,
                () => Error::Reset,
            })?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
                .collect()
                .await
                .map_err(|error| if error.is::<LengthLimitError>() { Error::LongAnswer } else { Error::ShortAnswer })?;
            Ok((status, body.to_bytes()))
        });
        // Both in one turn, so that a request is on its way at once, and an answer is taken when it has come.
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
