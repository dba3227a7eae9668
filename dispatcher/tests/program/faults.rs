//! Tests of faults under load. Replicas die, hang or answer with errors, and dispatchers end, while the dispatcher's
//! program gets requests.

use crate::process::{DispatcherReply, RunningDispatcher, WAIT_LIMIT};
use crate::steady::{Stopwatch, on_steady_machine};
use crate::stub::{self, POISON, StubBehavior, StubReplica};
use bytes::Bytes;
use hyper::StatusCode;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// The time that a healthy stub takes for an image.
const SERVICE_TIME: Duration = Duration::from_millis(50);

const HEALTHY: StubBehavior = StubBehavior::Delayed(SERVICE_TIME);

/// Flags that give each request much time, so that no request is refused on a slow machine.
const LONG_TIMES: [&str; 2] = ["--objective=30s", "--deadline=60s"];

/// The number of slots of most stubs.
const CAPACITY: usize = 4;

/// Starts `N` stubs with [`CAPACITY`] slots each.
async fn stubs<const N: usize>(behavior: StubBehavior) -> [StubReplica; N] {
    let mut stubs = Vec::new();
    for _ in 0..N {
        stubs.push(StubReplica::with_capacity(CAPACITY, behavior.clone()).await);
    }
    stubs.try_into().unwrap_or_else(|_| unreachable!("the loop starts N stubs"))
}

/// Starts the dispatcher with `stubs` as replicas, and waits until all of them are ready.
async fn start_dispatcher(stubs: &[StubReplica], flags: &[&str]) -> Arc<RunningDispatcher> {
    let stubs: Vec<&StubReplica> = stubs.iter().collect();
    let dispatcher = RunningDispatcher::start(&stub::static_list(&stubs), flags).await;
    dispatcher.until_states(&vec!["ready"; stubs.len()]).await;
    Arc::new(dispatcher)
}

/// Sends one request in a task of its own.
fn send(dispatcher: &Arc<RunningDispatcher>, body: impl Into<Bytes>, timeout_ms: u32) -> JoinHandle<DispatcherReply> {
    let (dispatcher, body) = (dispatcher.clone(), body.into());
    tokio::spawn(async move { dispatcher.post_body(&[("x-request-timeout-ms", &timeout_ms.to_string())], body).await })
}

/// The timeout in milliseconds of requests that must be answered in any case. It is longer than any test.
const LONG_TIMEOUT_MS: u32 = 60_000;

/// Waits for the replies to `requests`. Returns them in the order of the requests.
async fn replies(requests: Vec<JoinHandle<DispatcherReply>>) -> Vec<DispatcherReply> {
    let mut replies = Vec::new();
    for request in requests {
        replies.push(request.await.expect("the task does not panic"));
    }
    replies
}

/// Sends `count` images, one every `pause`, without waiting for the replies to earlier ones. Returns all replies.
fn load(dispatcher: &Arc<RunningDispatcher>, count: usize, pause: Duration) -> JoinHandle<Vec<DispatcherReply>> {
    let dispatcher = dispatcher.clone();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(pause);
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut requests = Vec::new();
        for _ in 0..count {
            tick.tick().await;
            requests.push(send(&dispatcher, "image", 20_000));
        }
        replies(requests).await
    })
}

/// The time between two images at which the offered load is `share` times the throughput of `replicas` healthy stubs.
fn pause(replicas: usize, share: f64) -> Duration {
    SERVICE_TIME.div_f64((replicas * CAPACITY) as f64 * share)
}

/// The number of images to send, one every `pause`, so that sending takes `time`.
fn image_count(time: Duration, pause: Duration) -> usize {
    time.div_duration_f64(pause) as usize
}

/// The status and the code of each reply whose status is not 200.
fn failures(replies: &[DispatcherReply]) -> Vec<(u16, &str)> {
    replies.iter().filter(|reply| reply.status != 200).map(DispatcherReply::status_and_code).collect()
}

