//! Compares the framing of requests that the server follows with the one that hyper finds, for random bytes. If they
//! differed, a client could hide a second request from the server's limits.

use super::activity::Activity;
use super::limits::ConnectionLimits;
use super::meters::ConnectionMeters;
use super::stream::{GuardedStream, Resettable};
use crate::memory_budget::MemoryBudget;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::io::{AsyncWriteExt, DuplexStream};

/// Valid requests.
const REQUESTS: [&str; 6] = [
    "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nimage",
    "\r\nPOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nimage\r\n0\r\n\r\n",
    "POST / HTTP/1.1\nTransfer-Encoding: chunked\n\na;b=c\r\n0123456789\r\n00\r\nX: y\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\nContent-Length: 7\r\n\r\n",
    "POST / HTTP/1.1\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n",
];

/// Pieces that are put into valid requests.
const PIECES: [&str; 14] = [
    "\n",
    "\n",
    "\n",
    "\r",
    "\r\n",
    "\r\n\r\n",
    "\0",
    " ",
    ":",
    ";",
    "0",
    "4",
    "Content-Length: 9\r\n",
    "Transfer-Encoding: chunked\r\n",
];

/// The number of times that the connection may go on after the last byte. It has nothing left to do after a few.
const STEPS: usize = 100;

/// A change of valid requests: the bytes from a place on, of this number, are replaced by a piece.
type Change = (Index, usize, &'static str);

impl Resettable for DuplexStream {
    fn reset_when_closed(&self) {}
}

/// The bytes of some requests after `changes`, and of one more request.
fn changed(requests: &[&str], changes: &[Change]) -> Vec<u8> {
    let mut bytes = requests.concat().into_bytes();
    for (place, removed, piece) in changes {
        let at = place.index(bytes.len() + 1);
        let end = (at + removed).min(bytes.len());
        bytes.splice(at..end, piece.bytes());
    }
    // Otherwise a difference in the last request would show nothing.
    bytes.extend_from_slice(REQUESTS[0].as_bytes());
    bytes
}

/// Serves `bytes`, which arrive in pieces of `size`. If the connection is open afterwards, returns the number of requests
/// that hyper and the server have found, and whether each expects more of a body.
async fn serve(bytes: &[u8], size: usize) -> Option<[(usize, bool); 2]> {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let activity = Arc::new(Activity::new(Instant::now(), Arc::new(ConnectionMeters::new("test"))));
    let limits = ConnectionLimits { max_chunk_bytes: 0xffff, ..ConnectionLimits::default() };
    let stream = GuardedStream::new(server, activity.clone(), MemoryBudget::new(1 << 20), &limits);
    let (found, reading) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let service = service_fn(async |request: Request<Incoming>| {
        found.fetch_add(1, Ordering::Relaxed);
        activity.begin_request(true);
        reading.store(1, Ordering::Relaxed);
        let _whole_or_malformed = request.into_body().collect().await;
        reading.store(0, Ordering::Relaxed);
        activity.end_request(true, Instant::now());
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let mut connection =
        http1::Builder::new().header_read_timeout(None).serve_connection(TokioIo::new(stream), service);
    let send = async {
        for piece in bytes.chunks(size) {
            client.write_all(piece).await.ok()?;
            tokio::task::yield_now().await;
        }
        for _ in 0..STEPS {
            tokio::task::yield_now().await;
        }
        Some(())
    };
    let is_open = tokio::select! {
        _ended = &mut connection => false,
        sent = send => sent.is_some(),
    };
    let hyper = (found.load(Ordering::Relaxed), reading.load(Ordering::Relaxed) > 0);
    let stream = connection.into_parts().io.into_inner();
    // A connection that throws away the rest has ended.
    (is_open && !activity.is_lingering()).then(|| [hyper, (stream.heads(), activity.is_mid_body())])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_server_finds_the_requests_that_hyper_finds_or_the_connection_ends(
        requests in prop::collection::vec(select(&REQUESTS[..]), 1..4),
        changes in prop::collection::vec((any::<Index>(), 0..3_usize, select(&PIECES[..])), 0..4),
        size in select(&[1, 3, 16, 1000][..]),
    ) {
        let bytes = changed(&requests, &changes);
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let found = runtime.expect("the system has resources for a runtime").block_on(serve(&bytes, size));
        if let Some([hyper, server]) = found {
            prop_assert_eq!(hyper, server, "{:?}", String::from_utf8_lossy(&bytes));
        }
        prop_assert!(!changes.is_empty() || found.is_some(), "valid requests keep the connection open");
    }
}
