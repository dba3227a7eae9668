//! Compares the answers of connections on which plain requests are served without hyper with the answers of hyper alone,
//! for random bytes. If they differed, a proxy in front could take one request for two.

use super::activity::Activity;
use super::connection::ConnectionHandler;
use super::limits::ConnectionLimits;
use super::meters::ConnectionMeters;
use super::plain::{Answering, PlainRequests, TakenRequest};
use super::plain_head::PlainHead;
use crate::body::BodyLimits;
use crate::memory_budget::MemoryBudget;
use crate::readiness::Readiness;
use crate::respond::{self, Reply};
use futures_util::FutureExt;
use futures_util::future::ready;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

/// Valid requests, most of which are plain.
const REQUESTS: [&str; 8] = [
    "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nimage",
    "POST /b?c=d HTTP/1.1\r\ncontent-length: 2\r\nContent-Type: image/png\r\nConnection: keep-alive\r\n\r\nxy",
    "POST /c HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    "POST /d HTTP/1.1\r\nX: y\r\nContent-Length: 31\r\n\r\nPOST /e HTTP/1.1\r\nHost: a\r\n\r\n..",
    "GET /f HTTP/1.1\r\nHost: x\r\n\r\n",
    "POST /g HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nimage\r\n0\r\n\r\n",
    "POST /h HTTP/1.1\r\nContent-Length: 3\r\nConnection: close\r\n\r\nend",
    "POST /i HTTP/1.0\r\nContent-Length: 3\r\n\r\nold",
];

/// Pieces that are put into valid requests.
const PIECES: [&str; 18] = [
    "\n",
    "\r",
    "\r\n",
    "\r\n\r\n",
    "\0",
    " ",
    ":",
    "0",
    "4",
    "+",
    ",",
    "?",
    "\u{e9}",
    "POST",
    "Content-Length: 4\r\n",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Expect: 100-continue\r\n",
];

/// The number of times that the connection may go on after the last byte. It has nothing left to do after a few.
const STEPS: usize = 60;

/// How bytes are cut into the pieces in which they arrive.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// Pieces of this many bytes.
    Every(usize),
    /// A piece ends with each head.
    AfterHeads,
}

impl Cut {
    fn pieces(self, mut bytes: &[u8]) -> Vec<&[u8]> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let length = match self {
                Self::Every(size) => size,
                Self::AfterHeads => {
                    bytes.windows(4).position(|end| end == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4)
                }
            };
            let (piece, rest) = bytes.split_at(length.min(bytes.len()));
            pieces.push(piece);
            bytes = rest;
        }
        pieces
    }
}

/// A program that repeats what it has received. It counts the requests that it got without hyper.
#[derive(Clone)]
struct Echo {
    limits: BodyLimits,
    memory_budget: MemoryBudget,
    plain: Arc<AtomicUsize>,
}

/// The answer to a request, which tells how the program sees it.
fn echo(path: &str, query: Option<&str>, content_type: Option<&[u8]>, body: &[u8]) -> Reply {
    // A long body is told by its length only, so that the answers fit into the client's buffer.
    let body = if body.len() < 100 { format!("{body:?}") } else { format!("{} bytes", body.len()) };
    respond::text("text/plain", format!("{path} {query:?} {content_type:?} {body}"))
}

impl PlainRequests for Echo {
    fn limits(&self) -> &BodyLimits {
        &self.limits
    }

    fn check(&self, head: &PlainHead<'_>, _arrived: Instant) -> Option<TakenRequest> {
        let (path, query) = (head.path.to_owned(), head.query.map(str::to_owned));
        let content_type = head.value(&CONTENT_TYPE).ok()?.map(<[u8]>::to_vec);
        let plain = self.plain.clone();
        let answer = Box::new(move |body: crate::body::Chunks, arrived: Instant| {
            plain.fetch_add(1, Ordering::Relaxed);
            let reply = echo(&path, query.as_deref(), content_type.as_deref(), &body.to_bytes());
            Answering { answer: ready(reply.into()).boxed(), deadline: arrived + Duration::from_secs(60) }
        });
        Some(TakenRequest { kept_bytes: 0, memory_budget: self.memory_budget.clone(), answer })
    }
}

async fn handle(request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return respond::text("text/plain", "malformed".into()) };
    let content_type = head.headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    echo(head.uri.path(), head.uri.query(), content_type, &body.to_bytes())
}

/// Serves the bytes in `pieces`. Returns the answers without their dates and random ids, whether the connection is open afterwards, and the number of
/// requests that were served without hyper.
async fn serve(pieces: &[&[u8]], is_plain: bool) -> (Vec<String>, bool, usize) {
    let limits = BodyLimits { max_bytes: 1 << 20, timeout: Duration::from_secs(60), readiness: Readiness::default() };
    let program = Echo { limits, memory_budget: MemoryBudget::new(1 << 20), plain: Arc::default() };
    let meters = Arc::new(ConnectionMeters::new("test"));
    let plain = is_plain.then(|| Arc::new(program.clone()) as Arc<dyn PlainRequests>);
    let handler = ConnectionHandler::new(None, ConnectionLimits::default(), plain, meters.clone());
    let activity = Arc::new(Activity::new(Instant::now(), meters));
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let (_stop, stopped) = watch::channel(false);
    let mut serving = std::pin::pin!(handler.serve_stream(server, None, activity, handle, stopped));
    let send = async {
        for piece in pieces {
            client.write_all(piece).await.ok()?;
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
        }
        for _ in 0..STEPS {
            tokio::task::yield_now().await;
        }
        Some(())
    };
    let is_open = tokio::select! {
        _ended = &mut serving => false,
        sent = send => sent.is_some(),
    };
    let mut sent = vec![0; 1 << 16];
    let count = client.read(&mut sent).now_or_never().map_or(0, |read| read.unwrap_or(0));
    let text = String::from_utf8_lossy(&sent[..count]).into_owned();
    let is_random =
        |line: &str| ["date: ", "x-request-id: ", "traceparent: "].iter().any(|name| line.starts_with(name));
    let lines = text.lines().filter(|line| !is_random(line)).map(without_request_id).collect();
    (lines, is_open, program.plain.load(Ordering::Relaxed))
}

