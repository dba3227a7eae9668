//! Tests the Open Inference Protocol of the replica's program, with Triton's client (PyPI) and with requests made here.
//! If Triton's client is not installed, its test prints that it was skipped.

use crate::replica::{ReceivedAnswer, ReplicaProcess, TIMEOUT};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;

const INFER: &str = "/v2/models/resnet18/infer";

impl ReplicaProcess {
    async fn infer(&self, body: &Value) -> ReceivedAnswer {
        self.send(Method::POST, INFER, &[], body.to_string()).await
    }
}

/// The body of an inference request with `count` images. All are the same file in base64.
fn images(count: usize) -> Value {
    // The file has one red pixel.
    const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC";
    json!({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [count], "data": vec![PNG; count]}]})
}

#[tokio::test]
async fn tritons_client_gets_the_same_classes_as_post_predict() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = match std::env::var_os("ROUNDHOUSE_TRITONCLIENT") {
        Some(named) => PathBuf::from(named),
        None => folder.join("../target/tools/tritonclient/bin/python"),
    };
    if !python.exists() {
        // `eprintln!` would print nothing, because the output of passing tests is captured.
        let reason = format!(
            "skipped: there is no {}; to install it: python3 -m venv target/tools/tritonclient && \
             target/tools/tritonclient/bin/pip install 'tritonclient[http]'",
            python.display()
        );
        writeln!(std::io::stderr(), "{reason}").expect("standard error is open");
        return;
    }
    let replica = ReplicaProcess::start(&["--capacity=2"]).await;
    let mut client = Command::new(&python);
    client.arg(folder.join("tests/program/client.py")).arg(&replica.address).kill_on_drop(true);
    let output = tokio::time::timeout(TIMEOUT, client.output()).await.expect("the client ends").expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_refused_request_gets_a_status_and_a_reason() {
    let replica = ReplicaProcess::start(&["--capacity=2", "--max-body-bytes=1000000"]).await;
    let huge: Vec<u8> = (0..3 * 224 * 224).flat_map(|_| 3e38_f32.to_le_bytes()).collect();
    let json = r#"{"inputs":[{"name":"input","datatype":"FP32","shape":[1,3,224,224],
        "parameters":{"binary_data_size":602112}}]}"#;
    let length = json.len().to_string();
    let too_large_for_the_model: Bytes = [json.as_bytes(), &huge].concat().into();
    let (get, post) = (Method::GET, Method::POST);
    let one = || Bytes::from(images(1).to_string());
    for (method, path, headers, body, status, message) in [
        (&get, "/v2/nothing", &[][..], Bytes::new(), 404, "no such path: /v2/nothing"),
        (&get, "/v2/models/x", &[], Bytes::new(), 404, "there is no model \"x\"; this replica has \"resnet18\""),
        (&post, "/v2/models/resnet18/versions/2/infer", &[], one(), 404, "no version \"2\""),
        (&post, "/v2/health/live", &[], one(), 405, "this path takes GET, HEAD only"),
        (&get, INFER, &[], Bytes::new(), 405, "this path takes POST only"),
        (&post, INFER, &[], Bytes::from_static(b"{"), 400, "the JSON is not an inference request"),
        (&post, INFER, &[("x-request-timeout-ms", "-1")], one(), 400, "x-request-timeout-ms must be"),
        (&post, INFER, &[("inference-header-content-length", "9999")], one(), 400, "is 9999, but the whole body has"),
        (&post, INFER, &[("inference-header-content-length", &length)], too_large_for_the_model, 400, "image 0: its"),
        (&post, INFER, &[("content-encoding", "gzip")], one(), 415, "Content-Encoding \"gzip\""),
        (&post, INFER, &[], images(3).to_string().into(), 413, "this replica takes 2 at once"),
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
async fn an_answer_has_the_request_id_and_the_trace_of_its_request() {
    let replica = ReplicaProcess::start(&[]).await;
    let headers =
        [("x-request-id", "mine"), ("traceparent", "00-11111111111111111111111111111111-2222222222222222-01")];
    let (status, found, answer) = replica.send(Method::POST, INFER, &headers, images(1).to_string()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    for (name, value) in headers {
        assert_eq!(found[name], value);
    }
    assert_eq!((&answer["model_name"], &answer["outputs"][0]["name"]), (&json!("resnet18"), &json!("probabilities")));
    replica.until("/metrics", |_, metrics| metrics.contains("inference_latency_seconds_count 1")).await;
}

#[tokio::test]
async fn a_request_without_enough_free_slots_is_refused_and_takes_none() {
    let replica = ReplicaProcess::start(&["--capacity=2"]).await;
    let unfinished = replica.hold_a_slot().await;
    for _ in 0..3 {
        let (status, headers, answer) = replica.infer(&images(2)).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
        assert_eq!(headers["retry-after"], "1");
        assert!(
            answer["error"].as_str().is_some_and(|error| error.contains("send the request to another replica")),
            "{answer}"
        );
        assert_eq!(replica.infer(&images(1)).await.0, StatusCode::OK);
    }
    drop(unfinished);
    replica.until("/metrics", |_, metrics| metrics.contains("inference_in_progress 0\n")).await;
    assert_eq!(replica.infer(&images(2)).await.0, StatusCode::OK);
}

/// If the replica closed the connection, a client could not know whether the replica has read its next request.
#[tokio::test]
async fn a_refused_request_keeps_its_connection() {
    let replica = ReplicaProcess::start(&["--capacity=1"]).await;
    let _unfinished = replica.hold_a_slot().await;
    let body = vec![0; 1_000_000];
    for path in ["/predict", INFER] {
        let mut kept = BufReader::new(TcpStream::connect(&replica.address).await.expect("it listens"));
        for _ in 0..2 {
            let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
            kept.write_all(head.as_bytes()).await.expect("sent");
            // After this pause, the replica has decided to refuse the request.
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
async fn a_draining_replica_is_not_ready_but_is_live_and_answers() {
    let replica = ReplicaProcess::start(&["--drain-delay=60s"]).await;
    let ready = "/v2/health/ready";
    assert_eq!(replica.get(ready).await.2, json!({"ready": true}));
    let process = replica.child.id().expect("it runs").to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &process]).status().await.expect("there is a kill").success());
    replica.until_status(ready, StatusCode::SERVICE_UNAVAILABLE).await;
    assert_eq!(replica.get(ready).await.2, json!({"ready": false}));
    let model = replica.get("/v2/models/resnet18/ready").await;
    assert_eq!((model.0, model.2), (StatusCode::SERVICE_UNAVAILABLE, json!({"name": "resnet18", "ready": false})));
    assert_eq!(replica.get("/v2/health/live").await.2, json!({"live": true}));
    assert_eq!(replica.infer(&images(1)).await.0, StatusCode::OK);
}
