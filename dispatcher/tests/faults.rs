//! What must survive: the dispatcher's program under load while replicas die, hang and lie, and dispatchers leave.

mod program;
mod steady;
mod stub;

use bytes::Bytes;
use hyper::StatusCode;
use program::{Dispatcher, PATIENCE, Reply, code};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use steady::{Watch, steady};
use stub::{Manner, POISON, Stub};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// What a well replica takes for a picture here.
const SERVICE_TIME: Duration = Duration::from_millis(50);

const WELL: Manner = Manner::After(SERVICE_TIME);

/// So much time that nobody is refused on a busy machine.
const UNHURRIED: [&str; 2] = ["--objective=30s", "--deadline=60s"];

/// Slots of a replica, where it has several.
const CAPACITY: usize = 4;

async fn fleet<const N: usize>(manner: Manner) -> [Stub; N] {
    let mut stubs = Vec::new();
    for _ in 0..N {
        stubs.push(Stub::with_capacity(CAPACITY, manner.clone()).await);
    }
    stubs.try_into().unwrap_or_else(|_| unreachable!("as many were started"))
}

/// With everybody in rotation.
async fn dispatcher(stubs: &[Stub], flags: &[&str]) -> Arc<Dispatcher> {
    let stubs: Vec<&Stub> = stubs.iter().collect();
    let dispatcher = Dispatcher::start_on(&stub::list(&stubs), flags).await;
    dispatcher.until_states(&vec!["ready"; stubs.len()]).await;
    Arc::new(dispatcher)
}

/// A picture on its way.
fn sending(dispatcher: &Arc<Dispatcher>, body: impl Into<Bytes>, timeout_ms: u32) -> JoinHandle<Reply> {
    let (dispatcher, body) = (dispatcher.clone(), body.into());
    tokio::spawn(async move { dispatcher.post_body(&[("x-request-timeout-ms", &timeout_ms.to_string())], body).await })
}

/// Longer than any test: the answer comes before.
const PATIENT: u32 = 60_000;

async fn replies(requests: Vec<JoinHandle<Reply>>) -> Vec<Reply> {
    let mut replies = Vec::new();
    for request in requests {
        replies.push(request.await.expect("no panic"));
    }
    replies
}

/// `count` pictures, one every `pause`, whatever becomes of those before.
fn load(dispatcher: &Arc<Dispatcher>, count: usize, pause: Duration) -> JoinHandle<Vec<Reply>> {
    let dispatcher = dispatcher.clone();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(pause);
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut requests = Vec::new();
        for _ in 0..count {
            tick.tick().await;
            requests.push(sending(&dispatcher, "picture", 20_000));
        }
        replies(requests).await
    })
}

/// The time between two pictures that is this part of what `replicas` can do.
fn pause(replicas: usize, share: f64) -> Duration {
    SERVICE_TIME.div_f64((replicas * CAPACITY) as f64 * share)
}

/// So many pictures that they take this long.
fn lasting(time: Duration, pause: Duration) -> usize {
    time.div_duration_f64(pause) as usize
}

/// How the answers that are no success came about.
fn failures(replies: &[Reply]) -> Vec<(u16, &str)> {
    replies.iter().filter(|reply| reply.0 != 200).map(code).collect()
}

fn is_shed(reply: &Reply) -> bool {
    reply.0 == 503 && reply.1.as_ref().is_some_and(|after| after.parse::<u64>().is_ok_and(|after| after >= 1))
}