/// Sleeps for this number of milliseconds.
async fn sleep_ms(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

#[test]
fn no_request_fails_when_a_replica_is_killed() {
    on_steady_machine(async || {
        // At a share of 0.8, two of three replicas are too few, so requests wait until the killed replica is back.
        for share in [0.6, 0.8] {
            let stubs = stubs::<3>(HEALTHY).await;
            let dispatcher = start_dispatcher(&stubs, &LONG_TIMES).await;
            let pause = pause(3, share);
            let load = load(&dispatcher, image_count(Duration::from_secs(3), pause), pause);
            sleep_ms(1000).await;
            stubs[0].kill().await;
            sleep_ms(1000).await;
            stubs[0].restart().await;
            let replies = load.await.expect("the task does not panic");
            assert_eq!(failures(&replies), [], "failures of {} requests at a share of {share}", replies.len());
            dispatcher.until_states(&["ready"; 3]).await;
        }
    });
}

#[test]
fn no_request_fails_when_replicas_are_killed_again_and_again() {
    on_steady_machine(async || {
        let stubs = stubs::<3>(HEALTHY).await;
        let dispatcher = start_dispatcher(&stubs, &LONG_TIMES).await;
        let pause = pause(3, 0.4);
        let load = load(&dispatcher, image_count(Duration::from_secs(4), pause), pause);
        for killed in stubs.iter().cycle().take(8) {
            sleep_ms(300).await;
            killed.kill().await;
            sleep_ms(150).await;
            killed.restart().await;
        }
        let replies = load.await.expect("the task does not panic");
        assert_eq!(failures(&replies), [], "failures of {} requests", replies.len());
    });
}

#[test]
fn a_replica_that_hangs_is_ejected_within_a_second_and_no_request_fails() {
    on_steady_machine(async || {
        let stubs = stubs::<3>(HEALTHY).await;
        let dispatcher = start_dispatcher(&stubs, &LONG_TIMES).await;
        let pause = pause(3, 0.4);
        let load = load(&dispatcher, image_count(Duration::from_secs(4), pause), pause);
        sleep_ms(1000).await;
        stubs[0].set_behavior(StubBehavior::Hangs);
        let since = Stopwatch::start();
        dispatcher.until_states(&["ejected", "ready", "ready"]).await;
        assert!(since.elapsed() <= Duration::from_secs(1), "ejected after {:?}", since.elapsed());
        sleep_ms(500).await;
        let before = stubs[0].calls();
        stubs[0].set_behavior(HEALTHY);
        let since = Stopwatch::start();
        dispatcher.until_states(&["ready"; 3]).await;
        assert!(since.elapsed() <= Duration::from_secs(2), "ready again after {:?}", since.elapsed());
        // The stub counts the requests that it held while it hung only now. There is at most one for each slot.
        stubs[0].until_calls(before + CAPACITY + 10).await;
        let replies = load.await.expect("the task does not panic");
        assert_eq!(failures(&replies), [], "failures of {} requests", replies.len());
    });
}

/// Starts a dispatcher with two replicas, which are listed in a file in `folder`. The first replica holds two requests.
/// The second replica would answer them at once. Returns the dispatcher, the replicas and the two requests.
async fn held_by_one_of_two(
    folder: &TempDir,
) -> (Arc<RunningDispatcher>, [StubReplica; 2], Vec<JoinHandle<DispatcherReply>>) {
    let gate = Arc::new(Semaphore::new(0));
    let stubs = stubs::<2>(StubBehavior::Gated(gate)).await;
    std::fs::write(list(folder), &stubs[0].address).expect("the temporary folder is writable");
    let source = format!("file:{}", list(folder).display());
    let dispatcher = Arc::new(RunningDispatcher::start(&source, &["--deadline=60s"]).await);
    let held = (0..2).map(|_| send(&dispatcher, "held", 5000)).collect();
    stubs[0].until_calls(2).await;
    stubs[1].set_behavior(StubBehavior::Prompt);
    std::fs::write(list(folder), format!("{}\n{}", stubs[0].address, stubs[1].address))
        .expect("the temporary folder is writable");
    dispatcher.until_states(&["ready"; 2]).await;
    (dispatcher, stubs, held)
}

/// The path of the file that lists the replicas.
fn list(folder: &TempDir) -> PathBuf {
    folder.path().join("replicas")
}

#[test]
fn requests_at_a_replica_that_fails_and_then_hangs_move_to_others() {
    on_steady_machine(async || {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let (dispatcher, [bad, _good], held) = held_by_one_of_two(&folder).await;
        bad.set_behavior(StubBehavior::Status(StatusCode::INTERNAL_SERVER_ERROR));
        let failed: Vec<_> = (0..12).map(|_| send(&dispatcher, "failed", LONG_TIMEOUT_MS)).collect();
        assert_eq!(failures(&replies(failed).await), []);
        bad.set_behavior(StubBehavior::Hangs);
        dispatcher.until_states(&["ejected", "ready"]).await;
        assert_eq!(failures(&replies(held).await), []);
    });
}

#[test]
fn requests_at_a_replica_that_is_removed_and_then_hangs_move_to_others() {
    on_steady_machine(async || {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let (dispatcher, [bad, good], held) = held_by_one_of_two(&folder).await;
        std::fs::write(list(&folder), &good.address).expect("the temporary folder is writable");
        dispatcher.until_states(&["draining", "ready"]).await;
        bad.set_behavior(StubBehavior::Hangs);
        assert_eq!(failures(&replies(held).await), []);
    });
}

#[test]
fn a_request_whose_answer_breaks_off_is_retried_elsewhere() {
    on_steady_machine(async || {
        for behavior in [StubBehavior::ClosesHalfway, StubBehavior::ResetsHalfway] {
            let stubs = stubs::<3>(HEALTHY).await;
            stubs[0].set_behavior(behavior.clone());
            let dispatcher = start_dispatcher(&stubs, &LONG_TIMES).await;
            let replies = load(&dispatcher, 400, Duration::from_millis(5)).await.expect("the task does not panic");
            assert_eq!(failures(&replies), [], "{behavior:?}");
            assert!(stubs[0].calls() >= 2, "the replica was used again after the first failure");
            let retries = dispatcher.metric("dispatcher_retries_total{reason=\"reset\"}").await;
            assert_eq!(retries, stubs[0].calls() as f64, "{behavior:?}");
        }
    });
}

#[test]
fn a_replica_that_fails_is_ejected_after_a_few_failures_and_used_again_when_it_recovers() {
    on_steady_machine(async || {
        let stubs = stubs::<3>(HEALTHY).await;
        let dispatcher = start_dispatcher(&stubs, &LONG_TIMES).await;
        stubs[0].set_behavior(StubBehavior::Status(StatusCode::INTERNAL_SERVER_ERROR));
        // The replica fails its probes, so it stays ejected.
        stubs[0].set_ready(false);
        let replies = load(&dispatcher, 300, Duration::from_millis(5)).await.expect("the task does not panic");
        assert_eq!(failures(&replies), []);
        assert!((3..=5).contains(&stubs[0].calls()), "{} calls of the bad replica", stubs[0].calls());
        dispatcher.until_states(&["ejected", "ready", "ready"]).await;
        stubs[0].set_behavior(HEALTHY);
        stubs[0].set_ready(true);
        let (before, since) = (stubs[0].calls(), Stopwatch::start());
        let load = load(&dispatcher, 400, Duration::from_millis(5));
        stubs[0].until_calls(before + 1).await;
        assert!(since.elapsed() <= Duration::from_secs(2), "ready again after {:?}", since.elapsed());
        assert_eq!(failures(&load.await.expect("the task does not panic")), []);
    });
}

#[test]
fn while_every_replica_is_down_requests_wait_for_the_first_one_that_is_back() {
    on_steady_machine(async || {
        let stubs = stubs::<5>(StubBehavior::Prompt).await;
        let dispatcher = start_dispatcher(&stubs, &["--deadline=30s"]).await;
        for stub in &stubs {
            stub.kill().await;
        }
        let long: Vec<_> = (0..50).map(|_| send(&dispatcher, "long timeout", LONG_TIMEOUT_MS)).collect();
        let since = Instant::now();
        let short: Vec<_> = (0..50).map(|_| send(&dispatcher, "short timeout", 1500)).collect();
        let short = replies(short).await;
        assert!(since.elapsed() >= Duration::from_millis(1500), "the requests waited {:?}", since.elapsed());
        let expected = [(503, "overloaded"), (504, "deadline_exceeded")];
        assert!(failures(&short).iter().all(|failure| expected.contains(failure)), "{:?}", failures(&short));
        assert_eq!(failures(&short).len(), 50);
        stubs[4].restart().await;
        let since = Stopwatch::start();
        assert_eq!(failures(&replies(long).await), []);
        assert!(since.elapsed() <= Duration::from_secs(1), "served after {:?}", since.elapsed());
    });
}

#[test]
fn retries_do_not_multiply_the_load_when_every_replica_fails() {
    on_steady_machine(async || {
        const REPLICAS: usize = 80;
        const OFFERED: usize = 200;
        let mut stubs = Vec::new();
        for _ in 0..REPLICAS {
            stubs.push(
                StubReplica::with_capacity(CAPACITY, StubBehavior::Status(StatusCode::INTERNAL_SERVER_ERROR)).await,
            );
        }
        let dispatcher = start_dispatcher(&stubs, &["--deadline=5s"]).await;
        let replies = load(&dispatcher, OFFERED, Duration::from_millis(10)).await.expect("the task does not panic");
        assert_eq!(failures(&replies).len(), OFFERED, "no replica answered");
        let attempts: usize = stubs.iter().map(StubReplica::calls).sum();
        // The retry budget allows a fifth of the requests, and 10 retries per second over its window of 10 s.
        assert!(attempts <= OFFERED * 12 / 10 + 10 * 10, "{attempts} attempts");
        assert!(attempts > OFFERED, "some requests were retried: {attempts} attempts");
    });
}

#[test]
fn a_request_that_cannot_be_answered_in_time_never_reaches_a_replica() {
    on_steady_machine(async || {
        let gate = Arc::new(Semaphore::new(0));
        let stubs = [StubReplica::start(StubBehavior::Gated(gate.clone())).await];
        let dispatcher = start_dispatcher(&stubs, &["--deadline=30s"]).await;
        let first = send(&dispatcher, "first", LONG_TIMEOUT_MS);
        stubs[0].until_calls(1).await;
        let late: Vec<_> = (1..=100).map(|number| send(&dispatcher, "late", number)).collect();
        for reply in replies(late).await {
            assert_eq!(reply.status_and_code(), (504, "deadline_exceeded"));
        }
        dispatcher.until_waiting(0).await;
        gate.add_permits(2);
        assert_eq!(first.await.expect("the task does not panic").status, 200);
        assert_eq!(send(&dispatcher, "last", LONG_TIMEOUT_MS).await.expect("the task does not panic").status, 200);
        let received: Vec<_> = stubs[0].received().into_iter().map(|request| request.body).collect();
        assert_eq!(received, ["first", "last"]);
    });
}

#[test]
fn a_client_that_leaves_frees_its_place_at_once() {
    on_steady_machine(async || {
        let gate = Arc::new(Semaphore::new(0));
        let stubs = [StubReplica::start(StubBehavior::Gated(gate.clone())).await];
        let dispatcher = start_dispatcher(&stubs, &["--deadline=30s"]).await;
        let first = send(&dispatcher, "first", LONG_TIMEOUT_MS);
        stubs[0].until_calls(1).await;
        let mut times = Vec::new();
        for _ in 0..21 {
            let mut leaving = dispatcher.program.connect().await;
            leaving
                .write_all(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
                .await
                .expect("the connection is open");
            dispatcher.until_waiting(1).await;
            drop(leaving);
            let since = Instant::now();
            dispatcher.until_waiting(0).await;
            times.push(since.elapsed());
        }
        times.sort();
        assert!(times[10] <= Duration::from_millis(50), "the place was free after {:?} (median)", times[10]);
        gate.add_permits(1);
        assert_eq!(first.await.expect("the task does not panic").status, 200);
        assert_eq!(stubs[0].calls(), 1, "no request of a client that left was sent");
    });
}

/// A request after which the connection is closed.
const REQUEST: &[u8] = b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nimage";

/// Sends [`REQUEST`] over a new connection. Returns the response or, after an error, its message; `None` if the
/// connection was refused.
async fn send_over_new_connection(address: String) -> Option<String> {
    // A blocking thread sends the request as soon as the connection is open. A later request could be lost, because a
    // dispatcher that ends closes the connections from which it has read nothing.
    let sent = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).ok()?;
        Some(stream.write_all(REQUEST).and_then(|()| stream.set_nonblocking(true)).map(|()| stream))
    });
    let sent = sent.await.expect("the task does not panic")?;
    let exchange = async {
        let mut answer = String::new();
        TcpStream::from_std(sent?)?.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let exchange = tokio::time::timeout(WAIT_LIMIT, exchange).await.expect("the connection is closed");
    Some(exchange.unwrap_or_else(|error| error.to_string()))
}

