//! Small requests over HTTP/1.1, on as many kept connections as are needed at once. Judges nothing.

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, RETRY_AFTER};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use service::wire::header;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;

/// What is sent: opaque to the dispatcher, and to a stub.
pub(crate) const BODY: [u8; 200] = [b'x'; 200];

/// An open connection.
pub(crate) type Sender = SendRequest<Full<Bytes>>;

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    /// Of the answer.
    pub(crate) status: StatusCode,
    /// Seconds, where it has that header.
    pub(crate) retry_after: Option<u64>,
    /// JSON.
    pub(crate) body: Bytes,
}

/// Opens connections as needed and keeps them.
#[derive(Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    idle: Mutex<Vec<Sender>>,
}

impl Client {
    /// To the dispatcher at `address`.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, idle: Mutex::default() }
    }

    /// Opens `count` connections ahead of time, each used once, so that a burst does not wait for any.
    ///
    /// # Errors
    /// When one is not served.
    pub(crate) async fn connect(&self, count: usize) -> Result<()> {
        for _ in 0..count {
            let mut sender = open(TcpStream::connect(self.address).await.context("connect")?).await?;
            read(sender.send_request(livez()).await.context("send")?).await?;
            self.idle().push(sender);
        }
        Ok(())
    }

    /// `POST /predict`, on an idle connection or a new one.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub(crate) async fn post(&self, id: usize, patience: Option<Duration>) -> Result<Reply> {
        let mut request = predict("/predict", self.address, id, patience);
        loop {
            let idle = self.idle().pop();
            let mut sender = match idle {
                Some(sender) => sender,
                None => open(TcpStream::connect(self.address).await.context("connect")?).await?,
            };
            if sender.ready().await.is_err() {
                // The dispatcher closes what has been idle for long.
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let reply = read(response).await?;
                    self.idle().push(sender);
                    return Ok(reply);
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(error.into_error()).context("send"),
                },
            }
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Sender>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Speaks HTTP/1.1 on `stream`.
///
/// # Errors
/// When it has been closed.
pub(crate) async fn open(stream: TcpStream) -> Result<Sender> {
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("begin to speak HTTP")?;
    // Its error is the request's, too.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// Reads an answer to its end.
///
/// # Errors
/// When it ends early.
pub(crate) async fn read(response: hyper::Response<hyper::body::Incoming>) -> Result<Reply> {
    let status = response.status();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let body = response.into_body().collect().await.context("read the answer")?.to_bytes();
    Ok(Reply { status, retry_after, body })
}

/// A request that costs next to nothing.
pub(crate) fn livez() -> Request<Full<Bytes>> {
    Request::get("/livez").header(HOST, "dispatcher").body(Full::default()).expect("a constant request is valid")
}

/// A request numbered `id`, at `uri`: with a host in it for HTTP/2.
pub(crate) fn predict(uri: &str, host: SocketAddr, id: usize, patience: Option<Duration>) -> Request<Full<Bytes>> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(uri)
        .header(CONTENT_TYPE, "application/octet-stream")
        .header(header::REQUEST_ID, id.to_string());
    if uri.starts_with('/') {
        request = request.header(HOST, host.to_string());
    }
    if let Some(patience) = patience {
        request = request.header(header::TIMEOUT_MS, patience.as_millis().to_string());
    }
    request.body(Full::new(Bytes::from_static(&BODY))).expect("a constant request with numbers in it is valid")
}