/// A pause between two faults: nothing is waited for but time.
async fn pass(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

#[test]
fn a_killed_replica_costs_nobody_an_answer() {
    steady(async || {
        // At the second rate the two that are left cannot do it all: some wait until it is back.
        for share in [0.6, 0.8] {
            let stubs = fleet::<3>(WELL).await;
            let dispatcher = dispatcher(&stubs, &UNHURRIED).await;
            let pause = pause(3, share);
            let load = load(&dispatcher, lasting(Duration::from_secs(3), pause), pause);
            pass(1000).await;
            stubs[0].kill().await;
            pass(1000).await;
            stubs[0].revive().await;
            let replies = load.await.expect("no panic");
            assert_eq!(failures(&replies), [], "of {} at {share}", replies.len());
            dispatcher.until_states(&["ready"; 3]).await;
        }
    });
}

#[test]
fn kill_after_kill_costs_nobody_an_answer() {
    steady(async || {
        let stubs = fleet::<3>(WELL).await;
        let dispatcher = dispatcher(&stubs, &UNHURRIED).await;
        let pause = pause(3, 0.4);
        let load = load(&dispatcher, lasting(Duration::from_secs(4), pause), pause);
        for killed in stubs.iter().cycle().take(8) {
            pass(300).await;
            killed.kill().await;
            pass(150).await;
            killed.revive().await;
        }
        let replies = load.await.expect("no panic");
        assert_eq!(failures(&replies), [], "of {}", replies.len());
    });
}

#[test]
fn a_replica_that_hangs_is_out_within_a_second_and_nobody_notices() {
    steady(async || {
        let stubs = fleet::<3>(WELL).await;
        let dispatcher = dispatcher(&stubs, &UNHURRIED).await;
        let pause = pause(3, 0.4);
        let load = load(&dispatcher, lasting(Duration::from_secs(4), pause), pause);
        pass(1000).await;
        stubs[0].behave(Manner::Hung);
        let since = Watch::start();
        dispatcher.until_states(&["ejected", "ready", "ready"]).await;
        assert!(since.elapsed() <= Duration::from_secs(1), "out after {:?}", since.elapsed());
        pass(500).await;
        let before = stubs[0].calls();
        stubs[0].behave(WELL);
        let since = Watch::start();
        dispatcher.until_states(&["ready"; 3]).await;
        assert!(since.elapsed() <= Duration::from_secs(2), "back after {:?}", since.elapsed());
        // Those that it held when it hung it sees too late, and they are four.
        stubs[0].until_calls(before + CAPACITY + 10).await;
        let replies = load.await.expect("no panic");
        assert_eq!(failures(&replies), [], "of {}", replies.len());
    });
}

/// Two requests that a replica holds, and another replica that would answer at once.
async fn held_by_one_of_two(folder: &TempDir) -> (Arc<Dispatcher>, [Stub; 2], Vec<JoinHandle<Reply>>) {
    let gate = Arc::new(Semaphore::new(0));
    let stubs = fleet::<2>(Manner::Gated(gate)).await;
    std::fs::write(list(folder), &stubs[0].address).expect("writable");
    let source = format!("file:{}", list(folder).display());
    let dispatcher = Arc::new(Dispatcher::start_on(&source, &["--deadline=60s"]).await);
    let held = (0..2).map(|_| sending(&dispatcher, "held", 5000)).collect();
    stubs[0].until_calls(2).await;
    stubs[1].behave(Manner::Prompt);
    std::fs::write(list(folder), format!("{}\n{}", stubs[0].address, stubs[1].address)).expect("writable");
    dispatcher.until_states(&["ready"; 2]).await;
    (dispatcher, stubs, held)
}

fn list(folder: &TempDir) -> PathBuf {
    folder.path().join("replicas")
}

#[test]
fn what_a_replica_holds_that_fails_and_then_hangs_goes_to_others() {
    steady(async || {
        let folder = tempfile::tempdir().expect("a folder");
        let (dispatcher, [bad, _good], held) = held_by_one_of_two(&folder).await;
        bad.behave(Manner::Status(StatusCode::INTERNAL_SERVER_ERROR));
        let failed: Vec<_> = (0..12).map(|_| sending(&dispatcher, "failed", PATIENT)).collect();
        assert_eq!(failures(&replies(failed).await), []);
        bad.behave(Manner::Hung);
        dispatcher.until_states(&["ejected", "ready"]).await;
        assert_eq!(failures(&replies(held).await), []);
    });
}

#[test]
fn what_a_replica_holds_that_is_withdrawn_and_then_hangs_goes_to_others() {
    steady(async || {
        let folder = tempfile::tempdir().expect("a folder");
        let (dispatcher, [bad, good], held) = held_by_one_of_two(&folder).await;
        std::fs::write(list(&folder), &good.address).expect("writable");
        dispatcher.until_states(&["draining", "ready"]).await;
        bad.behave(Manner::Hung);
        assert_eq!(failures(&replies(held).await), []);
    });
}

#[test]
fn an_answer_that_breaks_off_is_asked_for_elsewhere() {
    steady(async || {
        for manner in [Manner::Short, Manner::Resets] {
            let stubs = fleet::<3>(WELL).await;
            stubs[0].behave(manner.clone());
            let dispatcher = dispatcher(&stubs, &UNHURRIED).await;
            let replies = load(&dispatcher, 400, Duration::from_millis(5)).await.expect("no panic");
            assert_eq!(failures(&replies), [], "{manner:?}");
            assert!(stubs[0].calls() >= 2, "it was used again, after the first time");
            let retries = dispatcher.metric("dispatcher_retries_total{reason=\"reset\"}").await;
            assert_eq!(retries, stubs[0].calls() as f64, "{manner:?}");
        }
    });
}

#[test]
fn a_replica_that_fails_is_out_after_a_few_and_back_soon_after_it_heals() {
    steady(async || {
        let stubs = fleet::<3>(WELL).await;
        let dispatcher = dispatcher(&stubs, &UNHURRIED).await;
        stubs[0].behave(Manner::Status(StatusCode::INTERNAL_SERVER_ERROR));
        // Once out, it stays out.
        stubs[0].set_ready(false);
        let replies = load(&dispatcher, 300, Duration::from_millis(5)).await.expect("no panic");
        assert_eq!(failures(&replies), []);
        assert!((3..=5).contains(&stubs[0].calls()), "{} calls of the bad one", stubs[0].calls());
        dispatcher.until_states(&["ejected", "ready", "ready"]).await;
        stubs[0].behave(WELL);
        stubs[0].set_ready(true);
        let (before, since) = (stubs[0].calls(), Watch::start());
        let load = load(&dispatcher, 400, Duration::from_millis(5));
        stubs[0].until_calls(before + 1).await;
        assert!(since.elapsed() <= Duration::from_secs(2), "back after {:?}", since.elapsed());
        assert_eq!(failures(&load.await.expect("no panic")), []);
    });
}

#[test]
fn with_every_replica_down_requests_wait_and_the_first_that_is_back_serves() {
    steady(async || {
        let stubs = fleet::<5>(Manner::Prompt).await;
        let dispatcher = dispatcher(&stubs, &["--deadline=30s"]).await;
        for stub in &stubs {
            stub.kill().await;
        }
        let patient: Vec<_> = (0..50).map(|_| sending(&dispatcher, "patient", PATIENT)).collect();
        let since = Instant::now();
        let impatient: Vec<_> = (0..50).map(|_| sending(&dispatcher, "impatient", 1500)).collect();
        let impatient = replies(impatient).await;
        assert!(since.elapsed() >= Duration::from_millis(1500), "they waited {:?}", since.elapsed());
        let expected = [(503, "overloaded"), (504, "deadline_exceeded")];
        assert!(failures(&impatient).iter().all(|failure| expected.contains(failure)), "{:?}", failures(&impatient));
        assert_eq!(failures(&impatient).len(), 50);
        stubs[4].revive().await;
        let since = Watch::start();
        assert_eq!(failures(&replies(patient).await), []);
        assert!(since.elapsed() <= Duration::from_secs(1), "served after {:?}", since.elapsed());
    });
}

#[test]
fn failing_everywhere_does_not_multiply_the_load() {
    steady(async || {
        const REPLICAS: usize = 80;
        const OFFERED: usize = 200;
        let mut stubs = Vec::new();
        for _ in 0..REPLICAS {
            stubs.push(Stub::with_capacity(CAPACITY, Manner::Status(StatusCode::INTERNAL_SERVER_ERROR)).await);
        }
        let dispatcher = dispatcher(&stubs, &["--deadline=5s"]).await;
        let replies = load(&dispatcher, OFFERED, Duration::from_millis(10)).await.expect("no panic");
        assert_eq!(failures(&replies).len(), OFFERED, "nobody could answer");
        let attempts: usize = stubs.iter().map(Stub::calls).sum();
        // A fifth of what is offered, and ten a second over the ten seconds that the budget looks back.
        assert!(attempts <= OFFERED * 12 / 10 + 10 * 10, "{attempts} attempts");
        assert!(attempts > OFFERED, "some were tried again: {attempts} attempts");
    });
}

#[test]
fn whoever_cannot_be_answered_in_time_never_reaches_a_replica() {
    steady(async || {
        let gate = Arc::new(Semaphore::new(0));
        let stubs = [Stub::start(Manner::Gated(gate.clone())).await];
        let dispatcher = dispatcher(&stubs, &["--deadline=30s"]).await;
        let first = sending(&dispatcher, "first", PATIENT);
        stubs[0].until_calls(1).await;
        let late: Vec<_> = (1..=100).map(|number| sending(&dispatcher, "late", number)).collect();
        for reply in replies(late).await {
            assert_eq!(code(&reply), (504, "deadline_exceeded"));
        }
        dispatcher.until_waiting(0).await;
        gate.add_permits(2);
        assert_eq!(first.await.expect("no panic").0, 200);
        assert_eq!(sending(&dispatcher, "last", PATIENT).await.expect("no panic").0, 200);
        let seen: Vec<_> = stubs[0].seen().into_iter().map(|seen| seen.body).collect();
        assert_eq!(seen, ["first", "last"]);
    });
}

#[test]
fn the_place_of_a_client_that_leaves_is_free_at_once() {
    steady(async || {
        let gate = Arc::new(Semaphore::new(0));
        let stubs = [Stub::start(Manner::Gated(gate.clone())).await];
        let dispatcher = dispatcher(&stubs, &["--deadline=30s"]).await;
        let first = sending(&dispatcher, "first", PATIENT);
        stubs[0].until_calls(1).await;
        let mut times = Vec::new();
        for _ in 0..21 {
            let mut leaver = TcpStream::connect(&dispatcher.program.address).await.expect("connected");
            leaver.write_all(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx").await.expect("sent");
            dispatcher.until_waiting(1).await;
            drop(leaver);
            let since = Instant::now();
            dispatcher.until_waiting(0).await;
            times.push(since.elapsed());
        }
        times.sort();
        assert!(times[10] <= Duration::from_millis(50), "half of them took more than {:?}", times[10]);
        gate.add_permits(1);
        assert_eq!(first.await.expect("no panic").0, 200);
        assert_eq!(stubs[0].calls(), 1, "none of them was sent on");
    });
}

/// The only request of its connection.
const PICTURE: &[u8] = b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 7\r\n\r\npicture";

/// A picture over a connection of its own: nothing if the connection was refused, otherwise what came. It says what it
/// wants as soon as it is connected, since whoever then hesitates may find the dispatcher gone.
async fn alone(address: String) -> Option<String> {
    let begun = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).ok()?;
        Some(stream.write_all(PICTURE).and_then(|()| stream.set_nonblocking(true)).map(|()| stream))
    });
    let begun = begun.await.expect("no panic")?;
    let exchange = async {
        let mut answer = String::new();
        TcpStream::from_std(begun?)?.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let exchange = tokio::time::timeout(PATIENCE, exchange).await.expect("it comes to an end");
    Some(exchange.unwrap_or_else(|error| error.to_string()))
}