#[test]
fn a_dispatcher_that_stops_under_load_answers_every_request_that_it_has_accepted() {
    on_steady_machine(async || {
        let stubs = stubs::<3>(HEALTHY).await;
        let flags = [&LONG_TIMES[..], &["--grace=10s"]].concat();
        let mut dispatcher =
            Arc::into_inner(start_dispatcher(&stubs, &flags).await).expect("no other reference is left");
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        let mut requests = Vec::new();
        for number in 0..600 {
            tick.tick().await;
            if number == 300 {
                dispatcher.program.signal("TERM").await;
            }
            requests.push(tokio::spawn(send_over_new_connection(dispatcher.program.address.clone())));
        }
        let ended = tokio::time::timeout(Duration::from_secs(10), dispatcher.program.child.wait());
        assert!(ended.await.expect("the program ends within its grace").expect("the status can be read").success());
        let (mut answered, mut refused, mut lost) = (0, 0, Vec::new());
        for (number, request) in requests.into_iter().enumerate() {
            match request.await.expect("the task does not panic") {
                Some(answer) if answer.starts_with("HTTP/1.1 200") => answered += 1,
                Some(instead) => lost.push((number, instead)),
                None => refused += 1,
            }
        }
        assert_eq!(lost, [], "lost requests; {answered} were answered, {refused} refused");
        assert!(answered >= 300 && refused > 0, "{answered} were answered, {refused} refused");
    });
}

