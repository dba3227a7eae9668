//! Compares our client with hyper's. Both get the same bytes from a real server, and must come to the same conclusion.
//! Where ours is stricter, the answer must have one of the properties that it refuses.

use super::ReplicaAnswer;
use super::answer::{Answer, MAX_BODY_BYTES};
use super::classify::classify;
use super::connection::{ExchangeError, ReplicaConnection};
use super::headers::{AnswerHeaders, BodyKind};
use crate::failure::AttemptFailure;
use crate::request::Endpoint;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult};
use service::wire::PredictQuery;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The request, so long that it does not fit into one packet.
const BODY: &[u8] = &[7; 100_000];

/// The conclusion about an exchange: the status and the body, or the failure.
type Conclusion = Result<(StatusCode, Bytes), AttemptFailure>;

fn conclusion(answer: Result<ReplicaAnswer, AttemptFailure>) -> Conclusion {
    answer.map(|answer| (answer.status, answer.body))
}

/// The conclusion of our client.
async fn ours(address: &str) -> Conclusion {
    let mut connection = ReplicaConnection::open(address).await.expect("the server listens");
    let head = format!("POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", BODY.len());
    match connection.exchange(head.as_bytes(), &[Bytes::from_static(BODY)], MAX_BODY_BYTES, Instant::now()).await {
        Ok(answer) => conclusion(classify(answer, &Endpoint::Predict(PredictQuery::default()))),
        Err(ExchangeError::Malformed(_)) => Err(AttemptFailure::Invalid),
        Err(ExchangeError::Ended { .. }) => Err(AttemptFailure::Died),
    }
}

/// The conclusion of hyper's client.
async fn hypers(address: &str) -> Conclusion {
    let stream = TcpStream::connect(address).await.expect("the server listens");
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await.expect("infallible for HTTP/1.1");
    tokio::spawn(driver);
    let request = Request::post("/predict").body(Full::new(Bytes::from_static(BODY))).expect("the request is valid");
    let failure = |error: hyper::Error| if error.is_parse() { AttemptFailure::Invalid } else { AttemptFailure::Died };
    let response = match sender.send_request(request).await {
        Ok(response) => response,
        Err(error) => return Err(failure(error)),
    };
    let (parts, body) = response.into_parts();
    let mut kinds = parts.headers.get_all(CONTENT_TYPE).iter();
    let is_json = kinds.next().is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    let kind = if is_json && kinds.next().is_none() { BodyKind::Json } else { BodyKind::Other };
    let headers = AnswerHeaders { kind, ..AnswerHeaders::default() };
    match body.collect().await {
        Ok(body) => conclusion(classify(
            Answer { status: parts.status, headers, body: body.to_bytes(), allows_reuse: false },
            &Endpoint::Predict(PredictQuery::default()),
        )),
        Err(error) => Err(failure(error)),
    }
}

/// Whether our client may refuse `answer`, although hyper may accept it.
fn is_odd(answer: &str) -> bool {
    let answer = answer.to_ascii_lowercase();
    answer.contains("\ntransfer-encoding:")
        || answer.contains("\ncontent-encoding:")
        || answer.matches("\ncontent-length:").count() != 1
        || answer.starts_with("http/1.1 1")
}

/// Serves `answer` to every connection, once the whole request has arrived, and then closes the connection.
async fn serve(listener: TcpListener, answer: Vec<u8>) {
    while let Ok((mut stream, _peer)) = listener.accept().await {
        let answer = answer.clone();
        tokio::spawn(async move {
            let mut received = Vec::new();
            while !received.ends_with(&BODY[..1000]) || received.len() < BODY.len() {
                if stream.read_buf(&mut received).await.expect("the client is there") == 0 {
                    return;
                }
            }
            // The client may have left, because the first bytes were enough for its conclusion.
            let _left = stream.write_all(&answer).await;
        });
    }
}

async fn compare(answer: Vec<u8>) -> TestCaseResult {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let address = listener.local_addr().expect("the socket is bound").to_string();
    let server = tokio::spawn(serve(listener, answer.clone()));
    let both = async { (ours(&address).await, hypers(&address).await) };
    let (ours, hypers) =
        tokio::time::timeout(Duration::from_secs(20), both).await.expect("the server closes each connection");
    server.abort();
    let text = String::from_utf8_lossy(&answer);
    if ours == Err(AttemptFailure::Invalid) && is_odd(&text) {
        return Ok(());
    }
    prop_assert_eq!(ours, hypers, "{:?}", text);
    Ok(())
}

fn status_line() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "HTTP/1.1 200 OK",
        "HTTP/1.1 200 OK",
        "HTTP/1.1 200 OK",
        "HTTP/1.0 200 OK",
        "HTTP/1.1 200",
        "HTTP/1.1 302 Found",
        "HTTP/1.1 413 Content Too Large",
        "HTTP/1.1 500 Internal Server Error",
        "HTTP/1.1 503 Service Unavailable",
        "HTTP/1.1 504 Gateway Timeout",
        "HTTP/1.1 999 Odd",
        "HTTP/1.1 100 Continue",
        "HTTP/1.1 20 Short",
        "HTTP/1.2 200 OK",
        "http/1.1 200 OK",
        "garbage",
    ])
}

fn header() -> impl Strategy<Value = String> {
    let fixed = prop::sample::select(vec![
        "Connection: close",
        "Connection: keep-alive",
        "Server: stub/1.0",
        "X-Replica-Capacity: 4",
        "X-Replica-Work-Us: 1.5",
        "Content-Encoding: gzip",
        "Transfer-Encoding: chunked",
        "Content-Type: text/html",
        "Content-Length: +2",
        "Content-Length: two",
        "x-empty:",
        "bad header: x",
        ": nameless",
        "no-colon",
        " folded: x",
        "x: \u{7f}",
    ]);
    prop_oneof![6 => fixed.prop_map(str::to_owned), 1 => "[a-z\\-]{1,12}: [ -~]{0,40}"]
}

/// The bytes of an answer: valid, odd or broken off.
fn answer() -> impl Strategy<Value = Vec<u8>> {
    let body = prop::sample::select(vec![
        r#"{"success":true}"#.to_owned(),
        r#"{"success":false,"code":"busy","error":"","request_id":""}"#.to_owned(),
        format!(r#"{{"success":"{}"}}"#, "x".repeat(30_000)),
        "<html>".to_owned(),
        String::new(),
    ]);
    let is_whole = prop::bool::weighted(0.7);
    let has_usual = prop::bool::weighted(0.8);
    let broken = prop::option::weighted(0.2, any::<prop::sample::Index>());
    (status_line(), prop::collection::vec(header(), 0..3), body, is_whole, has_usual, broken).prop_map(
        |(status, odd, body, is_exact, has_usual, broken)| {
            let length = if is_exact { body.len() } else { body.len() + 1 };
            let mut lines = vec![status.to_owned()];
            if has_usual {
                lines.push("Content-Type: application/json".to_owned());
                lines.push(format!("Content-Length: {length}"));
            }
            lines.extend(odd);
            let mut bytes = format!("{}\r\n\r\n{body}", lines.join("\r\n")).into_bytes();
            if let Some(end) = broken {
                bytes.truncate(end.index(bytes.len()));
            }
            bytes
        },
    )
}

proptest! {
    #![proptest_config(Config { cases: 300, max_shrink_iters: 200, failure_persistence: None, ..Config::default() })]

    #[test]
    fn our_client_and_hypers_come_to_the_same_conclusion(answer in answer()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("the system has resources for a runtime").block_on(compare(answer))?;
    }
}