#[test]
fn told_to_stop_under_load_it_loses_nothing_that_it_accepted() {
    steady(async || {
        let stubs = fleet::<3>(WELL).await;
        let flags = [&UNHURRIED[..], &["--grace=10s"]].concat();
        let mut dispatcher = Arc::into_inner(dispatcher(&stubs, &flags).await).expect("nobody else has it");
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        let mut requests = Vec::new();
        for number in 0..600 {
            tick.tick().await;
            if number == 300 {
                dispatcher.program.signal("TERM").await;
            }
            requests.push(tokio::spawn(alone(dispatcher.program.address.clone())));
        }
        let ended = tokio::time::timeout(Duration::from_secs(10), dispatcher.program.child.wait());
        assert!(ended.await.expect("within its grace").expect("it ran").success());
        let (mut answered, mut refused, mut lost) = (0, 0, Vec::new());
        for (number, request) in requests.into_iter().enumerate() {
            match request.await.expect("no panic") {
                Some(answer) if answer.starts_with("HTTP/1.1 200") => answered += 1,
                Some(instead) => lost.push((number, instead)),
                None => refused += 1,
            }
        }
        assert_eq!(lost, [], "{answered} answered, {refused} refused");
        assert!(answered >= 300 && refused > 0, "{answered} answered, {refused} refused");
    });
}

