//! Tests of replicas that join, leave and return: which requests they get, and when.

use crate::api_server::{self, ApiServer};
use crate::process::{DispatcherReply, Program, RunningDispatcher, WAIT_LIMIT};
use crate::steady::{Stopwatch, on_steady_machine};
use crate::stub::{self, StubBehavior, StubReplica};
use hyper::StatusCode;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Flags that give each request much time, so that no request is refused on a slow machine.
const LONG_TIMES: [&str; 2] = ["--objective=30s", "--deadline=60s"];

/// The time after which something that must not happen has not happened. It is several times the pause between two
/// probes of an ejected replica.
const LONG_ENOUGH: Duration = Duration::from_millis(400);

/// The number of slots that the dispatcher uses of a replica that has not answered any request.
const FIRST_SLOTS: usize = 4;

/// The time after which the dispatcher uses all slots of a new replica, however few requests it has answered.
const SLOW_START: Duration = Duration::from_millis(500);

/// A stub with `capacity` slots that answers a request for each permit of the semaphore.
async fn gated(capacity: usize) -> (StubReplica, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    (StubReplica::with_capacity(capacity, StubBehavior::Gated(gate.clone())).await, gate)
}

/// Sends `count` images, each in a task of its own.
fn send(dispatcher: &Arc<RunningDispatcher>, count: usize) -> Vec<JoinHandle<DispatcherReply>> {
    let sending = |_| {
        let dispatcher = dispatcher.clone();
        tokio::spawn(async move { dispatcher.post(&[]).await })
    };
    (0..count).map(sending).collect()
}

/// Checks that all requests are answered with status 200.
async fn check_answered(requests: Vec<JoinHandle<DispatcherReply>>) {
    for request in requests {
        let reply = tokio::time::timeout(WAIT_LIMIT, request).await.expect("the request is answered");
        let reply = reply.expect("the task does not panic");
        assert_eq!(reply.status, 200, "{}", reply.json);
    }
}

/// The number of slots of each replica, as the dispatcher knows it.
async fn capacities(dispatcher: &RunningDispatcher) -> Vec<u64> {
    let status = dispatcher.get("/status").await.json;
    let replicas = status["replicas"].as_array().expect("`replicas` is a list");
    replicas.iter().map(|replica| replica["capacity"].as_u64().expect("the number is whole")).collect()
}

/// A file that lists the replicas.
struct ReplicaList {
    folder: TempDir,
}

impl ReplicaList {
    /// Makes a file with these stubs.
    fn new(stubs: &[&StubReplica]) -> Self {
        let list = Self { folder: tempfile::tempdir().expect("a temporary folder can be made") };
        list.publish(stubs);
        list
    }

    /// Lets the file list these stubs and no others.
    fn publish(&self, stubs: &[&StubReplica]) {
        let lines: Vec<&str> = stubs.iter().map(|stub| &*stub.address).collect();
        let new = self.path().with_extension("new");
        std::fs::write(&new, lines.join("\n")).expect("the temporary folder is writable");
        std::fs::rename(&new, self.path()).expect("the temporary folder is writable");
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("replicas")
    }

    async fn start_dispatcher(&self) -> Arc<RunningDispatcher> {
        let source = format!("file:{}", self.path().display());
        Arc::new(RunningDispatcher::start(&source, &LONG_TIMES).await)
    }
}

async fn start_dispatcher_at(api_server: &ApiServer) -> Arc<RunningDispatcher> {
    let flags = [&["--log=error", api_server::SOURCE], &LONG_TIMES[..]].concat();
    let program = Program::start(&flags, &[("KUBECONFIG", &api_server.kubeconfig())]).await;
    Arc::new(RunningDispatcher::new(program))
}

/// Lets the dispatcher eject the stub at `index` of `stubs`, the others of which answer: it fails requests, and then
/// says that it is not ready. Afterwards it would answer requests, but still says that it is not ready.
async fn eject(dispatcher: &Arc<RunningDispatcher>, stubs: &[StubReplica], index: usize) {
    stubs[index].set_behavior(StubBehavior::Status(StatusCode::INTERNAL_SERVER_ERROR));
    stubs[index].set_ready(false);
    let ejected = |states: &[String]| states.iter().filter(|state| *state == "ejected").count();
    let before = ejected(&dispatcher.states().await);
    while ejected(&dispatcher.states().await) == before {
        check_answered(send(dispatcher, 1)).await;
    }
    stubs[index].set_behavior(StubBehavior::Prompt);
}

#[test]
fn ejected_replicas_that_are_alive_get_requests_once_more_than_half_are_ejected() {
    on_steady_machine(async || {
        let gate = Arc::new(Semaphore::new(0));
        let stubs = [(); 3].map(|()| StubReplica::start(StubBehavior::Prompt));
        let stubs: [StubReplica; 3] =
            futures_util::future::join_all(stubs).await.try_into().unwrap_or_else(|_| unreachable!("there are three"));
        let source = stub::static_list(&stubs.each_ref());
        let dispatcher = Arc::new(RunningDispatcher::start(&source, &LONG_TIMES).await);
        dispatcher.until_states(&["ready"; 3]).await;

        eject(&dispatcher, &stubs, 0).await;
        let calls = stubs.each_ref().map(StubReplica::calls);
        stubs[1].set_behavior(StubBehavior::Gated(gate.clone()));
        stubs[2].set_behavior(StubBehavior::Gated(gate.clone()));
        let requests = send(&dispatcher, 3);
        stubs[1].until_calls(calls[1] + 1).await;
        stubs[2].until_calls(calls[2] + 1).await;
        dispatcher.until_waiting(1).await;
        tokio::time::sleep(LONG_ENOUGH).await;
        assert_eq!(stubs[0].calls(), calls[0], "one of three replicas is ejected, so the request waits");
        gate.add_permits(3);
        check_answered(requests).await;

        stubs[2].set_behavior(StubBehavior::Prompt);
        eject(&dispatcher, &stubs, 1).await;
        let calls = stubs.each_ref().map(StubReplica::calls);
        stubs[2].set_behavior(StubBehavior::Gated(gate.clone()));
        let held = send(&dispatcher, 1);
        stubs[2].until_calls(calls[2] + 1).await;
        check_answered(send(&dispatcher, 1)).await;
        assert_eq!(stubs[0].calls() + stubs[1].calls(), calls[0] + calls[1] + 1, "one of the two was tried");
        dispatcher.until_states(&["ejected", "ready", "ready"]).await;
        gate.add_permits(1);
        check_answered(held).await;
    });
}

