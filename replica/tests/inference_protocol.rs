//! The Open Inference Protocol as the replica's program speaks it: with Triton's client (PyPI), without which that test
//! says that it was skipped, and by hand.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// Longer than anything that is waited for takes.
const PATIENCE: Duration = Duration::from_secs(60);

const INFER: &str = "/v2/models/resnet18/infer";

/// The program, ready; killed when dropped.
struct Replica {
    child: Child,
    /// `host:port`.
    address: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// Status, headers and JSON.
type Reply = (StatusCode, HeaderMap, Value);

impl Replica {
    async fn start(flags: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_replica"))
            .args(["--listen=127.0.0.1:0", "--log=error", "--exit-with-parent"])
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the replica starts");
        let mut printed = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = tokio::time::timeout(PATIENCE, printed.next_line()).await.expect("it says where it listens");
        let line = line.expect("readable").expect("a line");
        let address = line.strip_prefix("listening on http://").expect("its address").to_owned();
        let replica = Self { child, address, client: Client::builder(TokioExecutor::new()).build_http() };
        replica.until_status("/readyz", StatusCode::OK).await;
        replica
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        let (head, body) = self.client.request(request).await.expect("the replica answers").into_parts();
        let body = body.collect().await.expect("a whole answer").to_bytes();
        (head.status, head.headers, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[], "").await
    }

    async fn infer(&self, body: &Value) -> Reply {
        self.send(Method::POST, INFER, &[], body.to_string()).await
    }

    /// By a request whose body never ends, until it is dropped.
    async fn hold_a_slot(&self) -> TcpStream {
        let mut unfinished = TcpStream::connect(&self.address).await.expect("it listens");
        unfinished.write_all(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n").await.expect("sent");
        self.until("/metrics", |_, metrics| metrics.contains("inference_in_progress 1\n")).await;
        unfinished
    }

    async fn until_status(&self, path: &str, status: StatusCode) {
        self.until(path, |found, _| found == status).await;
    }

    async fn until(&self, path: &str, is_so: impl Fn(StatusCode, &str) -> bool) {
        let mut last = None;
        for _ in 0..2000 {
            let (status, body) = service::fetch::get(&self.address, path, PATIENCE).await.expect("it answers");
            if is_so(status, &String::from_utf8_lossy(&body)) {
                return;
            }
            last = Some((status, body));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{path} stays at {last:?}");
    }
}

/// So many pictures, each the same file of base64.
fn pictures(count: usize) -> Value {
    // One red pixel.
    const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC";
    json!({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [count], "data": vec![PNG; count]}]})
}

#[tokio::test]
async fn tritons_client_classifies_as_predict_does() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = match std::env::var_os("ROUNDHOUSE_TRITONCLIENT") {
        Some(named) => PathBuf::from(named),
        None => folder.join("../target/tools/tritonclient/bin/python"),
    };
    if !python.exists() {
        // Past the capturing of what passing tests print: nothing is skipped silently.
        let reason = format!(
            "skipped: {} is not there; to have it: python3 -m venv target/tools/tritonclient && \
             target/tools/tritonclient/bin/pip install 'tritonclient[http]'",
            python.display()
        );
        writeln!(std::io::stderr(), "{reason}").expect("standard error is open");
        return;
    }
    let replica = Replica::start(&["--capacity=2"]).await;
    let mut client = Command::new(&python);
    client.arg(folder.join("tests/inference_protocol/client.py")).arg(&replica.address).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, client.output()).await.expect("the client ends").expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_refusal_has_a_status_and_says_why() {
    let replica = Replica::start(&["--capacity=2", "--max-body-bytes=1000000"]).await;
    let huge: Vec<u8> = (0..3 * 224 * 224).flat_map(|_| 3e38_f32.to_le_bytes()).collect();
    let json = r#"{"inputs":[{"name":"input","datatype":"FP32","shape":[1,3,224,224],
        "parameters":{"binary_data_size":602112}}]}"#;
    let length = json.len().to_string();
    let too_large_for_the_model: Bytes = [json.as_bytes(), &huge].concat().into();
    let (get, post) = (Method::GET, Method::POST);
    let one = || Bytes::from(pictures(1).to_string());
    for (method, path, headers, body, status, message) in [
        (&get, "/v2/nothing", &[][..], Bytes::new(), 404, "no such path: /v2/nothing"),
        (&get, "/v2/models/x", &[], Bytes::new(), 404, "there is no model \"x\"; there is \"resnet18\""),
        (&post, "/v2/models/resnet18/versions/2/infer", &[], one(), 404, "no version \"2\""),
        (&post, "/v2/health/live", &[], one(), 405, "this path takes GET, HEAD only"),
        (&get, INFER, &[], Bytes::new(), 405, "this path takes POST only"),
        (&post, INFER, &[], Bytes::from_static(b"{"), 400, "the JSON is no inference request"),
        (&post, INFER, &[("x-request-timeout-ms", "-1")], one(), 400, "x-request-timeout-ms must be"),
        (&post, INFER, &[("inference-header-content-length", "9999")], one(), 400, "is 9999, but the whole body has"),
        (&post, INFER, &[("inference-header-content-length", &length)], too_large_for_the_model, 400, "picture 0: its"),
        (&post, INFER, &[("content-encoding", "gzip")], one(), 415, "Content-Encoding \"gzip\""),
        (&post, INFER, &[], pictures(3).to_string().into(), 413, "this replica takes 2 at once"),
        (&post, INFER, &[], vec![b' '; 1_000_001].into(), 413, "over the limit of 1000000 bytes"),
    ] {
        let sent = replica.send(method.clone(), path, headers, body).await;
        let (found, headers, answer) = &sent;
        assert_eq!(*found, status, "{method} {path}: {answer}");
        assert_eq!(answer.as_object().map(serde_json::Map::len), Some(1), "{answer}");
        assert!(answer["error"].as_str().is_some_and(|error| error.contains(message)), "{method} {path}: {answer}");
        assert_eq!(headers["x-replica-capacity"], "2", "{method} {path}");
        assert_eq!(headers.get("allow").is_some(), status == 405, "{method} {path}");
    }
}

