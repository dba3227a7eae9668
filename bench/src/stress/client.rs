//! Small requests over HTTP/1.1, on as many kept connections as are needed at once. Does not judge the answers.

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, RETRY_AFTER};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use service::wire::header;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;

/// The body of every request. Neither the dispatcher nor a stub looks into it.
pub(crate) const BODY: [u8; 200] = [b'x'; 200];

/// An open connection of HTTP/1.1.
pub(crate) type Http1Connection = SendRequest<Full<Bytes>>;

/// A whole answer.
#[derive(Debug, Clone)]
pub(crate) struct FullAnswer {
    pub(crate) status: StatusCode,
    /// The header `Retry-After`, seconds.
    pub(crate) retry_after: Option<u64>,
    /// JSON.
    pub(crate) body: Bytes,
}

/// Opens connections as needed and keeps them.
#[derive(Debug)]
pub(crate) struct DispatcherClient {
    address: SocketAddr,
    idle: Mutex<Vec<Http1Connection>>,
}

impl DispatcherClient {
    /// A client of the dispatcher at `address`, without a connection yet.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, idle: Mutex::default() }
    }

    /// Opens `count` connections and uses each once, so that a burst of requests does not have to wait for them.
    ///
    /// # Errors
    /// When a connection is not served.
    pub(crate) async fn connect(&self, count: usize) -> Result<()> {
        for _ in 0..count {
            let mut connection = open(TcpStream::connect(self.address).await.context("connect")?).await?;
            read(connection.send_request(livez()).await.context("send a GET of /livez")?).await?;
            self.idle().push(connection);
        }
        Ok(())
    }

    /// `POST /predict`, on an idle connection or a new one. See [`predict`] for the arguments.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub(crate) async fn post(&self, id: usize, timeout: Option<Duration>) -> Result<FullAnswer> {
        let mut request = predict("/predict", self.address, id, timeout);
        loop {
            let idle = self.idle().pop();
            let mut connection = match idle {
                Some(connection) => connection,
                None => open(TcpStream::connect(self.address).await.context("connect")?).await?,
            };
            if connection.ready().await.is_err() {
                // The dispatcher closes connections that were idle for long.
                continue;
            }
            match connection.try_send_request(request).await {
                Ok(response) => {
                    let reply = read(response).await?;
                    self.idle().push(connection);
                    return Ok(reply);
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(error.into_error()).context("send the request"),
                },
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Http1Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes an HTTP/1.1 connection of an open socket.
///
/// # Errors
/// When the socket has been closed.
pub(crate) async fn open(stream: TcpStream) -> Result<Http1Connection> {
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("start HTTP/1.1")?;
    // The request that a broken connection carries reports the error.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// Reads an answer to its end.
///
/// # Errors
/// When the answer ends early.
pub(crate) async fn read(response: hyper::Response<hyper::body::Incoming>) -> Result<FullAnswer> {
    let status = response.status();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let body = response.into_body().collect().await.context("read the body of the answer")?.to_bytes();
    Ok(FullAnswer { status, retry_after, body })
}

/// `GET /livez`, which the dispatcher answers at once.
pub(crate) fn livez() -> Request<Full<Bytes>> {
    Request::get("/livez").header(HOST, "dispatcher").body(Full::default()).expect("a constant request is valid")
}

/// `POST /predict` with the number `id` as its `x-request-id`, and with `x-request-timeout-ms` if there is a `timeout`.
/// The `uri` is a path for HTTP/1.1, and a whole URL for HTTP/2.
pub(crate) fn predict(uri: &str, host: SocketAddr, id: usize, timeout: Option<Duration>) -> Request<Full<Bytes>> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(uri)
        .header(CONTENT_TYPE, "application/octet-stream")
        .header(header::REQUEST_ID, id.to_string());
    if uri.starts_with('/') {
        request = request.header(HOST, host.to_string());
    }
    if let Some(timeout) = timeout {
        request = request.header(header::TIMEOUT_MS, timeout.as_millis().to_string());
    }
    request.body(Full::new(Bytes::from_static(&BODY))).expect("constant headers and numbers make a valid request")
}
