//! Tests of the header that tells how long the replica worked for an answer.

use crate::replica::ReplicaProcess;
use hyper::{HeaderMap, Method, StatusCode};
use std::path::Path;
use std::time::{Duration, Instant};

/// The work in the headers of an answer; `None` without the header.
fn work(headers: &HeaderMap) -> Option<Duration> {
    time(headers, "x-replica-work-us")
}

/// The time in the header `name`, in microseconds; `None` without the header.
fn time(headers: &HeaderMap, name: &str) -> Option<Duration> {
    let text = headers.get(name)?.to_str().expect("the header is ASCII");
    Some(Duration::from_micros(text.parse().expect("the header is a whole number")))
}

fn picture() -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/grey.jpg")).expect("the picture is there")
}

/// Sends one request after the other. Returns the sums of the reported works and of the times from request to answer.
async fn send_in_turn(replica: &ReplicaProcess) -> (Duration, Duration) {
    let (mut worked, mut waited) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..12 {
        let sent = Instant::now();
        let (status, headers, answer) = replica.send(Method::POST, "/predict", &[], picture()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let (work, time) = (work(&headers).expect("the answer tells the work"), sent.elapsed());
        assert!(work <= time, "{work:?} of work within {time:?}");
        worked += work;
        waited += time;
    }
    (worked, waited)
}

#[tokio::test]
async fn the_work_for_two_clients_adds_up_to_the_time_for_which_the_replica_is_busy() {
    let replica = ReplicaProcess::start(&["--workers=1", "--capacity=2"]).await;
    let began = Instant::now();
    let ((first, first_waited), (second, second_waited)) = tokio::join!(send_in_turn(&replica), send_in_turn(&replica));
    let (worked, busy) = (first + second, began.elapsed());
    assert!(worked <= busy, "{worked:?} of work within {busy:?}");
    // The replica is idle only while neither client has a request there.
    assert!(worked > busy / 2, "{worked:?} of work within {busy:?}");
    let waited = first_waited + second_waited;
    assert!(waited > busy, "the test shows nothing, since the clients waited for each other: {waited:?} in {busy:?}");
}

#[tokio::test]
async fn an_answer_tells_the_work_if_the_replica_did_any() {
    let replica = ReplicaProcess::start(&["--workers=1", "--capacity=1"]).await;
    let infer = "/v2/models/resnet18/infer";
    for (path, headers, body, status, told) in [
        ("/predict", &[][..], picture(), 200, true),
        ("/predict", &[], b"no picture".to_vec(), 400, true),
        ("/predict", &[("content-type", "application/json")], b"{".to_vec(), 400, true),
        (infer, &[], b"{".to_vec(), 400, true),
        ("/predict", &[("content-type", "text/plain")], picture(), 415, false),
        ("/predict", &[("x-request-timeout-ms", "soon")], picture(), 400, false),
        (infer, &[("content-encoding", "gzip")], b"{".to_vec(), 415, false),
        ("/nowhere", &[], picture(), 404, false),
    ] {
        let (found, reply, answer) = replica.send(Method::POST, path, headers, body).await;
        assert_eq!((found.as_u16(), work(&reply).is_some()), (status, told), "{path} {headers:?}: {answer}");
    }
    assert_eq!(work(&replica.get("/readyz").await.1), None);
    let unfinished = replica.hold_a_slot().await;
    let (status, headers, _) = replica.send(Method::POST, "/predict", &[], picture()).await;
    assert_eq!((status, work(&headers)), (StatusCode::SERVICE_UNAVAILABLE, None));
    drop(unfinished);
}

#[tokio::test]
async fn an_answer_tells_what_a_request_costs_in_full_batches() {
    for (flags, told) in
        [(&["--workers=1", "--max-batch=4"][..], true), (&["--workers=2"], true), (&["--workers=1"], false)]
    {
        let replica = ReplicaProcess::start(flags).await;
        let (status, headers, answer) = replica.send(Method::POST, "/predict", &[], picture()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let full = time(&headers, "x-replica-full-work-us");
        assert_eq!(full.is_some_and(|full| !full.is_zero()), told, "{flags:?}: {full:?}");
    }
}
