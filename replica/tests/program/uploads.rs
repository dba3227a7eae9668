//! Tests of clients that send their bodies slowly to a replica.

use crate::replica::{ReplicaProcess, TIMEOUT};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends the head of a request, and after `pause` its body. Returns the answer.
async fn upload(replica: &ReplicaProcess, headers: &str, pause: Duration) -> String {
    let mut stream = TcpStream::connect(&replica.address).await.expect("the replica listens");
    let head = format!("POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: 5\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("the connection is open");
    let mut answer = String::new();
    let read = async {
        tokio::select! {
            read = stream.read_to_string(&mut answer) => return read,
            () = tokio::time::sleep(pause) => {}
        }
        stream.write_all(b"image").await?;
        stream.read_to_string(&mut answer).await
    };
    tokio::time::timeout(TIMEOUT, read).await.expect("the replica answers").expect("the connection is not reset");
    answer
}

#[tokio::test]
async fn a_slow_body_has_a_limit_of_its_own() {
    let replica = ReplicaProcess::start(&["--deadline=1s", "--body-timeout=3s", "--capacity=4"]).await;
    let answers = tokio::join!(
        upload(&replica, "", Duration::from_millis(1500)),
        upload(&replica, "", Duration::from_secs(10)),
        upload(&replica, "x-request-timeout-ms: 500\r\n", Duration::from_secs(10)),
    );
    // The bytes are no image, so the body of the first request has arrived whole after its deadline.
    for (answer, words) in [
        (answers.0, ["HTTP/1.1 400", "bad_image"]),
        (answers.1, ["HTTP/1.1 408", "slow_body"]),
        // A dispatcher sends this header, and the body at once.
        (answers.2, ["HTTP/1.1 504", "deadline_exceeded"]),
    ] {
        assert!(words.iter().all(|word| answer.contains(word)), "{words:?}: {answer}");
    }
}

#[tokio::test]
async fn a_client_that_reads_only_after_it_has_sent_all_receives_the_refusal() {
    let replica = ReplicaProcess::start(&[]).await;
    for (line, length, status) in [
        ("POST /nowhere", 900_000, "404"),
        ("PUT /predict", 900_000, "405"),
        ("POST /metrics", 900_000, "405"),
        ("GET /livez", 900_000, "200"),
        ("POST /nowhere", 5_000_000, "404"),
    ] {
        let mut stream = TcpStream::connect(&replica.address).await.expect("the replica listens");
        let request = format!("{line} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length));
        stream.write_all(request.as_bytes()).await.unwrap_or_else(|error| panic!("{line}: {error}"));
        if length <= 1 << 20 {
            // The connection can be used again.
            let last = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            stream.write_all(last).await.unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        let mut answer = String::new();
        let read =
            tokio::time::timeout(TIMEOUT, stream.read_to_string(&mut answer)).await.expect("the replica answers");
        read.unwrap_or_else(|error| panic!("{line}: {error}"));
        let expected = if length <= 1 << 20 { 2 } else { 1 };
        assert_eq!(answer.matches("HTTP/1.1 ").count(), expected, "{line}: {answer}");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{line}: {answer}");
        assert!(answer.to_ascii_lowercase().contains("connection: close"), "{line}: {answer}");
    }
}