#[test]
fn the_death_of_one_of_two_dispatchers_loses_only_the_requests_that_it_held() {
    on_steady_machine(async || {
        let gate = Arc::new(Semaphore::new(0));
        let stubs = [StubReplica::start(StubBehavior::Gated(gate.clone())).await];
        let (mut dead, alive) =
            (start_dispatcher(&stubs, &[]).await, start_dispatcher(&stubs, &["--deadline=30s"]).await);
        let lost: Vec<_> =
            (0..10).map(|_| tokio::spawn(send_over_new_connection(dead.program.address.clone()))).collect();
        dead.until_waiting(9).await;
        let kept: Vec<_> = (0..10).map(|_| send(&alive, "kept", LONG_TIMEOUT_MS)).collect();
        alive.until_status("queue_length", 10).await;
        Arc::get_mut(&mut dead)
            .expect("no other reference is left")
            .program
            .child
            .kill()
            .await
            .expect("the program runs");
        gate.add_permits(100);
        assert_eq!(failures(&replies(kept).await), []);
        for request in lost {
            let answer = request.await.expect("the task does not panic").expect("the connection was accepted");
            assert!(!answer.starts_with("HTTP"), "{answer}");
        }
    });
}

#[test]
fn two_dispatchers_share_a_replica_that_answers_busy() {
    on_steady_machine(async || {
        let stubs = [StubReplica::with_capacity(2, HEALTHY).await];
        let both = [start_dispatcher(&stubs, &LONG_TIMES).await, start_dispatcher(&stubs, &LONG_TIMES).await];
        // With two slots and 50 ms per image, the replica answers 40 images per second. The dispatchers send 24
        // together.
        let loads = both.each_ref().map(|dispatcher| load(dispatcher, 40, Duration::from_millis(83)));
        for load in loads {
            assert_eq!(failures(&load.await.expect("the task does not panic")), []);
        }
        // Each dispatcher sends up to two requests at once, so the replica sometimes answers `busy`. Neither dispatcher
        // ejects it for that.
        let bursts: Vec<_> = (0..40).map(|number| send(&both[number % 2], "image", LONG_TIMEOUT_MS)).collect();
        while bursts.iter().any(|request| !request.is_finished()) {
            for dispatcher in &both {
                assert_eq!(dispatcher.states().await, ["ready"]);
            }
        }
        assert_eq!(failures(&replies(bursts).await), []);
        let mut busy = 0.0;
        for dispatcher in &both {
            busy += dispatcher.metric("dispatcher_retries_total{reason=\"busy\"}").await;
            for reason in ["connect", "reset", "invalid", "server_error", "stalled"] {
                let retries = dispatcher.metric(&format!("dispatcher_retries_total{{reason=\"{reason}\"}}")).await;
                assert_eq!(retries, 0.0, "{reason}");
            }
        }
        assert!(busy > 0.0, "the replica never answered busy");
    });
}

