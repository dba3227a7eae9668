//! Tests of several tokens at the dispatcher's program: each stands for a tenant with a share and a rate.

use crate::process::{DispatcherReply, RunningDispatcher};
use crate::steady::on_steady_machine;
use crate::stub::{self, StubBehavior, StubReplica};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

/// The default of `--objective`.
const OBJECTIVE: Duration = Duration::from_millis(500);

/// A token file, which is removed when this value is dropped.
struct TokenFile {
    folder: TempDir,
}

impl TokenFile {
    fn new(text: &str) -> Self {
        let file = Self { folder: tempfile::tempdir().expect("a temporary folder can be made") };
        file.write(text);
        file
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("tokens")
    }

    fn write(&self, text: &str) {
        std::fs::write(self.path(), text).expect("the temporary folder is writable");
    }

    fn flag(&self) -> String {
        format!("--token-file={}", self.path().display())
    }
}

async fn post(dispatcher: &RunningDispatcher, token: &str) -> DispatcherReply {
    dispatcher.post(&[("authorization", &format!("Bearer {token}"))]).await
}

#[tokio::test]
async fn a_token_is_replaced_without_an_outage() {
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let file = TokenFile::new("# one token\nold name=shop\n");
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &[&file.flag()]).await;
    let until_status = async |token: &str, status: u16| {
        let since = Instant::now();
        while post(&dispatcher, token).await.status != status {
            assert!(since.elapsed() < Duration::from_secs(10), "{token} does not get {status}");
            assert_eq!(post(&dispatcher, if token == "old" { "new" } else { "old" }).await.status, 200, "an outage");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert_eq!(post(&dispatcher, "new").await.status, 401);
    file.write("old name=shop\nnew name=shop\n");
    until_status("new", 200).await;
    assert_eq!(post(&dispatcher, "old").await.status, 200);
    file.write("new name=shop\n");
    until_status("old", 401).await;
}

#[tokio::test]
async fn a_tenant_above_its_rate_gets_429_and_the_others_do_not() {
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let file = TokenFile::new("slow name=slow rate=0.05/s\nfast\n");
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &[&file.flag()]).await;
    assert_eq!(post(&dispatcher, "slow").await.status, 200);
    let refused = post(&dispatcher, "slow").await;
    assert_eq!(refused.status_and_code(), (429, "rate_limited"));
    let after: u64 = refused.retry_after.expect("429 has Retry-After").parse().expect("a whole number");
    assert!((10..=20).contains(&after), "{after} s until the next request of 0.05 per second");
    for _ in 0..20 {
        assert_eq!(post(&dispatcher, "fast").await.status, 200);
    }
    assert_eq!(stub.calls(), 21, "a refused request reaches no replica");
    for (tenant, outcome, count) in
        [("slow", "ok", 1.0), ("slow", "rate_limited", 1.0), ("slow", "shed", 0.0), ("token-2", "ok", 20.0)]
    {
        let name = format!("dispatcher_tenant_requests_total{{tenant=\"{tenant}\",outcome=\"{outcome}\"}}");
        assert_eq!(dispatcher.metric(&name).await, count, "{name}");
    }
}

