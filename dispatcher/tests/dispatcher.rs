//! The dispatcher's program against replicas that misbehave on purpose: real sockets, real processes.

mod program;
mod stub;

use bytes::Bytes;
use hyper::StatusCode;
use program::{Dispatcher, Reply, code};
use std::sync::Arc;
use std::time::Duration;
use stub::{Manner, Stub};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// A request that has reached the stub, which holds it.
async fn held(dispatcher: &Arc<Dispatcher>, stub: &Stub) -> JoinHandle<Reply> {
    let client = dispatcher.clone();
    let request = tokio::spawn(async move { client.post(&[]).await });
    stub.until_calls(1).await;
    request
}

#[tokio::test]
async fn a_request_is_retried_elsewhere_and_the_bad_replica_ejected() {
    for bad in [
        Stub::start(Manner::hangs_up()).await,
        Stub::start(Manner::Status(StatusCode::INTERNAL_SERVER_ERROR)).await,
        Stub::start(Manner::Status(StatusCode::SERVICE_UNAVAILABLE)).await,
    ] {
        let good = Stub::start(Manner::Prompt).await;
        let dispatcher = Dispatcher::start_on(&stub::list(&[&bad, &good]), &[]).await;
        dispatcher.until_states(&["ready", "ready"]).await;
        // Once out, it stays out.
        bad.set_ready(false);
        for _ in 0..20 {
            let reply = dispatcher.post(&[]).await;
            assert_eq!((reply.0, &reply.2["replica"]), (200, &good.address.as_str().into()));
        }
        assert!((1..=3).contains(&bad.calls()), "{} calls of the bad one", bad.calls());
        dispatcher.until_states(&["ejected", "ready"]).await;
        bad.set_ready(true);
        dispatcher.until_states(&["ready", "ready"]).await;
    }
}

#[tokio::test]
async fn a_refusal_of_the_picture_is_final() {
    let (refusing, other) = (
        Stub::start(Manner::Status(StatusCode::BAD_REQUEST)).await,
        Stub::start(Manner::Status(StatusCode::BAD_REQUEST)).await,
    );
    let dispatcher = Dispatcher::start_on(&stub::list(&[&refusing, &other]), &[]).await;
    assert_eq!(dispatcher.post(&[]).await.0, 400);
    assert_eq!(refusing.calls() + other.calls(), 1);
}

#[tokio::test]
async fn a_body_that_brings_down_two_replicas_is_not_sent_to_a_third() {
    let stubs = [
        Stub::start(Manner::hangs_up()).await,
        Stub::start(Manner::hangs_up()).await,
        Stub::start(Manner::hangs_up()).await,
    ];
    let dispatcher = Dispatcher::start_on(&stub::list(&[&stubs[0], &stubs[1], &stubs[2]]), &[]).await;
    let reply = dispatcher.post(&[]).await;
    assert_eq!(code(&reply), (422, "poison"), "{}", reply.2);
    assert_eq!(stubs.iter().map(Stub::calls).sum::<usize>(), 2);
}

#[tokio::test]
async fn a_full_queue_refuses_and_says_when_to_return() {
    let gate = Arc::new(Semaphore::new(0));
    let stub = Stub::start(Manner::Gated(gate.clone())).await;
    let dispatcher = Arc::new(Dispatcher::start_on(&stub::list(&[&stub]), &["--queue-length=2"]).await);
    let mut held = Vec::new();
    for waiting in 0..3 {
        let client = dispatcher.clone();
        held.push(tokio::spawn(async move { client.post(&[]).await }));
        dispatcher.until_waiting(waiting).await;
        stub.until_calls(1).await;
    }
    let reply = dispatcher.post(&[]).await;
    assert_eq!(code(&reply), (503, "queue_full"));
    assert!(reply.1.is_some_and(|seconds| seconds.parse::<u64>().is_ok_and(|seconds| seconds >= 1)));
    gate.add_permits(3);
    for request in held {
        assert_eq!(request.await.expect("no panic").0, 200);
    }
}

