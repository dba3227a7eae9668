//! Tests of the dispatcher's program with stub replicas: retries, ejection, the queue, deadlines and refused requests.

use crate::process::{DispatcherReply, RunningDispatcher};
use crate::stub::{self, StubBehavior, StubReplica};
use bytes::Bytes;
use dispatcher::metrics::ALL;
use dispatcher::outcome::Verdict;
use hyper::StatusCode;
use service::server::CONNECTION_METRICS;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Flags that give each request much time, so that no request is refused on a slow machine.
const LONG_TIMES: [&str; 2] = ["--objective=30s", "--deadline=60s"];

/// Sends a request, and waits until the stub has received it. The stub holds the request.
async fn held_request(dispatcher: &Arc<RunningDispatcher>, stub: &StubReplica) -> JoinHandle<DispatcherReply> {
    let client = dispatcher.clone();
    let request = tokio::spawn(async move { client.post(&[]).await });
    stub.until_calls(1).await;
    request
}

#[tokio::test]
async fn a_failed_request_is_retried_elsewhere_and_the_replica_is_ejected() {
    for bad in [
        StubReplica::start(StubBehavior::closes()).await,
        StubReplica::start(StubBehavior::Status(StatusCode::INTERNAL_SERVER_ERROR)).await,
        StubReplica::start(StubBehavior::Status(StatusCode::SERVICE_UNAVAILABLE)).await,
    ] {
        let good = StubReplica::start(StubBehavior::Prompt).await;
        let dispatcher = RunningDispatcher::start(&stub::static_list(&[&bad, &good]), &[]).await;
        dispatcher.until_states(&["ready", "ready"]).await;
        // The replica fails its probes, so it stays ejected.
        bad.set_ready(false);
        for _ in 0..20 {
            let reply = dispatcher.post(&[]).await;
            assert_eq!((reply.status, &reply.json["replica"]), (200, &good.address.as_str().into()));
        }
        assert!((1..=3).contains(&bad.calls()), "{} calls of the bad replica", bad.calls());
        dispatcher.until_states(&["ejected", "ready"]).await;
        bad.set_ready(true);
        dispatcher.until_states(&["ready", "ready"]).await;
    }
}

#[tokio::test]
async fn a_request_that_a_replica_refuses_is_not_retried() {
    let (refusing, other) = (
        StubReplica::start(StubBehavior::Status(StatusCode::BAD_REQUEST)).await,
        StubReplica::start(StubBehavior::Status(StatusCode::BAD_REQUEST)).await,
    );
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&refusing, &other]), &[]).await;
    assert_eq!(dispatcher.post(&[]).await.status, 400);
    assert_eq!(refusing.calls() + other.calls(), 1);
}

#[tokio::test]
async fn a_body_that_kills_two_replicas_is_not_sent_to_a_third() {
    let stubs = [
        StubReplica::start(StubBehavior::closes()).await,
        StubReplica::start(StubBehavior::closes()).await,
        StubReplica::start(StubBehavior::closes()).await,
    ];
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stubs[0], &stubs[1], &stubs[2]]), &[]).await;
    let reply = dispatcher.post(&[]).await;
    assert_eq!(reply.status_and_code(), (422, "poison"), "{}", reply.json);
    assert_eq!(stubs.iter().map(StubReplica::calls).sum::<usize>(), 2);
}

#[tokio::test]
async fn a_full_queue_refuses_with_retry_after() {
    let gate = Arc::new(Semaphore::new(0));
    let stub = StubReplica::start(StubBehavior::Gated(gate.clone())).await;
    let dispatcher = Arc::new(RunningDispatcher::start(&stub::static_list(&[&stub]), &["--queue-length=2"]).await);
    let mut held = Vec::new();
    for waiting in 0..3 {
        let client = dispatcher.clone();
        held.push(tokio::spawn(async move { client.post(&[]).await }));
        dispatcher.until_waiting(waiting).await;
        stub.until_calls(1).await;
    }
    let reply = dispatcher.post(&[]).await;
    assert_eq!(reply.status_and_code(), (503, "queue_full"));
    assert!(reply.has_retry_after(), "{reply:?}");
    gate.add_permits(3);
    for request in held {
        assert_eq!(request.await.expect("the task does not panic").status, 200);
    }
}