/// Sends requests one after the other from 50 connections until `stops`.
fn start_greedy_clients(dispatcher: &Arc<RunningDispatcher>, stops: &Arc<AtomicBool>) {
    for _ in 0..50 {
        let (dispatcher, stops) = (dispatcher.clone(), stops.clone());
        tokio::spawn(async move {
            while !stops.load(Ordering::Relaxed) {
                if post(&dispatcher, "greedy").await.status != 200 {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        });
    }
}

/// The share of a polite client's requests that are answered within the objective, while a greedy client keeps the
/// replica busy.
async fn attained_beside_a_greedy_client(tokens: &str) -> f64 {
    const REQUESTS: u32 = 30;
    // The greedy client's 50 requests take 1 s, twice the objective.
    let stub = StubReplica::start(StubBehavior::Computes(Duration::from_millis(20))).await;
    let file = TokenFile::new(tokens);
    let dispatcher = Arc::new(RunningDispatcher::start(&stub::static_list(&[&stub]), &[&file.flag()]).await);
    let stops = Arc::new(AtomicBool::new(false));
    start_greedy_clients(&dispatcher, &stops);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut attained = 0;
    for _ in 0..REQUESTS {
        let sent = Instant::now();
        let status = post(&dispatcher, "polite").await.status;
        attained += u32::from(status == 200 && sent.elapsed() <= OBJECTIVE);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    stops.store(true, Ordering::Relaxed);
    f64::from(attained) / f64::from(REQUESTS)
}

#[test]
fn a_greedy_client_does_not_make_a_polite_one_wait() {
    on_steady_machine(async || {
        let one_tenant = attained_beside_a_greedy_client("greedy name=all\npolite name=all\n").await;
        assert!(one_tenant < 0.7, "the test shows nothing, since a shared queue serves {one_tenant} of them in time");
        let two_tenants = attained_beside_a_greedy_client("greedy\npolite\n").await;
        assert!(two_tenants > 0.95, "{two_tenants} of the polite client's requests are answered in time");
    });
}

#[tokio::test]
async fn a_tenant_that_fills_the_queue_makes_room_for_another() {
    let gate = Arc::new(Semaphore::new(0));
    let stub = StubReplica::start(StubBehavior::Gated(gate.clone())).await;
    let file = TokenFile::new("greedy\npolite\n");
    let flags = [&*file.flag(), "--queue-length=4"];
    let dispatcher = Arc::new(RunningDispatcher::start(&stub::static_list(&[&stub]), &flags).await);
    let send = |token: &'static str| {
        let dispatcher = dispatcher.clone();
        tokio::spawn(async move { post(&dispatcher, token).await })
    };
    let mut greedy = vec![send("greedy")];
    stub.until_calls(1).await;
    for waiting in 1..=4 {
        greedy.push(send("greedy"));
        dispatcher.until_waiting(waiting).await;
    }
    assert_eq!(post(&dispatcher, "greedy").await.status_and_code(), (503, "queue_full"));
    let polite = send("polite");
    let displaced = greedy.pop().expect("five requests were sent").await.expect("the task does not panic");
    assert_eq!(displaced.status_and_code(), (503, "queue_full"), "the newest request makes room");
    assert!(displaced.has_retry_after());
    // Two of the greedy client's requests go first: one was dispatched before, and one is first in the turn.
    gate.add_permits(3);
    assert_eq!(polite.await.expect("the task does not panic").status, 200);
    gate.add_permits(9);
    for request in greedy {
        assert_eq!(request.await.expect("the task does not panic").status, 200);
    }
}

#[tokio::test]
async fn a_tenant_that_fills_the_memory_leaves_a_part_to_another() {
    let gate = Arc::new(Semaphore::new(0));
    let stub = StubReplica::start(StubBehavior::Gated(gate.clone())).await;
    let file = TokenFile::new("greedy\npolite\n");
    let limits = ["--queue-bytes=100000", "--max-body-bytes=9000", "--max-header-bytes=1024"];
    let token_file = file.flag();
    let flags = [&limits[..], &["--body-timeout=60s", "--deadline=60s", &token_file]].concat();
    let dispatcher = Arc::new(RunningDispatcher::start(&stub::static_list(&[&stub]), &flags).await);
    let send = |token: &'static str, bytes: usize| {
        let dispatcher = dispatcher.clone();
        tokio::spawn(async move {
            let authorization = format!("Bearer {token}");
            dispatcher.post_body(&[("authorization", &authorization)], vec![0; bytes]).await
        })
    };
    let send_now = async |token, bytes| send(token, bytes).await.expect("the task does not panic");
    // One request is at the replica, others wait, and the rest of the memory is taken by slow uploads.
    let mut held = vec![send("greedy", 8000)];
    stub.until_calls(1).await;
    for waiting in 1..4 {
        held.push(send("greedy", 8000));
        dispatcher.until_waiting(waiting).await;
    }
    let head = "POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer greedy\r\nContent-Length: 9000\r\n\r\n";
    let (mut slow, mut refused) = (Vec::new(), 0);
    for _ in 0..20 {
        let mut stream = dispatcher.program.connect().await;
        stream.write_all(&[head.as_bytes(), &[0; 8000]].concat()).await.expect("the connection is open");
        // A short body is discarded for a second before the refusal, unless it ends.
        let mut answer = [0; 12];
        match tokio::time::timeout(Duration::from_millis(1500), stream.read_exact(&mut answer)).await {
            Ok(_) => refused += 1,
            Err(_) => slow.push(stream),
        }
        if refused == 2 {
            break;
        }
    }
    assert!(refused > 0 && slow.len() >= 2, "{refused} are refused, and {} arrive", slow.len());
    assert_eq!(send_now("greedy", 8000).await.status_and_code(), (503, "queue_full"));
    // Half of the memory is divided between the two tenants.
    let polite = send("polite", 9000);
    dispatcher.until_waiting(4).await;
    assert_eq!(send_now("greedy", 8000).await.status_and_code(), (503, "queue_full"));
    gate.add_permits(5);
    for request in held.into_iter().chain([polite]) {
        assert_eq!(request.await.expect("the task does not panic").status, 200);
    }
    drop(slow);
    gate.add_permits(1);
    let since = Instant::now();
    while send_now("greedy", 9000).await.status != 200 {
        assert!(since.elapsed() < Duration::from_secs(10), "the memory of the uploads is not free again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
