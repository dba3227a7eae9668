//! A simple HTTP GET for probes and scrapes. Each request has its own connection, a time limit and a size limit. Uses
//! no proxy.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;

/// The largest body of an answer, in bytes.
const MAX_BYTES: usize = 8 << 20;

/// The reason why a GET failed. Each message names the address.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address refused the connection or could not be resolved.
    #[error("connect to {0}: {1}")]
    Connect(String, std::io::Error),
    /// The whole answer did not arrive in time.
    #[error("{0} did not answer within {1:?}")]
    Timeout(String, Duration),
    /// The peer does not use HTTP, or its answer ended early.
    #[error("{0} gave no complete HTTP answer: {1}")]
    Broken(String, String),
    /// The body of the answer is longer than 8 MiB.
    #[error("{0} answered with more than {MAX_BYTES} bytes")]
    Long(String),
}

/// Sends `GET http://{address}{path}` on a new connection and reads the whole answer within `timeout`. `address` has
/// the form `host:port`. Proxies from the environment are not used.
///
/// # Errors
/// If no complete answer arrives; [`Error`] lists the reasons. An answer with an error status is no [`Error`].
pub async fn get(address: &str, path: &str, timeout: Duration) -> Result<(StatusCode, Bytes), Error> {
    match tokio::time::timeout(timeout, exchange(address, path)).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => Err(Error::Timeout(address.into(), timeout)),
    }
}

async fn exchange(address: &str, path: &str) -> Result<(StatusCode, Bytes), Error> {
    let broken = |error: &dyn std::error::Error| Error::Broken(address.into(), error_chain(error));
    let stream = TcpStream::connect(address).await.map_err(|error| Error::Connect(address.into(), error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let request = Request::get(path)
        .header(header::HOST, address)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| broken(&error))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BYTES).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() { Error::Long(address.into()) } else { broken(error.as_ref()) }
        })?;
        Ok((status, body.to_bytes()))
    };
    // The exchange advances only while the connection is polled, too. If the connection ends first, the exchange still
    // returns the answer or the error.
    tokio::pin!(exchange);
    tokio::pin!(connection);
    tokio::select! {
        outcome = &mut exchange => outcome,
        _closed = &mut connection => exchange.await,
    }
}

/// The messages of `error` and of its causes, joined by `: `, the root cause last.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let errors = std::iter::successors(Some(error), |error| error.source());
    errors.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