#[tokio::test]
async fn a_request_that_expires_in_the_queue_gets_504_and_is_never_dispatched() {
    let gate = Arc::new(Semaphore::new(0));
    let stub = StubReplica::start(StubBehavior::Gated(gate.clone())).await;
    let dispatcher = Arc::new(RunningDispatcher::start(&stub::static_list(&[&stub]), &[]).await);
    let first = held_request(&dispatcher, &stub).await;
    let late = dispatcher.post(&[("x-request-timeout-ms", "50")]).await;
    assert_eq!(late.status_and_code(), (504, "deadline_exceeded"));
    dispatcher.until_waiting(0).await;
    gate.add_permits(1);
    assert_eq!(first.await.expect("the task does not panic").status, 200);
    assert_eq!(stub.calls(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_place_in_the_queue() {
    let gate = Arc::new(Semaphore::new(0));
    let stub = StubReplica::start(StubBehavior::Gated(gate.clone())).await;
    let dispatcher = Arc::new(RunningDispatcher::start(&stub::static_list(&[&stub]), &[]).await);
    let first = held_request(&dispatcher, &stub).await;
    let mut leaving = dispatcher.program.connect().await;
    leaving
        .write_all(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        .await
        .expect("the connection is open");
    dispatcher.until_waiting(1).await;
    drop(leaving);
    dispatcher.until_waiting(0).await;
    gate.add_permits(1);
    assert_eq!(first.await.expect("the task does not panic").status, 200);
    assert_eq!(stub.calls(), 1, "the request whose client left was never sent");
}

#[tokio::test]
async fn a_failed_attempt_is_not_retried_for_a_client_that_left() {
    let gate = Arc::new(Semaphore::new(0));
    let stub = StubReplica::start(StubBehavior::Closes(gate.clone())).await;
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &[]).await;
    // The client leaves while the replica holds its request. The attempt fails after that.
    let abandoned = dispatcher.post(&[("x-request-timeout-ms", "5000")]);
    assert!(tokio::time::timeout(Duration::from_millis(300), abandoned).await.is_err());
    assert_eq!(stub.calls(), 1);
    gate.add_permits(Semaphore::MAX_PERMITS);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(dispatcher.get("/status").await.json["queue_length"], 0);
    assert_eq!(stub.calls(), 1, "the request was not sent again");
}

#[tokio::test]
async fn a_retried_request_that_waits_for_another_replica_lets_later_ones_pass() {
    let gate = Arc::new(Semaphore::new(0));
    let (busy, failing) =
        (StubReplica::start(StubBehavior::Gated(gate.clone())).await, StubReplica::start(StubBehavior::closes()).await);
    let dispatcher = Arc::new(RunningDispatcher::start(&stub::static_list(&[&busy, &failing]), &[]).await);
    // The busy replica holds one of two requests. The other request has failed at the failing replica, and waits for a
    // slot of the busy replica.
    let held: Vec<_> = (0..2)
        .map(|_| {
            let client = dispatcher.clone();
            tokio::spawn(async move { client.post(&[]).await.status })
        })
        .collect();
    failing.until_calls(1).await;
    busy.until_calls(1).await;
    // A later request is sent to the failing replica, although the first request in the queue waits for the busy one.
    let passing = dispatcher.post(&[("x-request-timeout-ms", "2000")]);
    let tried_again = async {
        failing.until_calls(2).await;
        gate.add_permits(9);
    };
    let limit = Duration::from_secs(10);
    let both = tokio::time::timeout(limit, async { tokio::join!(passing, tried_again) }).await;
    let (passed, ()) = both.expect("the later request reaches the failing replica in time");
    assert_eq!(passed.status, 200);
    for request in held {
        assert_eq!(request.await.expect("the task does not panic"), 200);
    }
}

#[tokio::test]
async fn without_a_replica_a_request_waits_until_its_deadline() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let list = folder.path().join("replicas");
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let mut dispatcher = RunningDispatcher::start(&format!("file:{}", list.display()), &[]).await;
    let held = dispatcher.post(&[("x-request-timeout-ms", "100")]).await;
    assert_eq!(held.status_and_code(), (504, "deadline_exceeded"));
    let waiting = dispatcher.post(&[]);
    let publish = async {
        dispatcher.until_waiting(1).await;
        std::fs::write(&list, &stub.address).expect("the temporary folder is writable");
    };
    assert_eq!(tokio::join!(waiting, publish).0.status, 200);
    drop(dispatcher.program.child.stdin.take());
    assert!(dispatcher.program.child.wait().await.expect("the program ends with its parent").success());
}

#[tokio::test]
async fn bad_requests_are_refused_before_they_reach_a_replica() {
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let dispatcher =
        RunningDispatcher::start(&stub::static_list(&[&stub]), &["--max-body-bytes=1000", "--body-timeout=200ms"])
            .await;
    for (headers, expected) in [
        (&[("content-type", "text/plain")][..], (415, "unsupported_media_type")),
        (&[("x-request-timeout-ms", "soon")], (400, "bad_request")),
        (&[("x-request-timeout-ms", "0")], (400, "bad_request")),
    ] {
        assert_eq!(dispatcher.post(headers).await.status_and_code(), expected, "{headers:?}");
    }
    let large = Bytes::from(vec![0; 1001]);
    assert_eq!(dispatcher.post_body(&[], large).await.status_and_code(), (413, "too_large"));
    assert_eq!(dispatcher.get("/predict").await.status_and_code(), (405, "method_not_allowed"));
    assert_eq!(dispatcher.get("/nowhere").await.status_and_code(), (404, "not_found"));
    assert_eq!(dispatcher.get("/readyz").await.status, 200);

    // A chunked body without an announced length, bodies that do not arrive whole, and malformed heads.
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
            "408",
        ),
        (format!("POST /predict HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(200)), "431"),
        ("POST /predict HTTP/1.1\r\nContent-Length: x\r\n\r\n".to_owned(), "400"),
    ] {
        let mut stream = dispatcher.program.connect().await;
        stream.write_all(request.as_bytes()).await.expect("the connection is open");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await.expect("the dispatcher answers");
        assert!(line.contains(expected), "{line} instead of {expected}");
    }
    assert_eq!(stub.calls(), 0);
}

/// Sends `count` requests, `mean_pause` apart on average as in a Poisson process, and waits for all replies.
async fn send_at_random(dispatcher: &Arc<RunningDispatcher>, count: u32, mean_pause: Duration) {
    let mut requests = Vec::new();
    for _ in 0..count {
        tokio::time::sleep(mean_pause.mul_f64(-(1.0 - rand::random::<f64>()).ln())).await;
        let dispatcher = dispatcher.clone();
        requests.push(tokio::spawn(async move { dispatcher.post(&[]).await.status }));
    }
    for request in requests {
        assert_eq!(request.await.expect("no panic"), 200);
    }
}

/// What a dispatcher sees of a replica includes the replica's work for other dispatchers. So the scaler would count that
/// work twice.
#[tokio::test]
async fn two_dispatchers_of_one_replica_count_its_work_once() {
    const COMPUTING: Duration = Duration::from_millis(10);
    const REQUESTS: u32 = 150;
    let stub = StubReplica::with_capacity(4, StubBehavior::Computes(COMPUTING)).await;
    let mut dispatchers = Vec::new();
    for _ in 0..2 {
        let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &LONG_TIMES).await;
        dispatcher.until_states(&["ready"]).await;
        dispatchers.push(Arc::new(dispatcher));
    }
    // Each dispatcher brings 35 % of the load that the replica can compute.
    let mean_pause = COMPUTING.mul_f64(2.0 / 0.7);
    tokio::join!(
        send_at_random(&dispatchers[0], REQUESTS, mean_pause),
        send_at_random(&dispatchers[1], REQUESTS, mean_pause),
    );
    let (mut counted, mut answers) = (0.0, 0.0);
    for dispatcher in &dispatchers {
        counted += dispatcher.metric("dispatcher_replica_work_seconds_sum").await;
        answers += dispatcher.metric("dispatcher_replica_work_seconds_count").await;
        assert_eq!(dispatcher.metric("dispatcher_replica_full_work_seconds").await, 0.005);
    }
    let ratio = counted / stub.worked().as_secs_f64();
    assert_eq!(answers, f64::from(2 * REQUESTS));
    assert!((ratio - 1.0).abs() < 0.02, "the dispatchers count {ratio:.3} times the replica's work");
}

#[tokio::test]
async fn every_exported_metric_has_a_help_text() {
    let stubs = [
        StubReplica::start(StubBehavior::Status(StatusCode::INTERNAL_SERVER_ERROR)).await,
        StubReplica::start(StubBehavior::Prompt).await,
    ];
    let dispatcher =
        RunningDispatcher::start(&stub::static_list(&[&stubs[0], &stubs[1]]), &["--max-body-bytes=1000"]).await;
    dispatcher.until_states(&["ready", "ready"]).await;
    for _ in 0..4 {
        assert_eq!(dispatcher.post(&[]).await.status, 200);
    }
    let metrics = dispatcher.metrics().await;
    let names = |prefix: &str| -> BTreeSet<String> {
        let lines = metrics.lines().filter_map(|line| line.strip_prefix(prefix)?.split(' ').next());
        lines.map(str::to_owned).collect()
    };
    let exported = names("# TYPE ");
    assert!(exported.contains("dispatcher_retries_total") && exported.len() >= 12, "{exported:?}");
    assert_eq!(names("# HELP "), exported);
    let described: BTreeSet<String> =
        ALL.iter().map(|metric| metric.name).chain(CONNECTION_METRICS).map(str::to_owned).collect();
    assert!(exported.is_subset(&described), "{exported:?}");
}

#[tokio::test]
async fn counters_exist_from_the_start_and_a_replica_cannot_add_labels() {
    let stub = StubReplica::start(StubBehavior::Refuses("a-code-of-its-own")).await;
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &["--objective=300ms"]).await;
    let metrics = dispatcher.metrics().await;
    for label in ["code=\"ok\"", "code=\"overloaded\"", "code=\"client_gone\"", "code=\"unknown\""] {
        assert!(metrics.contains(&format!("dispatcher_requests_total{{{label}}} 0\n")), "{label}: {metrics}");
    }
    for verdict in Verdict::ALL {
        let line = format!("dispatcher_request_verdicts_total{{verdict=\"{}\"}} 0\n", verdict.as_str());
        assert!(metrics.contains(&line), "{metrics}");
    }
    for reason in ["overloaded", "length", "bytes"] {
        assert!(metrics.contains(&format!("dispatcher_shed_total{{reason=\"{reason}\"}} 0\n")), "{metrics}");
    }
    assert!(metrics.contains("dispatcher_retries_total{reason=\"reset\"} 0\n"), "{metrics}");
    assert!(metrics.contains("dispatcher_build_info{version=\""), "{metrics}");

    assert_eq!(dispatcher.post(&[]).await.status, 400);
    assert_eq!(dispatcher.metric("dispatcher_requests_total{code=\"unknown\"}").await, 1.0);
    assert_eq!(dispatcher.metric("dispatcher_request_verdicts_total{verdict=\"refused\"}").await, 1.0);
    assert!(!dispatcher.metrics().await.contains("a-code-of-its-own"));

    stub.set_behavior(StubBehavior::Prompt);
    assert_eq!(dispatcher.post(&[]).await.status, 200);
    stub.set_behavior(StubBehavior::Delayed(Duration::from_millis(400)));
    assert_eq!(dispatcher.post(&[]).await.status, 200);
    for verdict in ["good", "late"] {
        let name = format!("dispatcher_request_verdicts_total{{verdict=\"{verdict}\"}}");
        assert_eq!(dispatcher.metric(&name).await, 1.0, "{name}");
    }
    let metrics = dispatcher.metrics().await;
    assert!(metrics.contains("dispatcher_request_duration_seconds_bucket{le=\"0.3\"} 2\n"), "{metrics}");
}

