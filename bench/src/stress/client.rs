//! A client that sends small requests over HTTP/1.1 and keeps its connections. Does not judge the answers.

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

/// The body of every request. Neither the dispatcher nor a stub replica parses it.
pub(crate) const BODY: [u8; 200] = [b'x'; 200];

/// An open HTTP/1.1 connection.
pub(crate) type Http1Connection = SendRequest<Full<Bytes>>;

/// An answer that was received to its end.
#[derive(Debug, Clone)]
pub(crate) struct FullAnswer {
    /// The status of the answer.
    pub(crate) status: StatusCode,
    /// The header `Retry-After` in seconds; `None` if the answer has no such header.
    pub(crate) retry_after: Option<u64>,
    /// The body of the answer, as JSON.
    pub(crate) body: Bytes,
}

/// A client of a dispatcher. It opens a connection when none is idle, and keeps all connections.
#[derive(Debug)]
pub(crate) struct DispatcherClient {
    address: SocketAddr,
    idle: Mutex<Vec<Http1Connection>>,
}

impl DispatcherClient {
    /// A client of the dispatcher at `address` that has no connections yet.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, idle: Mutex::default() }
    }

    /// Opens `count` connections and sends `GET /livez` on each, so that a burst of requests finds them open.
    ///
    /// # Errors
    /// If a connection cannot be opened, or its request is not answered.
    pub(crate) async fn connect(&self, count: usize) -> Result<()> {
        for _ in 0..count {
            let mut connection = self.open().await?;
            let answer = connection.send_request(livez()).await;
            read(answer.with_context(|| format!("get http://{}/livez", self.address))?).await?;
            self.idle().push(connection);
        }
        Ok(())
    }

    /// Sends `POST /predict` on an idle connection, or on a new one if none is idle. See [`predict`] for the arguments.
    ///
    /// # Errors
    /// If the request is not answered, or the answer ends early.
    pub(crate) async fn post(&self, id: usize, timeout: Option<Duration>) -> Result<FullAnswer> {
        let mut request = predict("/predict", self.address, id, timeout);
        loop {
            let idle = self.idle().pop();
            let mut connection = match idle {
                Some(connection) => connection,
                None => self.open().await?,
            };
            if connection.ready().await.is_err() {
                // The dispatcher closes connections that were idle for long, so another one is tried.
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
                    None => {
                        let failed = || format!("post request {id} to http://{}/predict", self.address);
                        return Err(error.into_error()).with_context(failed);
                    }
                },
            }
        }
    }

    async fn open(&self) -> Result<Http1Connection> {
        let stream = TcpStream::connect(self.address).await;
        open(stream.with_context(|| format!("connect to the dispatcher at {}", self.address))?).await
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Http1Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts HTTP/1.1 on an open socket.
///
/// # Errors
/// If the socket is closed already.
pub(crate) async fn open(stream: TcpStream) -> Result<Http1Connection> {
    stream.set_nodelay(true).context("set TCP_NODELAY on a connection to the dispatcher")?;
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.context("start HTTP/1.1 on a connection to the dispatcher")?;
    // If the connection breaks, its request reports the error.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// Reads an answer to its end.
///
/// # Errors
/// If the answer ends early.
pub(crate) async fn read(response: hyper::Response<hyper::body::Incoming>) -> Result<FullAnswer> {
    let status = response.status();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let body = response.into_body().collect().await;
    let body = body.with_context(|| format!("read the body of an answer with status {status}"))?.to_bytes();
    Ok(FullAnswer { status, retry_after, body })
}

/// The request `GET /livez`, which the dispatcher answers at once.
pub(crate) fn livez() -> Request<Full<Bytes>> {
    Request::get("/livez").header(HOST, "dispatcher").body(Full::default()).expect("a constant request is valid")
}

/// The request `POST /predict`, with `id` as its `x-request-id`, and with the header `x-request-timeout-ms` if
/// `timeout` is given. `uri` is the path for HTTP/1.1, and the whole URL for HTTP/2.
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