#[test]
fn a_body_that_kills_replicas_is_refused_and_other_requests_are_answered() {
    on_steady_machine(async || {
        const SLOTS: usize = 3;
        let mut stubs = Vec::new();
        for _ in 0..3 {
            stubs.push(StubReplica::with_capacity(SLOTS, StubBehavior::DiesOfPoison(SERVICE_TIME)).await);
        }
        let dispatcher = start_dispatcher(&stubs, &LONG_TIMES).await;
        for round in 1..=6 {
            // There are twice as many requests as slots, so a replica that dies holds two other requests.
            // Each round has another killer, because a known one reaches no replica.
            let killer = Bytes::from([POISON, &[round as u8]].concat());
            let innocent = Bytes::from_static(b"innocent");
            let bodies = (0..2 * 3 * SLOTS).map(|number| if number == round { &killer } else { &innocent });
            let requests: Vec<_> = bodies.map(|body| send(&dispatcher, body.clone(), LONG_TIMEOUT_MS)).collect();
            let replies = replies(requests).await;
            assert_eq!(failures(&replies), [(422, "poison")], "round {round}");
            assert_eq!(replies[round].status_and_code(), (422, "poison"), "round {round}");
            assert!(killers(&stubs) <= 2 * round, "{} attempts in {round} rounds", killers(&stubs));
            dispatcher.until_states(&["ready"; 3]).await;
        }
        let retries = dispatcher.metric("dispatcher_retries_total{reason=\"reset\"}").await;
        let message = "a replica that dies holds two other requests in each of 6 rounds";
        assert!(retries >= 12.0, "{retries} retries, but {message}");
    });
}