#[tokio::test]
async fn the_objective_is_exported_and_buckets_reach_the_longest_time() {
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    for (flags, seconds, ratio, bound) in [
        (vec![], 0.5, 0.99, "16"),
        (vec!["--objective=2s", "--attainment=0.9", "--deadline=100s"], 2.0, 0.9, "128"),
        (vec!["--objective=7s", "--attainment=0.999", "--deadline=15s", "--body-timeout=1s"], 7.0, 0.999, "16"),
    ] {
        let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &flags).await;
        assert_eq!(dispatcher.metric("dispatcher_objective_seconds").await, seconds, "{flags:?}");
        assert_eq!(dispatcher.metric("dispatcher_objective_ratio").await, ratio, "{flags:?}");
        assert_eq!(dispatcher.post(&[]).await.status, 200);
        for histogram in ["request_duration", "upload_duration", "queue_wait", "upstream_duration", "replica_work"] {
            let name = format!("dispatcher_{histogram}_seconds_bucket{{le=\"{bound}\"}}");
            assert_eq!(dispatcher.metric(&name).await, 1.0, "{flags:?}: {name}");
        }
    }
}

#[tokio::test]
async fn a_client_that_gives_up_counts_against_the_objective_and_one_that_leaves_at_once_does_not() {
    let stub = StubReplica::start(StubBehavior::Gated(Arc::new(Semaphore::new(0)))).await;
    for (flags, verdict) in [
        // The client leaves after two fifths of the objective, or later on a slow machine.
        (["--objective=1s", "--deadline=1h"], "gave_up"),
        // A tenth of this objective is 6 minutes.
        (["--objective=1h", "--deadline=1h"], "cancelled"),
    ] {
        let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &flags).await;
        let given_up = tokio::time::timeout(Duration::from_millis(400), dispatcher.post(&[])).await;
        assert!(given_up.is_err(), "the stub holds the request");
        while dispatcher.metric("dispatcher_requests_total{code=\"client_gone\"}").await == 0.0 {}
        let name = format!("dispatcher_request_verdicts_total{{verdict=\"{verdict}\"}}");
        assert_eq!(dispatcher.metric(&name).await, 1.0, "{flags:?}: {name}");
    }
}

