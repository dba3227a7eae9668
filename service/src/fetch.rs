//! One small GET, bounded in time and size: probes and scrapes.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;

/// Largest answer that is read.
const MAX_BYTES: usize = 8 << 20;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address refused or could not be resolved.
    #[error("connect to {0}: {1}")]
    Connect(String, std::io::Error),
    /// No whole answer within the time.
    #[error("{0} did not answer within {1:?}")]
    Timeout(String, Duration),
    /// The peer does not speak HTTP, or stopped in mid-answer.
    #[error("{0}: {1}")]
    Broken(String, String),
    /// The answer is too long to be what was asked for.
    #[error("{0} answered with more than {MAX_BYTES} bytes")]
    Long(String),
}

/// `GET http://{address}{path}` on a fresh connection.
///
/// # Errors
/// See [`Error`]; any status is an answer.
pub async fn get(address: &str, path: &str, timeout: Duration) -> Result<(StatusCode, Bytes), Error> {
    match tokio::time::timeout(timeout, exchange(address, path)).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => Err(Error::Timeout(address.into(), timeout)),
    }
}

async fn exchange(address: &str, path: &str) -> Result<(StatusCode, Bytes), Error> {
    let broken = |error: &dyn std::error::Error| Error::Broken(address.into(), causes(error));
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
    // The connection is driven beside the exchange and dropped with it; its own error shows as the exchange's.
    tokio::pin!(exchange);
    tokio::pin!(connection);
    tokio::select! {
        outcome = &mut exchange => outcome,
        _closed = &mut connection => exchange.await,
    }
}

/// An error and what caused it, innermost last.
pub fn causes(error: &dyn std::error::Error) -> String {
    let innermost = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string);
    innermost.collect::<Vec<_>>().join(": ")
}
