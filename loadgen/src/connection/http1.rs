//! An HTTP/1.1 connection that the task of a request drives itself. An idle connection has no task.

use super::destination::Destination;
use super::stream::Stream;
use super::{Error, MAX_ANSWER_BYTES, Received};
use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

/// An open connection. It is idle unless [`Http1Connection::exchange`] runs.
pub struct Http1Connection {
    sender: SendRequest<Full<Bytes>>,
    /// The future that moves bytes between the socket and `sender`; `None` once it has ended, since a finished future
    /// must not be polled again.
    driver: Option<ConnectionDriver>,
}

type ConnectionDriver = Pin<Box<http1::Connection<TokioIo<Stream>, Full<Bytes>>>>;

impl Http1Connection {
    /// Opens a connection.
    ///
    /// # Errors
    /// As [`Destination::open`].
    pub async fn open(destination: &Destination) -> Result<Self, Error> {
        let stream = destination.open().await?;
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
    pub async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Received, Error> {
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
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES)
                .collect()
                .await
                .map_err(|error| if error.is::<LengthLimitError>() { Error::LongAnswer } else { Error::ShortAnswer })?;
            Ok(Received { status: head.status, headers: head.headers, body: body.to_bytes() })
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
