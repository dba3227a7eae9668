//! Connections to the server, and the errors of requests on them.

pub mod addresses;
pub mod destination;
pub mod http1;
pub mod http2;
pub mod pool;
pub mod stream;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::HeaderMap;

/// Longest body of an answer, in bytes. Answers of the HTTP API have a few hundred bytes.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// The answer to a request.
#[derive(Debug, Clone)]
pub struct Received {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body, at most 1 MiB.
    pub body: Bytes,
}

/// The reason why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The connection was refused, or not opened in time.
    Connect,
    /// The limit of open files permits no further connection.
    OpenFiles,
    /// The TLS handshake failed, or took too long.
    Tls,
    /// The connection was closed before anything was sent, or the server has said that it does not process the request.
    /// A server may close idle connections at any time.
    Unsent,
    /// The server refused to process the request on an HTTP/2 connection that stays open.
    Refused,
    /// The connection was closed before the answer began.
    Reset,
    /// The answer is not HTTP.
    InvalidHttp,
    /// The connection was closed within the answer.
    ShortAnswer,
    /// The answer is longer than 1 MiB.
    LongAnswer,
    /// The answer did not come within the timeout of the request.
    Timeout,
}

impl Error {
    /// The code of this error in reports, which also contain the error codes of the HTTP API.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::OpenFiles => "open_files_limit",
            Self::Tls => "tls_handshake",
            Self::Unsent | Self::Reset => "reset",
            Self::Refused => "refused_stream",
            Self::InvalidHttp => "invalid_http",
            Self::ShortAnswer => "short_answer",
            Self::LongAnswer => "long_answer",
            Self::Timeout => "client_timeout",
        }
    }
}