#[test]
fn the_slots_of_a_newcomer_open_as_it_answers_and_all_after_a_while() {
    on_steady_machine(async || {
        const REQUESTS: usize = 40;
        let list = ReplicaList::new(&[]);
        let dispatcher = list.start_dispatcher().await;
        let requests = send(&dispatcher, REQUESTS);
        dispatcher.until_waiting(REQUESTS as u64).await;
        let (stub, gate) = gated(64).await;
        list.publish(&[&stub]);
        stub.until_calls(1).await;
        let since = Stopwatch::start();
        for answered in 0..4 {
            // An answer frees one slot and opens another one.
            let expected = FIRST_SLOTS + 2 * answered;
            stub.until_calls(expected).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(stub.calls(), expected, "after {answered} answers and {:?}", since.elapsed());
            gate.add_permits(1);
        }
        stub.until_calls(REQUESTS).await;
        let elapsed = since.elapsed();
        assert!(elapsed >= SLOW_START / 2 && elapsed <= 2 * SLOW_START, "all slots were used after {elapsed:?}");
        gate.add_permits(REQUESTS);
        check_answered(requests).await;
    });
}

#[test]
fn a_replica_that_is_published_again_while_it_drains_is_probed_before_it_gets_requests() {
    on_steady_machine(async || {
        let (stub, gate) = gated(4).await;
        let list = ReplicaList::new(&[&stub]);
        let dispatcher = list.start_dispatcher().await;
        let mut requests = send(&dispatcher, 1);
        stub.until_calls(1).await;
        list.publish(&[]);
        dispatcher.until_states(&["draining"]).await;
        requests.extend(send(&dispatcher, 1));
        dispatcher.until_waiting(1).await;
        stub.set_ready(false);
        list.publish(&[&stub]);
        dispatcher.until_states(&["ejected"]).await;
        tokio::time::sleep(LONG_ENOUGH).await;
        assert_eq!(stub.calls(), 1, "the replica is not ready");
        dispatcher.until_waiting(1).await;
        stub.set_ready(true);
        dispatcher.until_states(&["ready"]).await;
        // After failed probes, a replica gets one request at a time until it has answered one.
        gate.add_permits(1);
        stub.until_calls(2).await;
        gate.add_permits(1);
        check_answered(requests).await;
    });
}

#[test]
fn an_address_that_passes_to_another_pod_is_a_new_replica() {
    on_steady_machine(async || {
        let (stub, gate) = gated(4).await;
        let api_server = ApiServer::start().await;
        api_server.publish("slice", "old", &stub.address);
        let dispatcher = start_dispatcher_at(&api_server).await;
        dispatcher.until_states(&["ready"]).await;
        assert_eq!(capacities(&dispatcher).await, [4]);
        let held = send(&dispatcher, 1);
        stub.until_calls(1).await;

        // The new pod has one slot and is not ready yet.
        stub.set_ready(false);
        stub.set_capacity(1);
        api_server.publish("slice", "new", &stub.address);
        dispatcher.until_states(&["draining", "ejected"]).await;
        let requests = send(&dispatcher, 2);
        dispatcher.until_waiting(2).await;
        tokio::time::sleep(LONG_ENOUGH).await;
        assert_eq!(stub.calls(), 1, "the new pod is not ready, and the old one gets no further request");
        gate.add_permits(1);
        check_answered(held).await;
        dispatcher.until_states(&["ejected"]).await;

        stub.set_ready(true);
        dispatcher.until_states(&["ready"]).await;
        assert_eq!(capacities(&dispatcher).await, [1]);
        stub.until_calls(2).await;
        tokio::time::sleep(LONG_ENOUGH).await;
        assert_eq!(stub.calls(), 2, "the second request waits for the only slot");
        gate.add_permits(2);
        check_answered(requests).await;
    });
}

#[test]
fn a_pod_in_slices_of_both_families_is_one_replica() {
    on_steady_machine(async || {
        let [(stub, gate), (other, _)] = [gated(4).await, gated(4).await];
        let api_server = ApiServer::start().await;
        let v6 = |stub: &StubReplica| stub.address.replace("127.0.0.1", "[::1]");
        api_server.publish("a-ipv6", "a", &v6(&stub));
        api_server.publish("a-ipv4", "a", &stub.address);
        let dispatcher = start_dispatcher_at(&api_server).await;
        dispatcher.until_states(&["ready"]).await;
        assert_eq!(capacities(&dispatcher).await, [4]);
        let requests = send(&dispatcher, 6);
        stub.until_calls(4).await;
        dispatcher.until_waiting(2).await;
        gate.add_permits(6);
        check_answered(requests).await;

        // The slices of another pod arrive by the watch, the IPv4 one last.
        api_server.publish("b-ipv6", "b", &v6(&other));
        api_server.publish("b-ipv4", "b", &other.address);
        dispatcher.until_states(&["ready"; 2]).await;
        assert_eq!(capacities(&dispatcher).await, [4, 4]);
    });
}