#[test]
fn the_death_of_one_of_two_dispatchers_costs_what_it_held_and_no_more() {
    steady(async || {
        let gate = Arc::new(Semaphore::new(0));
        let stubs = [Stub::start(Manner::Gated(gate.clone())).await];
        let (mut dead, alive) = (dispatcher(&stubs, &[]).await, dispatcher(&stubs, &["--deadline=30s"]).await);
        let lost: Vec<_> = (0..10).map(|_| tokio::spawn(alone(dead.program.address.clone()))).collect();
        dead.until_waiting(9).await;
        let kept: Vec<_> = (0..10).map(|_| sending(&alive, "kept", PATIENT)).collect();
        alive.until_status("queue_length", 10).await;
        Arc::get_mut(&mut dead).expect("nobody else has it").program.child.kill().await.expect("killed");
        gate.add_permits(100);
        assert_eq!(failures(&replies(kept).await), []);
        for request in lost {
            let answer = request.await.expect("no panic").expect("it was accepted");
            assert!(!answer.starts_with("HTTP"), "{answer}");
        }
    });
}

#[test]
fn two_dispatchers_share_a_replica_that_says_when_it_is_busy() {
    steady(async || {
        let stubs = [Stub::with_capacity(2, WELL).await];
        let both = [dispatcher(&stubs, &UNHURRIED).await, dispatcher(&stubs, &UNHURRIED).await];
        // Two slots in 50 ms are 40 a second, and together they offer 24.
        let loads = both.each_ref().map(|dispatcher| load(dispatcher, 40, Duration::from_millis(83)));
        for load in loads {
            assert_eq!(failures(&load.await.expect("no panic")), []);
        }
        // More than two at once, which the replica has to refuse to one of them; it is out of nobody's rotation for that.
        let bursts: Vec<_> = (0..40).map(|number| sending(&both[number % 2], "picture", PATIENT)).collect();
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
        assert!(busy > 0.0, "it was busy now and then");
    });
}

