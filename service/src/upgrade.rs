//! Connections that pass from HTTP/1.1 to another protocol (RFC 9110, 7.8): the answer with which a server accepts that,
//! the request with which a client asks for it, and the lines of JSON that both then exchange.

use crate::fetch::{Error, error_chain};
use crate::respond::Reply;
use bytes::Bytes;
use futures_util::SinkExt;
use http_body_util::{Empty, Full};
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, UPGRADE};
use hyper::{HeaderMap, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use tokio_util::codec::{Framed, LinesCodec, LinesCodecError};

/// The longest line in bytes. Without this limit, a line without an end would take all memory.
const MAX_LINE_BYTES: usize = 512;

/// The longest time in which the other side must take a line.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// The bytes of a connection that has passed to another protocol.
pub trait Bidirectional: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Bidirectional for S {}

type Run = Box<dyn FnOnce(JsonLines) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// What follows on the connection after an answer of [`accept`]. The answer has it as an extension.
#[derive(Clone)]
pub(crate) struct Upgrade(Arc<Mutex<Option<Run>>>);

impl Upgrade {
    /// Speaks the new protocol on `stream`, until either side ends it.
    pub(crate) async fn run(&self, stream: Box<dyn Bidirectional>) {
        let run = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(run) = run {
            run(JsonLines::new(stream)).await;
        }
    }
}

impl fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Upgrade")
    }
}

/// Whether a request asks to pass to `protocol`.
pub fn is_requested(version: Version, headers: &HeaderMap, protocol: &str) -> bool {
    let has = |name: HeaderName, wanted: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(wanted))
    };
    version == Version::HTTP_11 && has(CONNECTION, "upgrade") && has(UPGRADE, protocol)
}

/// The answer that accepts a request to pass to `protocol`. `run` then speaks it.
pub fn accept<F>(protocol: &'static str, run: impl FnOnce(JsonLines) -> F + Send + 'static) -> Reply
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut reply = Response::new(Full::new(Bytes::new()));
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    reply.headers_mut().insert(UPGRADE, HeaderValue::from_static(protocol));
    let run: Run = Box::new(move |lines| Box::pin(run(lines)));
    reply.extensions_mut().insert(Upgrade(Arc::new(Mutex::new(Some(run)))));
    reply
}

/// Asks the server at `address` (`host:port`) by `GET path` to pass to `protocol`, within `timeout`. Returns the status of
/// the answer if the server does not.
///
/// # Errors
/// If the server does not answer with HTTP in time; see [`Error`].
pub async fn request(
    address: &str,
    path: &str,
    protocol: &'static str,
    header: (HeaderName, HeaderValue),
    timeout: Duration,
) -> Result<Result<JsonLines, StatusCode>, Error> {
    let broken = |error: &dyn std::error::Error| Error::Broken(address.into(), error_chain(error));
    let exchange = async {
        let stream = TcpStream::connect(address).await.map_err(|error| Error::Connect(address.into(), error))?;
        // A line is small and written at once. Without this, the kernel would hold it back until the last one is
        // acknowledged.
        stream.set_nodelay(true).map_err(|error| broken(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        let request = Request::get(path)
            .header(HOST, address)
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, protocol)
            .header(header.0, header.1)
            .body(Empty::<Bytes>::new())
            .map_err(|error| broken(&error))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                return Ok(Err(response.status()));
            }
            let upgraded = hyper::upgrade::on(response).await.map_err(|error| broken(&error))?;
            Ok(Ok(JsonLines::new(Box::new(TokioIo::new(upgraded)))))
        };
        let connection = connection.with_upgrades();
        tokio::pin!(exchange, connection);
        // The exchange advances only while the connection is polled, too.
        tokio::select! {
            outcome = &mut exchange => outcome,
            _ended = &mut connection => exchange.await,
        }
    };
    match tokio::time::timeout(timeout, exchange).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => Err(Error::Timeout(address.into(), timeout)),
    }
}

/// The reason why the other side's lines have ended too early.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The stream has failed, or the line is too long.
    #[error("the stream failed: {0}")]
    Stream(#[from] LinesCodecError),
    /// The line is not the JSON that was expected.
    #[error("a line is malformed: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The other side did not take a line in time.
    #[error("a line was not taken within {WRITE_TIMEOUT:?}")]
    Blocked,
}

/// A connection on which both sides send lines of JSON.
pub struct JsonLines(Framed<Box<dyn Bidirectional>, LinesCodec>);

impl JsonLines {
    fn new(stream: Box<dyn Bidirectional>) -> Self {
        Self(Framed::new(stream, LinesCodec::new_with_max_length(MAX_LINE_BYTES)))
    }

