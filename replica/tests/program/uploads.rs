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
