//! Tests of what answers tell about slots, and of refusals for lack of slots.

use crate::replica::{ReplicaProcess, TIMEOUT};
use hyper::{HeaderMap, Method};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Command;

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

/// Opens the channel of the dispatcher `name`. Returns the reader of its lines and the writer.
async fn open_channel(replica: &ReplicaProcess, name: &str) -> (Lines<BufReader<OwnedReadHalf>>, OwnedWriteHalf) {
    let mut stream = TcpStream::connect(&replica.address).await.expect("the replica listens");
    let head = format!(
        "GET /slots HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: roundhouse-slots/1\r\n\
         x-dispatcher-id: {name}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let answer = read_until(&mut stream, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let (reader, writer) = stream.into_split();
    (BufReader::new(reader).lines(), writer)
}

async fn next_line(lines: &mut Lines<BufReader<OwnedReadHalf>>) -> Option<String> {
    tokio::time::timeout(TIMEOUT, lines.next_line()).await.expect("a line in time").unwrap_or_default()
}

/// A claim of one slot whose request has waited for `waited` microseconds.
fn ask(waited: u32) -> Vec<u8> {
    let claim = format!(r#""slots":1,"waiting":1,"waited_us":{waited},"late_after_us":400000"#);
    format!("{{\"ask\":{{{claim}}}}}\n").into_bytes()
}

#[tokio::test]
async fn a_slot_that_becomes_free_goes_to_the_claim_that_has_waited_longest() {
    let replica = ReplicaProcess::start(&["--workers=1", "--capacity=1"]).await;
    let held = replica.hold_a_slot().await;
    let (mut first, mut first_writer) = open_channel(&replica, "a1").await;
    let (mut second, mut second_writer) = open_channel(&replica, "b2").await;
    first_writer.write_all(&ask(1000)).await.expect("sent");
    assert_eq!(next_line(&mut first).await.as_deref(), Some(r#"{"others":1,"event":"queued"}"#));
    second_writer.write_all(&ask(900_000)).await.expect("sent");
    assert_eq!(next_line(&mut second).await.as_deref(), Some(r#"{"others":1,"claimed":true,"event":"queued"}"#));
    drop(held);
    // The claim of the second dispatcher is for a late request, so it comes after the punctual one of the first.
    assert_eq!(next_line(&mut first).await.as_deref(), Some(r#"{"others":0,"claimed":true,"event":"freed"}"#));
    let (status, headers, _) = replica.send(Method::POST, "/predict", &[("x-dispatcher-id", "c3")], picture()).await;
    assert_eq!(status.as_u16(), 503, "the slot is kept");
    assert_eq!(number(&headers, "x-replica-slots-of-others"), Some(1));
    assert_eq!(number(&headers, "x-replica-slots-claimed"), Some(1));
    let own = [("x-dispatcher-id", "a1"), ("x-slot-granted", "1")];
    let (status, headers, answer) = replica.send(Method::POST, "/predict", &own, picture()).await;
    assert_eq!(status.as_u16(), 200, "{answer}");
    assert_eq!(number(&headers, "x-replica-slots-of-others"), Some(1), "the next claim has got the slot by now");
    assert_eq!(next_line(&mut second).await.as_deref(), Some(r#"{"others":0,"event":"freed"}"#));
    // A dispatcher that does not use its slot loses it.
    assert_eq!(next_line(&mut second).await.as_deref(), Some(r#"{"others":0,"event":"forgotten"}"#));
    let (status, _, _) = replica.send(Method::POST, "/predict", &[], picture()).await;
    assert_eq!(status.as_u16(), 200);
}

#[tokio::test]
async fn a_channel_ends_with_its_dispatcher_or_with_a_replica_that_stops() {
    let mut replica = ReplicaProcess::start(&["--workers=1", "--capacity=1", "--drain-delay=0s"]).await;
    let (mut first, mut first_writer) = open_channel(&replica, "a1").await;
    first_writer.write_all(&ask(1000)).await.expect("sent");
    assert_eq!(next_line(&mut first).await.as_deref(), Some(r#"{"others":0,"event":"granted"}"#));
    drop((first, first_writer));
    let (mut second, mut second_writer) = open_channel(&replica, "b2").await;
    second_writer.write_all(b"{\"backlog\":{\"punctual\":4,\"late\":1}}\n").await.expect("sent");
    let told = next_line(&mut second).await;
    assert_eq!(told.as_deref(), Some(r#"{"others":0,"event":{"backlog":{"punctual":0,"late":0}}}"#));
    for line in [&b"{\"ask\":{\"slots\":-1}}\n"[..], &[b'x'; 4096], b"\n"] {
        let (mut bad, mut bad_writer) = open_channel(&replica, "d4").await;
        bad_writer.write_all(line).await.expect("sent");
        assert_eq!(next_line(&mut bad).await, None, "a malformed line ends the channel");
    }
    let stopping = Instant::now();
    let process = replica.child.id().expect("it runs").to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &process]).status().await.expect("there is a kill").success());
    assert_eq!(next_line(&mut second).await, None);
    let status = tokio::time::timeout(TIMEOUT, replica.child.wait()).await.expect("it ends in time");
    assert!(status.expect("its status").success() && stopping.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_request_for_a_channel_must_name_the_protocol_and_the_dispatcher() {
    let replica = ReplicaProcess::start(&["--workers=1", "--capacity=1"]).await;
    let upgrade = [("connection", "upgrade"), ("upgrade", "roundhouse-slots/1")];
    for headers in
        [&[][..], &upgrade, &[("x-dispatcher-id", "a1")], &[upgrade[0], upgrade[1], ("x-dispatcher-id", "?")]]
    {
        let (status, _, answer) = replica.send(Method::GET, "/slots", headers, "").await;
        assert_eq!((status.as_u16(), &answer["code"]), (400, &"bad_request".into()), "{headers:?} {answer}");
    }
}
