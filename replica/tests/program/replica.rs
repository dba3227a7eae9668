//! Starts a replica as a child process, and sends requests to it.

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

/// The time limit of each step of a test. Every step takes less time, even on a busy machine.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// The process of a replica with the bundled model. It is killed when this value is dropped.
pub(crate) struct ReplicaProcess {
    pub(crate) child: Child,
    /// The address that the replica serves on, `host:port`.
    pub(crate) address: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// The status, the headers and the JSON of an answer. The JSON is null if the body is not JSON.
pub(crate) type ReceivedAnswer = (StatusCode, HeaderMap, Value);

impl ReplicaProcess {
    /// Starts a replica and waits until it is ready.
    pub(crate) async fn start(flags: &[&str]) -> Self {
        let replica = Self::start_unready(flags).await;
        replica.until_status("/readyz", StatusCode::OK).await;
        replica
    }

    /// Starts a replica and waits until it listens. It may not be ready yet.
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
    ) -> ReceivedAnswer {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        let (head, body) = self.client.request(request).await.expect("the replica answers").into_parts();
        let body = body.collect().await.expect("a whole answer").to_bytes();
        (head.status, head.headers, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    pub(crate) async fn get(&self, path: &str) -> ReceivedAnswer {
        self.send(Method::GET, path, &[], "").await
    }

    /// The status and the text of the answer to `GET path`.
    pub(crate) async fn get_text(&self, path: &str) -> (StatusCode, String) {
        let (status, body) = service::fetch::get(&self.address, path, TIMEOUT).await.expect("the replica answers");
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    /// Takes a slot by a request whose body never ends. The slot is free again when the connection is dropped.
    pub(crate) async fn hold_a_slot(&self) -> TcpStream {
        let mut unfinished = TcpStream::connect(&self.address).await.expect("the replica listens");
        unfinished.write_all(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n").await.expect("sent");
        self.until("/metrics", |_, metrics| metrics.contains("inference_in_progress 1\n")).await;
        unfinished
    }

    pub(crate) async fn until_status(&self, path: &str, status: StatusCode) {
        self.until(path, |found, _| found == status).await;
    }

    /// Repeats `GET path` until the status and the text of the answer satisfy `condition`.
    pub(crate) async fn until(&self, path: &str, condition: impl Fn(StatusCode, &str) -> bool) {
        let mut last = None;
        for _ in 0..2000 {
            let (status, text) = self.get_text(path).await;
            if condition(status, &text) {
                return;
            }
            last = Some((status, text));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{path} stays at {last:?}");
    }
}