/// The number of bodies that kill replicas among those that `stubs` have received.
fn killers(stubs: &[StubReplica]) -> usize {
    stubs.iter().flat_map(StubReplica::received).filter(|request| request.body.starts_with(POISON)).count()
}

#[test]
fn a_body_that_has_killed_two_replicas_is_refused_from_every_client_without_reaching_a_third() {
    on_steady_machine(async || {
        let stubs = [(); 3].map(|()| StubReplica::with_capacity(2, StubBehavior::DiesOfPoison(SERVICE_TIME)));
        let stubs = futures_util::future::join_all(stubs).await;
        let dispatcher = start_dispatcher(&stubs, &LONG_TIMES).await;
        for sent in 1..=4 {
            let reply = dispatcher.post_body(&[], POISON).await;
            assert_eq!(reply.status_and_code(), (422, "poison"), "the body was sent {sent} times");
            assert_eq!(killers(&stubs), 2, "the body was sent {sent} times");
            dispatcher.until_states(&["ready"; 3]).await;
        }
        assert_eq!(dispatcher.post_body(&[], "poisox").await.status, 200, "another body of the same length");
    });
}

#[test]
fn copies_of_a_killer_that_waited_in_the_queue_reach_no_further_replica() {
    on_steady_machine(async || {
        let stubs = [StubReplica::start(StubBehavior::DiesOfPoison(SERVICE_TIME)).await];
        let dispatcher = start_dispatcher(&stubs, &LONG_TIMES).await;
        let copies: Vec<_> = (0..8).map(|_| send(&dispatcher, POISON, LONG_TIMEOUT_MS)).collect();
        for reply in replies(copies).await {
            assert_eq!(reply.status_and_code(), (422, "poison"));
        }
        assert_eq!(killers(&stubs), 2);
    });
}

#[test]
fn a_killer_on_a_connection_that_was_used_before_counts() {
    on_steady_machine(async || {
        let stubs = [(); 3].map(|()| StubReplica::with_capacity(2, StubBehavior::DiesOfPoison(SERVICE_TIME)));
        let stubs = futures_util::future::join_all(stubs).await;
        let dispatcher = start_dispatcher(&stubs, &LONG_TIMES).await;
        // These leave an open connection to each replica.
        let before: Vec<_> = (0..6).map(|_| send(&dispatcher, "image", LONG_TIMEOUT_MS)).collect();
        assert_eq!(failures(&replies(before).await), []);
        let reply = dispatcher.post_body(&[], POISON).await;
        assert_eq!((reply.status_and_code(), killers(&stubs)), ((422, "poison"), 2));
    });
}