#[test]
fn a_body_that_kills_is_refused_and_those_beside_it_are_served() {
    steady(async || {
        const SLOTS: usize = 3;
        let mut stubs = Vec::new();
        for _ in 0..3 {
            stubs.push(Stub::with_capacity(SLOTS, Manner::Mortal(SERVICE_TIME)).await);
        }
        let dispatcher = dispatcher(&stubs, &UNHURRIED).await;
        for round in 1..=6 {
            // Every slot is taken, so that two others are with the replica when it dies; and more wait.
            let bodies = (0..2 * 3 * SLOTS).map(|number| if number == round { POISON } else { b"innocent" });
            let requests: Vec<_> = bodies.map(|body| sending(&dispatcher, body, PATIENT)).collect();
            let replies = replies(requests).await;
            assert_eq!(failures(&replies), [(422, "poison")], "round {round}");
            assert_eq!(code(&replies[round]), (422, "poison"), "round {round}");
            let seen = stubs.iter().flat_map(Stub::seen).filter(|seen| seen.body == POISON).count();
            assert!(seen <= 2 * round, "{seen} attempts in {round} rounds");
            dispatcher.until_states(&["ready"; 3]).await;
        }
        let retries = dispatcher.metric("dispatcher_retries_total{reason=\"reset\"}").await;
        assert!(retries >= 12.0, "two innocents were beside it each time: {retries} retries");
    });
}

#[test]
fn the_only_replica_may_hang_and_wake() {
    steady(async || {
        let gate = Arc::new(Semaphore::new(0));
        let stubs = fleet::<1>(Manner::Gated(gate.clone())).await;
        let dispatcher = dispatcher(&stubs, &["--deadline=30s"]).await;
        let patient: Vec<_> = (0..8).map(|_| sending(&dispatcher, "patient", PATIENT)).collect();
        stubs[0].until_calls(CAPACITY).await;
        stubs[0].behave(Manner::Hung);
        let since = Instant::now();
        let impatient = sending(&dispatcher, "impatient", 1500).await.expect("no panic");
        assert_eq!(code(&impatient), (504, "deadline_exceeded"));
        let waited = since.elapsed();
        assert!(waited >= Duration::from_millis(1500) && waited < Duration::from_millis(2500), "{waited:?}");
        dispatcher.until_states(&["ejected"]).await;
        stubs[0].behave(Manner::Prompt);
        assert_eq!(failures(&replies(patient).await), []);
    });
}