/// A line without the random id that it may have.
fn without_request_id(line: &str) -> String {
    let name = "\"request_id\":\"";
    match line.split_once(name) {
        Some((before, after)) => format!("{before}{name}{}", after.split_once('"').map_or("", |(_, rest)| rest)),
        None => line.to_owned(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("the system has resources for a runtime")
}

/// Serves the bytes in `pieces` in both ways. Returns the number of requests that were served without hyper.
fn check(pieces: &[&[u8]]) -> Result<usize, TestCaseError> {
    let runtime = runtime();
    let (answers, is_open, taken) = runtime.block_on(serve(pieces, true));
    let (expected, is_open_with_hyper, _) = runtime.block_on(serve(pieces, false));
    let texts: Vec<_> = pieces.iter().map(|piece| String::from_utf8_lossy(piece)).collect();
    prop_assert_eq!(answers, expected, "{:?}", texts);
    prop_assert_eq!(is_open, is_open_with_hyper, "{:?}", texts);
    Ok(taken)
}

#[test]
fn plain_requests_are_served_without_hyper_until_another_one_comes() {
    for (requests, plain) in [(&REQUESTS[..4], 4), (&REQUESTS[3..6], 1), (&REQUESTS[4..5], 0)] {
        let pieces: Vec<&[u8]> = requests.iter().map(|request| request.as_bytes()).collect();
        assert_eq!(check(&pieces).expect("both ways are equal"), plain, "{requests:?}");
    }
    let first = [REQUESTS[0], REQUESTS[1]].concat();
    let pieces = Cut::AfterHeads.pieces(first.as_bytes());
    assert!(check(&pieces).expect("both ways are equal") > 0, "a body that arrives after its head");
}

#[test]
fn hyper_gets_a_request_that_is_longer_than_the_first_one_whole() {
    let text = "POST /g HTTP/1.1\r\nHost: x\r\n\r\n".repeat(9);
    let chunked =
        format!("POST /f HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
    for next in [chunked.as_str(), "GET /f HTTP/1.1\r\n\r\n", "G", ""] {
        assert_eq!(check(&[REQUESTS[0].as_bytes(), next.as_bytes()]).expect("both ways are equal"), 1, "{next:?}");
    }
}

#[test]
fn bytes_that_a_client_sends_far_ahead_go_to_hyper() {
    let long = format!("POST /a HTTP/1.1\r\nContent-Length: 20000\r\n\r\n{}", "x".repeat(20_000));
    let ahead = REQUESTS[2].repeat(200);
    let pieces = [long.as_bytes(), ahead.as_bytes()];
    let (answers, _, plain) = runtime().block_on(serve(&pieces, true));
    assert_eq!(plain, 1, "the first of the many requests is not copied once for each of the others");
    assert!(answers.len() > 200, "{answers:?}");
}

#[test]
fn bodies_of_changing_length_are_served_without_hyper() {
    let lengths = [200, 38_000, 38_000, 100_000, 30_000, 200, 9_000, 160_000, 0];
    let requests = lengths.map(|length| {
        let head = format!("POST /{length} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
        [head.into_bytes(), vec![b'x'; length]].concat()
    });
    let pieces: Vec<&[u8]> = requests.iter().map(Vec::as_slice).collect();
    assert_eq!(check(&pieces).expect("both ways are equal"), lengths.len());
    // A piece ends in the middle of each body.
    let halves: Vec<&[u8]> =
        pieces.iter().flat_map(|piece| [&piece[..piece.len() / 2], &piece[piece.len() / 2..]]).collect();
    check(&halves).expect("both ways are equal");
    let long = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{}", 250 << 10, "x".repeat(250 << 10));
    assert_eq!(check(&[pieces[0], long.as_bytes(), pieces[0]]).expect("both ways are equal"), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_answers_are_those_of_hyper(
        requests in prop::collection::vec(select(&REQUESTS[..]), 1..5),
        changes in prop::collection::vec((any::<Index>(), 0..3_usize, select(&PIECES[..])), 0..3),
        cut in select(&[Cut::Every(1), Cut::Every(16), Cut::Every(100), Cut::Every(1000), Cut::AfterHeads][..]),
    ) {
        let mut bytes = requests.concat().into_bytes();
        for (place, removed, piece) in &changes {
            let at = place.index(bytes.len() + 1);
            let end = (at + removed).min(bytes.len());
            bytes.splice(at..end, piece.bytes());
        }
        // Otherwise hyper would wait for the end of some malformed heads, depending on the pieces in which it reads.
        bytes.extend_from_slice(REQUESTS[4].as_bytes());
        check(&cut.pieces(&bytes))?;
    }
}