#[test]
fn an_answer_without_a_look_at_the_image_does_not_acquit_a_body() {
    on_steady_machine(async || {
        let dies = StubBehavior::DiesOfPoison(SERVICE_TIME);
        for (behavior, status, killers_at_last) in [
            (StubBehavior::Status(StatusCode::NOT_FOUND), 404, 2),
            (StubBehavior::Status(StatusCode::GATEWAY_TIMEOUT), 504, 2),
            (StubBehavior::Refuses("bad_request"), 400, 2),
            (StubBehavior::Refuses("bad_image"), 400, 3),
        ] {
            let stubs = [StubReplica::start(dies.clone()).await];
            let dispatcher = start_dispatcher(&stubs, &LONG_TIMES).await;
            let first = dispatcher.post_body(&[("x-request-timeout-ms", "100")], POISON).await;
            assert_eq!(first.status_and_code(), (504, "deadline_exceeded"));
            dispatcher.until_states(&["ready"]).await;
            let ask = format!("{behavior:?}");
            stubs[0].set_behavior(behavior);
            assert_eq!(dispatcher.post_body(&[], POISON).await.status, status, "{ask}");
            stubs[0].set_behavior(dies.clone());
            let before = killers(&stubs);
            let reply = dispatcher.post_body(&[], POISON).await;
            assert_eq!(reply.status_and_code(), (422, "poison"), "{ask}");
            assert_eq!(1 + killers(&stubs) - before, killers_at_last, "{ask}");
        }
    });
}

#[test]
fn requests_with_the_same_body_that_killed_one_replica_each_count_together() {
    on_steady_machine(async || {
        let stubs = [StubReplica::start(StubBehavior::DiesOfPoison(SERVICE_TIME)).await];
        let dispatcher = start_dispatcher(&stubs, &LONG_TIMES).await;
        // The replica is back after this request's deadline, so the request has only one attempt.
        let first = dispatcher.post_body(&[("x-request-timeout-ms", "100")], POISON).await;
        assert_eq!(first.status_and_code(), (504, "deadline_exceeded"));
        for sent in 2..=3 {
            dispatcher.until_states(&["ready"]).await;
            let reply = dispatcher.post_body(&[], POISON).await;
            assert_eq!(reply.status_and_code(), (422, "poison"), "the body was sent {sent} times");
            assert_eq!(killers(&stubs), 2, "the body was sent {sent} times");
        }
    });
}

#[test]
fn an_innocent_body_that_many_clients_send_is_not_refused_when_replicas_die_together() {
    on_steady_machine(async || {
        let stubs = stubs::<4>(HEALTHY).await;
        let dispatcher = start_dispatcher(&stubs, &LONG_TIMES).await;
        for round in 0..3 {
            // Every slot of the four replicas holds the same body when all but one of them die.
            let held: Vec<_> = (0..4 * CAPACITY).map(|_| send(&dispatcher, "image", LONG_TIMEOUT_MS)).collect();
            sleep_ms(20).await;
            for stub in &stubs[..3] {
                stub.kill().await;
            }
            let replies = replies(held).await;
            assert_eq!(failures(&replies), [], "round {round}");
            assert_eq!(dispatcher.post_body(&[], "image").await.status, 200, "round {round}");
            for stub in &stubs[..3] {
                stub.restart().await;
            }
            dispatcher.until_states(&["ready"; 4]).await;
        }
    });
}

#[test]
fn requests_are_answered_after_the_only_replica_has_hung_and_recovered() {
    on_steady_machine(async || {
        let gate = Arc::new(Semaphore::new(0));
        let stubs = stubs::<1>(StubBehavior::Gated(gate.clone())).await;
        let dispatcher = start_dispatcher(&stubs, &["--deadline=30s"]).await;
        let long: Vec<_> = (0..8).map(|_| send(&dispatcher, "long timeout", LONG_TIMEOUT_MS)).collect();
        stubs[0].until_calls(CAPACITY).await;
        stubs[0].set_behavior(StubBehavior::Hangs);
        let since = Instant::now();
        let short = send(&dispatcher, "short timeout", 1500).await.expect("the task does not panic");
        assert_eq!(short.status_and_code(), (504, "deadline_exceeded"));
        let waited = since.elapsed();
        assert!(waited >= Duration::from_millis(1500) && waited < Duration::from_millis(2500), "{waited:?}");
        dispatcher.until_states(&["ejected"]).await;
        stubs[0].set_behavior(StubBehavior::Prompt);
        assert_eq!(failures(&replies(long).await), []);
    });
}

#[test]
fn the_least_loaded_replica_gets_the_next_request() {
    on_steady_machine(async || {
        for (flags, expected) in [(&["--balance=least-loaded"][..], 1), (&[], CAPACITY)] {
            let gate = Arc::new(Semaphore::new(0));
            let stubs = stubs::<2>(StubBehavior::Prompt).await;
            stubs[0].set_behavior(StubBehavior::Gated(gate.clone()));
            let dispatcher = start_dispatcher(&stubs, flags).await;
            let mut requests = Vec::new();
            for number in 1..=20 {
                requests.push(send(&dispatcher, "image", LONG_TIMEOUT_MS));
                // The next request is sent once the last one is answered by one stub or held by the other.
                while stubs[0].calls() + stubs[1].calls() < number || !all_answered_except(&requests, stubs[0].calls())
                {
                    sleep_ms(1).await;
                }
            }
            assert_eq!(stubs[0].calls(), expected, "{flags:?}");
            gate.add_permits(CAPACITY);
            assert_eq!(failures(&replies(requests).await), []);
        }
    });
}

