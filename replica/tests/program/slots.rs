//! Tests of what answers tell about slots, and of refusals for lack of slots.

use crate::replica::{ReplicaProcess, TIMEOUT};
use hyper::{HeaderMap, Method};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Less than the 2 s for which a replica reads the body of a refused request.
const AT_ONCE: Duration = Duration::from_millis(1500);

fn picture() -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/grey.jpg")).expect("the picture is there")
}

/// The number in the header `name`; `None` without the header.
fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    let text = headers.get(name)?.to_str().expect("the header is ASCII");
    Some(text.parse().expect("the header is a whole number"))
}

/// Reads from `connection` until `end` has arrived. Returns all that has arrived.
async fn read_until(connection: &mut TcpStream, end: &str) -> String {
    let mut received = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&received).contains(end) {
            let read = connection.read_buf(&mut received).await.expect("readable");
            assert!(read > 0, "the connection has ended: {}", String::from_utf8_lossy(&received));
        }
    };
    let in_time = tokio::time::timeout(TIMEOUT, reading).await.is_ok();
    let text = String::from_utf8_lossy(&received).into_owned();
    assert!(in_time, "no {end:?} in {text:?}");
    text
}

#[tokio::test]
async fn an_answer_tells_how_many_slots_the_other_requests_take() {
    let replica = ReplicaProcess::start(&["--workers=1", "--capacity=2"]).await;
    let infer = "/v2/models/resnet18/infer";
    let all = [("/predict", picture()), ("/predict", b"no picture".to_vec()), (infer, b"{".to_vec())];
    for (path, body) in all.clone() {
        let (status, headers, _) = replica.send(Method::POST, path, &[], body).await;
        assert_eq!(number(&headers, "x-replica-slots-taken"), Some(0), "{path} {status}");
        assert_eq!(number(&headers, "x-replica-retry-ms"), None, "{path} {status}");
    }
    let _first = replica.hold_a_slot().await;
    for (path, body) in all {
        let (status, headers, _) = replica.send(Method::POST, path, &[], body).await;
        assert_eq!(number(&headers, "x-replica-slots-taken"), Some(1), "{path} {status}");
    }
}

#[tokio::test]
async fn busy_tells_when_to_come_back_as_soon_as_the_replica_knows_it() {
    let replica = ReplicaProcess::start(&["--workers=1", "--capacity=1"]).await;
    for knows in [false, true] {
        let unfinished = replica.hold_a_slot().await;
        let (status, headers, answer) = replica.send(Method::POST, "/predict", &[], picture()).await;
        assert_eq!((status.as_u16(), &answer["code"]), (503, &"busy".into()), "{answer}");
        assert_eq!(number(&headers, "x-replica-slots-taken"), Some(1));
        assert_eq!(number(&headers, "x-replica-retry-ms").is_some_and(|ms| ms > 0), knows, "{headers:?}");
        drop(unfinished);
        replica.until("/metrics", |_, metrics| metrics.contains("inference_in_progress 0\n")).await;
        let (status, _, answer) = replica.send(Method::POST, "/predict", &[], picture()).await;
        assert_eq!(status.as_u16(), 200, "{answer}");
    }
}

#[tokio::test]
async fn busy_comes_before_the_body_and_the_connection_stays_open() {
    let replica = ReplicaProcess::start(&["--workers=1", "--capacity=1"]).await;
    for path in ["/predict", "/v2/models/resnet18/infer"] {
        let unfinished = replica.hold_a_slot().await;
        let mut connection = TcpStream::connect(&replica.address).await.expect("the replica listens");
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n");
        let sent = Instant::now();
        connection.write_all(head.as_bytes()).await.expect("sent");
        let answer = read_until(&mut connection, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{path}: {answer}");
        assert!(sent.elapsed() < AT_ONCE, "{path}: the answer waited for the body: {:?}", sent.elapsed());
        // The rest of the answer comes, too. Then the body of the refused request, and another request.
        drop(unfinished);
        connection.write_all(&vec![b'x'; 300_000]).await.expect("sent");
        connection.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
        read_until(&mut connection, "HTTP/1.1 200 ").await;
    }
}

#[tokio::test]
async fn busy_asks_for_no_body() {
    let replica = ReplicaProcess::start(&["--workers=1", "--capacity=1"]).await;
    let _unfinished = replica.hold_a_slot().await;
    let mut connection = TcpStream::connect(&replica.address).await.expect("the replica listens");
    let head = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n";
    connection.write_all(head.as_bytes()).await.expect("sent");
    let answer = read_until(&mut connection, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[tokio::test]
async fn a_client_that_is_still_sending_a_long_body_gets_the_answer_busy() {
    let replica = ReplicaProcess::start(&["--workers=1", "--capacity=1"]).await;
    let _unfinished = replica.hold_a_slot().await;
    for _ in 0..20 {
        let (status, _, answer) = replica.send(Method::POST, "/predict", &[], vec![b'x'; 8 << 20]).await;
        assert_eq!((status.as_u16(), &answer["code"]), (503, &"busy".into()), "{answer}");
    }
}