#[tokio::test]
async fn each_replica_has_its_own_counts_and_an_ejection_its_reason() {
    let good = StubReplica::start(StubBehavior::Prompt).await;
    let bad = StubReplica::start(StubBehavior::Status(StatusCode::INTERNAL_SERVER_ERROR)).await;
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&good, &bad]), &[]).await;
    dispatcher.until_states(&["ready", "ready"]).await;
    assert_eq!(dispatcher.metric("dispatcher_ejections_total{reason=\"server_error\"}").await, 0.0);
    while dispatcher.metric("dispatcher_ejections_total{reason=\"server_error\"}").await == 0.0 {
        assert_eq!(dispatcher.post(&[]).await.status, 200);
    }
    let count = async |stub: &StubReplica, outcome: &str| {
        let replica = &stub.address;
        let name = format!("dispatcher_replica_attempts_total{{replica=\"{replica}\",outcome=\"{outcome}\"}}");
        dispatcher.metric(&name).await
    };
    assert_eq!((count(&good, "ok").await, count(&good, "failed").await), (good.calls() as f64, 0.0));
    assert_eq!((count(&bad, "ok").await, count(&bad, "failed").await), (0.0, bad.calls() as f64));
    let status = dispatcher.get("/status").await.json;
    let classified: u64 =
        status["replicas"].as_array().into_iter().flatten().filter_map(|it| it["classified"].as_u64()).sum();
    assert_eq!(classified, good.calls() as u64, "{status}");
    let sums = dispatcher.program.address.clone();
    let (_, sums) = service::fetch::get(&sums, "/metrics/sums", Duration::from_secs(10)).await.expect("it answers");
    let sums = String::from_utf8_lossy(&sums).into_owned();
    assert!(!sums.contains("replica=\"") && sums.contains("dispatcher_in_flight 0\n"), "{sums}");
}