#[tokio::test]
async fn an_answer_names_its_request() {
    let replica = Replica::start(&[]).await;
    let headers =
        [("x-request-id", "mine"), ("traceparent", "00-11111111111111111111111111111111-2222222222222222-01")];
    let (status, found, answer) = replica.send(Method::POST, INFER, &headers, pictures(1).to_string()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    for (name, value) in headers {
        assert_eq!(found[name], value);
    }
    assert_eq!((&answer["model_name"], &answer["outputs"][0]["name"]), (&json!("resnet18"), &json!("probabilities")));
    replica.until("/metrics", |_, metrics| metrics.contains("inference_latency_seconds_count 1")).await;
}

#[tokio::test]
async fn pictures_without_a_slot_are_sent_away_and_take_none() {
    let replica = Replica::start(&["--capacity=2"]).await;
    let unfinished = replica.hold_a_slot().await;
    for _ in 0..3 {
        let (status, headers, answer) = replica.infer(&pictures(2)).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
        assert_eq!(headers["retry-after"], "1");
        assert!(answer["error"].as_str().is_some_and(|error| error.contains("send to another")), "{answer}");
        assert_eq!(replica.infer(&pictures(1)).await.0, StatusCode::OK);
    }
    drop(unfinished);
    replica.until("/metrics", |_, metrics| metrics.contains("inference_in_progress 0\n")).await;
    assert_eq!(replica.infer(&pictures(2)).await.0, StatusCode::OK);
}

/// Or whoever sends on over it would find it closed, and not know whether its request was seen.
#[tokio::test]
async fn whoever_is_sent_away_keeps_the_connection() {
    let replica = Replica::start(&["--capacity=1"]).await;
    let _unfinished = replica.hold_a_slot().await;
    let body = vec![0; 1_000_000];
    for path in ["/predict", INFER] {
        let mut kept = BufReader::new(TcpStream::connect(&replica.address).await.expect("it listens"));
        for _ in 0..2 {
            let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
            kept.write_all(head.as_bytes()).await.expect("sent");
            // The replica knows by now that it will send the request away.
            tokio::time::sleep(Duration::from_millis(50)).await;
            kept.write_all(&body).await.expect("the body is read");
            let mut answer = String::new();
            while !answer.ends_with("\r\n\r\n") {
                assert_ne!(kept.read_line(&mut answer).await.expect("open"), 0, "{path}: {answer}");
            }
            assert!(answer.starts_with("HTTP/1.1 503"), "{path}: {answer}");
            let length = answer.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            let mut rest = vec![0; length.expect("a length")];
            kept.read_exact(&mut rest).await.expect("the whole answer");
        }
    }
}

#[tokio::test]
async fn a_draining_replica_is_live_and_answers_but_is_not_ready() {
    let replica = Replica::start(&["--drain-delay=60s"]).await;
    let ready = "/v2/health/ready";
    assert_eq!(replica.get(ready).await.2, json!({"ready": true}));
    let process = replica.child.id().expect("it runs").to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &process]).status().await.expect("there is a kill").success());
    replica.until_status(ready, StatusCode::SERVICE_UNAVAILABLE).await;
    assert_eq!(replica.get(ready).await.2, json!({"ready": false}));
    let model = replica.get("/v2/models/resnet18/ready").await;
    assert_eq!((model.0, model.2), (StatusCode::SERVICE_UNAVAILABLE, json!({"name": "resnet18", "ready": false})));
    assert_eq!(replica.get("/v2/health/live").await.2, json!({"live": true}));
    assert_eq!(replica.infer(&pictures(1)).await.0, StatusCode::OK);
}