    /// The next line; `None` once the other side has closed the connection.
    ///
    /// # Errors
    /// If the stream fails, or the line is too long or malformed.
    ///
    /// # Cancel safety
    /// A dropped future loses no line.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, LineError> {
        match self.0.next().await {
            Some(line) => Ok(Some(serde_json::from_str(&line?)?)),
            None => Ok(None),
        }
    }

    /// Sends a line.
    ///
    /// # Errors
    /// If the stream fails, or the other side does not take the line in time.
    pub async fn send<T: Serialize>(&mut self, line: &T) -> Result<(), LineError> {
        let line = serde_json::to_string(line)?;
        tokio::time::timeout(WRITE_TIMEOUT, self.0.send(line)).await.map_err(|_elapsed| LineError::Blocked)??;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::respond;
    use crate::server;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;

    const SOON: Duration = Duration::from_secs(10);

    /// Serves connections on which each line is sent back, until the sender is dropped.
    async fn serve_echo() -> (SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
        let listener = server::listen("127.0.0.1:0".parse().expect("an address")).await.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let (stop, stopped) = oneshot::channel::<()>();
        let handle = async |request: Request<hyper::body::Incoming>| {
            if !is_requested(request.version(), request.headers(), "echo/1") {
                return respond::text("text/plain", "no".into());
            }
            accept("echo/1", async |mut lines| {
                while let Ok(Some(line)) = lines.receive::<String>().await {
                    if lines.send(&line).await.is_err() {
                        return;
                    }
                }
            })
        };
        let handle = move |request| Box::pin(handle(request));
        let stop_or_dropped = async { drop(stopped.await) };
        let serving = tokio::spawn(server::serve(listener, None, handle, stop_or_dropped, SOON));
        (address, stop, serving)
    }

    async fn connect(address: SocketAddr, protocol: &'static str) -> Result<JsonLines, StatusCode> {
        let header = (HeaderName::from_static("x-name"), HeaderValue::from_static("test"));
        request(&address.to_string(), "/", protocol, header, SOON).await.expect("the server answers")
    }

    #[tokio::test]
    async fn lines_go_both_ways_until_the_server_stops() {
        let (address, stop, serving) = serve_echo().await;
        let mut lines = connect(address, "echo/1").await.expect("the server accepts it");
        for line in ["first", "GET / HTTP/1.1", "\n\n"] {
            lines.send(&line).await.expect("it is taken");
            assert_eq!(lines.receive::<String>().await.expect("a line"), Some(line.into()));
        }
        assert_eq!(connect(address, "other/1").await.err(), Some(StatusCode::OK), "a server may refuse");
        drop(stop);
        assert_eq!(lines.receive::<String>().await.expect("an end"), None);
        tokio::time::timeout(SOON, serving).await.expect("an open connection delays no stop").expect("no panic");
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_or_no_json_ends_the_connection() {
        let (address, _stop, _serving) = serve_echo().await;
        for sent in [&[b'1'; 4096][..], b"no json\n", b"\xff\xfe\n"] {
            let mut stream = TcpStream::connect(address).await.expect("it listens");
            let head = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: echo/1\r\n\r\n";
            // What follows the head at once is no HTTP, either.
            stream.write_all(&[head, sent].concat()).await.expect("it is taken");
            let mut received = Vec::new();
            let ended = tokio::time::timeout(SOON, stream.read_to_end(&mut received)).await;
            // The rest of the line is unread, so the connection may be reset.
            let _reset = ended.expect("the server closes the connection");
            let text = String::from_utf8_lossy(&received).to_ascii_lowercase();
            assert!(text.starts_with("http/1.1 101") && text.ends_with("\r\n\r\n"), "{text:?}");
        }
    }

    #[test]
    fn another_protocol_must_be_asked_for_by_its_name() {
        for (version, connection, upgrade, expected) in [
            (Version::HTTP_11, "Upgrade", "echo/1", true),
            (Version::HTTP_11, "keep-alive, upgrade", "other, Echo/1", true),
            (Version::HTTP_10, "upgrade", "echo/1", false),
            (Version::HTTP_2, "upgrade", "echo/1", false),
            (Version::HTTP_11, "close", "echo/1", false),
            (Version::HTTP_11, "upgrade", "echo/2", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONNECTION, HeaderValue::from_static(connection));
            headers.insert(UPGRADE, HeaderValue::from_static(upgrade));
            assert_eq!(is_requested(version, &headers, "echo/1"), expected, "{version:?} {connection} {upgrade}");
        }
    }
}