#[tokio::test]
async fn a_deadline_that_passes_in_the_queue_is_504_and_never_dispatched() {
    let gate = Arc::new(Semaphore::new(0));
    let stub = Stub::start(Manner::Gated(gate.clone())).await;
    let dispatcher = Arc::new(Dispatcher::start_on(&stub::list(&[&stub]), &[]).await);
    let first = held(&dispatcher, &stub).await;
    let late = dispatcher.post(&[("x-request-timeout-ms", "50")]).await;
    assert_eq!(code(&late), (504, "deadline_exceeded"));
    dispatcher.until_waiting(0).await;
    gate.add_permits(1);
    assert_eq!(first.await.expect("no panic").0, 200);
    assert_eq!(stub.calls(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_place_up() {
    let gate = Arc::new(Semaphore::new(0));
    let stub = Stub::start(Manner::Gated(gate.clone())).await;
    let dispatcher = Arc::new(Dispatcher::start_on(&stub::list(&[&stub]), &[]).await);
    let first = held(&dispatcher, &stub).await;
    let mut leaver = TcpStream::connect(&dispatcher.program.address).await.expect("connected");
    leaver.write_all(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx").await.expect("sent");
    dispatcher.until_waiting(1).await;
    drop(leaver);
    dispatcher.until_waiting(0).await;
    gate.add_permits(1);
    assert_eq!(first.await.expect("no panic").0, 200);
    assert_eq!(stub.calls(), 1, "the one that left was never sent");
}

#[tokio::test]
async fn nothing_stays_in_the_queue_for_a_client_that_left() {
    let gate = Arc::new(Semaphore::new(0));
    let stub = Stub::start(Manner::HangsUp(gate.clone())).await;
    let dispatcher = Dispatcher::start_on(&stub::list(&[&stub]), &[]).await;
    // It leaves while a replica has its request; the attempt fails only then, and nobody is left to retry it for.
    let given_up = dispatcher.post(&[("x-request-timeout-ms", "5000")]);
    assert!(tokio::time::timeout(Duration::from_millis(300), given_up).await.is_err());
    assert_eq!(stub.calls(), 1);
    gate.add_permits(Semaphore::MAX_PERMITS);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(dispatcher.get("/status").await.2["queue_length"], 0);
    assert_eq!(stub.calls(), 1, "it was not sent again");
}

#[tokio::test]
async fn a_retried_request_that_waits_for_another_replica_holds_nobody_up() {
    let gate = Arc::new(Semaphore::new(0));
    let (busy, picky) = (Stub::start(Manner::Gated(gate.clone())).await, Stub::start(Manner::hangs_up()).await);
    let dispatcher = Arc::new(Dispatcher::start_on(&stub::list(&[&busy, &picky]), &[]).await);
    // Two requests: one is held by the busy replica, the other was dropped by the picky one and waits for the busy one.
    let held: Vec<_> = (0..2)
        .map(|_| {
            let client = dispatcher.clone();
            tokio::spawn(async move { client.post(&[]).await.0 })
        })
        .collect();
    picky.until_calls(1).await;
    busy.until_calls(1).await;
    // The picky one is tried again with others' requests although the first in the queue may not go there.
    let passing = dispatcher.post(&[("x-request-timeout-ms", "2000")]);
    let tried_again = async {
        picky.until_calls(2).await;
        gate.add_permits(9);
    };
    let limit = Duration::from_secs(10);
    let (passed, ()) =
        tokio::time::timeout(limit, async { tokio::join!(passing, tried_again) }).await.expect("in time");
    assert_eq!(passed.0, 200);
    for request in held {
        assert_eq!(request.await.expect("no panic"), 200);
    }
}

#[tokio::test]
async fn with_no_replica_a_request_waits_to_its_deadline() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let list = folder.path().join("replicas");
    let stub = Stub::start(Manner::Prompt).await;
    let mut dispatcher = Dispatcher::start_on(&format!("file:{}", list.display()), &[]).await;
    let held = dispatcher.post(&[("x-request-timeout-ms", "100")]).await;
    assert_eq!(code(&held), (504, "deadline_exceeded"));
    let waiting = dispatcher.post(&[]);
    let publish = async {
        dispatcher.until_waiting(1).await;
        std::fs::write(&list, &stub.address).expect("writable");
    };
    assert_eq!(tokio::join!(waiting, publish).0.0, 200);
    drop(dispatcher.program.child.stdin.take());
    assert!(dispatcher.program.child.wait().await.expect("it ends with its parent").success());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_idle_dispatcher_rests() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let list = folder.path().join("replicas");
    std::fs::write(&list, "127.0.0.1:1").expect("writable");
    let dispatcher = Dispatcher::start_on(&format!("file:{}", list.display()), &[]).await;
    let before = dispatcher.program.processor_seconds();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let used = dispatcher.program.processor_seconds() - before;
    // A loop that answers its own reading used half a core; polling once a second uses a thousandth.
    assert!(used < 0.3, "{used} s of processor time in 3 s of doing nothing");
}

#[tokio::test]
async fn bad_requests_are_refused_before_they_reach_a_replica() {
    let stub = Stub::start(Manner::Prompt).await;
    let dispatcher =
        Dispatcher::start_on(&stub::list(&[&stub]), &["--max-body-bytes=1000", "--body-timeout=200ms"]).await;
    for (headers, expected) in [
        (&[("content-type", "text/plain")][..], (415, "unsupported_media_type")),
        (&[("x-request-timeout-ms", "soon")], (400, "bad_request")),
        (&[("x-request-timeout-ms", "0")], (400, "bad_request")),
    ] {
        assert_eq!(code(&dispatcher.post(headers).await), expected, "{headers:?}");
    }
    let large = Bytes::from(vec![0; 1001]);
    assert_eq!(code(&dispatcher.post_body(&[], large).await), (413, "too_large"));
    assert_eq!(code(&dispatcher.get("/predict").await), (405, "method_not_allowed"));
    assert_eq!(code(&dispatcher.get("/nowhere").await), (404, "not_found"));
    assert_eq!(dispatcher.get("/readyz").await.0, 200);

    // Chunked, without a length that would give it away, and a body that never comes.
    for (request, expected) in [
        (
            format!(
                "POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n{}\r\n0\r\n\r\n",
                "x".repeat(1001)
            ),
            "413",
        ),
        ("POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nx".to_owned(), "408"),
        (
            "POST /predict HTTP/1.1\r\nHost: x\r\nx-request-timeout-ms: 50\r\nContent-Length: 10\r\n\r\nx".to_owned(),
            "504",
        ),
        (format!("POST /predict HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(200)), "431"),
        ("POST /predict HTTP/1.1\r\nContent-Length: x\r\n\r\n".to_owned(), "400"),
    ] {
        let mut stream = TcpStream::connect(&dispatcher.program.address).await.expect("connected");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await.expect("answered");
        assert!(line.contains(expected), "{line} instead of {expected}");
    }
    assert_eq!(stub.calls(), 0);
}