#[test]
fn the_least_loaded_replica_gets_the_next_request() {
    steady(async || {
        for (flags, expected) in [(&["--balance=least-loaded"][..], 1), (&[], CAPACITY)] {
            let gate = Arc::new(Semaphore::new(0));
            let stubs = fleet::<2>(Manner::Prompt).await;
            stubs[0].behave(Manner::Gated(gate.clone()));
            let dispatcher = dispatcher(&stubs, flags).await;
            let mut requests = Vec::new();
            for number in 1..=20 {
                requests.push(sending(&dispatcher, "picture", PATIENT));
                // One after the other: either it is held by one, or answered by the other.
                while stubs[0].calls() + stubs[1].calls() < number || !all_but_held(&requests, stubs[0].calls()) {
                    pass(1).await;
                }
            }
            assert_eq!(stubs[0].calls(), expected, "{flags:?}");
            gate.add_permits(CAPACITY);
            assert_eq!(failures(&replies(requests).await), []);
        }
    });
}

fn all_but_held(requests: &[JoinHandle<Reply>], held: usize) -> bool {
    requests.iter().filter(|request| !request.is_finished()).count() <= held
}

#[test]
fn an_overload_is_refused_in_time_and_whoever_was_let_in_is_answered() {
    steady(async || {
        for order in ["--order=late-last", "--order=fifo"] {
            let stubs = fleet::<1>(Manner::After(2 * SERVICE_TIME)).await;
            let dispatcher = dispatcher(&stubs, &[order, "--deadline=1s", "--objective=500ms"]).await;
            assert_eq!(failures(&load(&dispatcher, 10, SERVICE_TIME).await.expect("no panic")), []);
            // Three times of what it can do.
            let (pause, time) = (pause(1, 1.5), Duration::from_secs(4));
            let replies = load(&dispatcher, lasting(time, pause), pause).await.expect("no panic");
            let sheds = replies.iter().filter(|reply| code(reply) == (503, "overloaded"));
            assert!(sheds.clone().all(is_shed), "each is told when to return");
            let (shed, good) = (sheds.count(), replies.len() - failures(&replies).len());
            let (admitted, possible) = (replies.len() - shed, replies.len() / 3);
            let result = format!("{order}: {shed} of {} shed, {good} of {admitted} answered", replies.len());
            println!("{result}");
            assert!(shed >= replies.len() / 3, "{result}");
            // On a quiet machine nearly all of them; were everybody let in, a third.
            assert!(good * 4 >= admitted * 3, "{result}");
            // Here, too; a machine that stands still for moments makes answers look slow, and more be refused.
            assert!(good * 2 >= possible, "{result}; {possible} were possible");
            dispatcher.until_waiting(0).await;
            assert_eq!(sending(&dispatcher, "later", PATIENT).await.expect("no panic").0, 200);
        }
    });
}

#[test]
fn late_requests_let_a_fresh_one_pass_unless_order_is_all() {
    steady(async || {
        for (order, expected) in [
            ("--order=late-last", ["first", "fresh", "late 0", "late 1", "late 2"]),
            ("--order=fifo", ["first", "late 0", "late 1", "late 2", "fresh"]),
        ] {
            let gate = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
            let stubs = [Stub::start(Manner::Gated(gate.clone())).await];
            let dispatcher = dispatcher(&stubs, &[order, "--objective=2s", "--deadline=30s"]).await;
            // So many that one slow answer does not change the mean by much.
            for _ in 0..10 {
                assert_eq!(sending(&dispatcher, "before", PATIENT).await.expect("no panic").0, 200);
            }
            gate.forget_permits(Semaphore::MAX_PERMITS);
            let mut requests = vec![sending(&dispatcher, "first", PATIENT)];
            stubs[0].until_calls(11).await;
            for number in 0..3 {
                requests.push(sending(&dispatcher, format!("late {number}"), PATIENT));
                dispatcher.until_waiting(number + 1).await;
            }
            if order == "--order=late-last" {
                dispatcher.until_status("queue_late_length", 3).await;
            } else {
                pass(2000).await;
            }
            requests.push(sending(&dispatcher, "fresh", PATIENT));
            dispatcher.until_waiting(4).await;
            gate.add_permits(5);
            assert_eq!(failures(&replies(requests).await), []);
            let seen: Vec<_> = stubs[0].seen().into_iter().skip(10).map(|seen| seen.body).collect();
            assert_eq!(seen, expected, "{order}");
        }
    });
}
