//! A replica as a child process, and requests to it.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// The time limit of each step, longer than any of them takes.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// A replica with the bundled model, killed when dropped.
pub(crate) struct Replica {
    pub(crate) child: Child,
    /// `host:port`
    pub(crate) address: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// Status, headers and JSON of an answer.
pub(crate) type Reply = (StatusCode, HeaderMap, Value);

impl Replica {
    /// Starts a replica and waits until it is ready.
    pub(crate) async fn start(flags: &[&str]) -> Self {
        let replica = Self::start_unready(flags).await;
        replica.until_status("/readyz", StatusCode::OK).await;
        replica
    }

    /// Starts a replica and waits only until it listens.
    pub(crate) async fn start_unready(flags: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_replica"))
            .args(["--listen=127.0.0.1:0", "--log=error", "--exit-with-parent"])
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the replica starts");
        let mut printed = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = tokio::time::timeout(TIMEOUT, printed.next_line()).await.expect("it prints its address in time");
        let line = line.expect("readable").expect("a line");
        let address = line.strip_prefix("listening on http://").expect("its address").to_owned();
        Self { child, address, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        let (head, body) = self.client.request(request).await.expect("the replica answers").into_parts();
        let body = body.collect().await.expect("a whole answer").to_bytes();
        (head.status, head.headers, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[], "").await
    }

    /// Status and text of a `GET`.
    pub(crate) async fn get_text(&self, path: &str) -> (StatusCode, String) {
        let (status, body) = service::fetch::get(&self.address, path, TIMEOUT).await.expect("the replica answers");
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    /// Holds a slot with a request whose body never ends, until the connection is dropped.
    pub(crate) async fn hold_a_slot(&self) -> TcpStream {
        let mut unfinished = TcpStream::connect(&self.address).await.expect("the replica listens");
        unfinished.write_all(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n").await.expect("sent");
        self.until("/metrics", |_, metrics| metrics.contains("inference_in_progress 1\n")).await;
        unfinished
    }

    pub(crate) async fn until_status(&self, path: &str, status: StatusCode) {
        self.until(path, |found, _| found == status).await;
    }

    /// Gets `path` until the status and text of the answer satisfy `is_so`.
    pub(crate) async fn until(&self, path: &str, is_so: impl Fn(StatusCode, &str) -> bool) {
        let mut last = None;
        for _ in 0..2000 {
            let (status, text) = self.get_text(path).await;
            if is_so(status, &text) {
                return;
            }
            last = Some((status, text));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{path} stays at {last:?}");
    }
}