/// Whether all requests except `held` of them are answered.
fn all_answered_except(requests: &[JoinHandle<DispatcherReply>], held: usize) -> bool {
    requests.iter().filter(|request| !request.is_finished()).count() <= held
}

#[test]
fn an_overload_is_refused_at_once_and_admitted_requests_are_answered() {
    on_steady_machine(async || {
        for order in ["--order=late-last", "--order=fifo"] {
            let stubs = stubs::<1>(StubBehavior::Delayed(2 * SERVICE_TIME)).await;
            let dispatcher = start_dispatcher(&stubs, &[order, "--deadline=1s", "--objective=500ms"]).await;
            assert_eq!(failures(&load(&dispatcher, 10, SERVICE_TIME).await.expect("the task does not panic")), []);
            // The offered load is three times the throughput of the replica, whose service time is doubled.
            let (pause, time) = (pause(1, 1.5), Duration::from_secs(4));
            let replies = load(&dispatcher, image_count(time, pause), pause).await.expect("the task does not panic");
            let sheds = replies.iter().filter(|reply| reply.status_and_code() == (503, "overloaded"));
            assert!(sheds.clone().all(DispatcherReply::has_retry_after), "every refusal has Retry-After");
            let (shed, good) = (sheds.count(), replies.len() - failures(&replies).len());
            let (admitted, possible) = (replies.len() - shed, replies.len() / 3);
            let result = format!("{order}: {shed} of {} shed, {good} of {admitted} answered", replies.len());
            println!("{result}");
            assert!(shed >= replies.len() / 3, "{result}");
            // On an idle machine nearly all admitted requests are answered. If all requests were admitted, a third of
            // them would be answered.
            assert!(good * 4 >= admitted * 3, "{result}");
            // On an idle machine nearly as many requests are answered as the replica can answer. If the machine stands
            // still for moments, the service time looks longer, and more requests are refused.
            assert!(good * 2 >= possible, "{result}; the replica could answer {possible}");
            dispatcher.until_waiting(0).await;
            assert_eq!(send(&dispatcher, "later", LONG_TIMEOUT_MS).await.expect("the task does not panic").status, 200);
        }
    });
}

#[test]
fn a_new_request_passes_late_ones_unless_the_order_is_fifo() {
    on_steady_machine(async || {
        for (order, expected) in [
            ("--order=late-last", ["first", "new", "late 0", "late 1", "late 2"]),
            ("--order=fifo", ["first", "late 0", "late 1", "late 2", "new"]),
        ] {
            let gate = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
            let stubs = [StubReplica::start(StubBehavior::Gated(gate.clone())).await];
            let dispatcher = start_dispatcher(&stubs, &[order, "--objective=2s", "--deadline=30s"]).await;
            // After ten fast answers, one slow answer hardly changes the mean service time.
            for _ in 0..10 {
                assert_eq!(
                    send(&dispatcher, "before", LONG_TIMEOUT_MS).await.expect("the task does not panic").status,
                    200
                );
            }
            gate.forget_permits(Semaphore::MAX_PERMITS);
            let mut requests = vec![send(&dispatcher, "first", LONG_TIMEOUT_MS)];
            stubs[0].until_calls(11).await;
            for number in 0..3 {
                requests.push(send(&dispatcher, format!("late {number}"), LONG_TIMEOUT_MS));
                dispatcher.until_waiting(number + 1).await;
            }
            if order == "--order=late-last" {
                dispatcher.until_status("queue_late_length", 3).await;
            } else {
                sleep_ms(2000).await;
            }
            requests.push(send(&dispatcher, "new", LONG_TIMEOUT_MS));
            dispatcher.until_waiting(4).await;
            gate.add_permits(5);
            assert_eq!(failures(&replies(requests).await), []);
            let received: Vec<_> = stubs[0].received().into_iter().skip(10).map(|request| request.body).collect();
            assert_eq!(received, expected, "{order}");
        }
    });
}
