//! Tests of what discovery tells: whether the dispatcher is ready, and which replicas its metrics list.

use crate::process::{Program, RunningDispatcher, WAIT_LIMIT};
use crate::stub::{StubBehavior, StubReplica};
use std::path::Path;
use std::time::Duration;

/// The status of `/readyz`.
async fn readiness(dispatcher: &RunningDispatcher) -> u16 {
    dispatcher.get("/readyz").await.status
}

fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("the temporary folder is writable");
    std::fs::rename(&new, path).expect("the temporary folder is writable");
}

#[tokio::test]
async fn the_dispatcher_is_ready_only_after_discovery_has_answered() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let kubeconfig = folder.path().join("kubeconfig");
    // No API server listens at this port.
    write(
        &kubeconfig,
        "{apiVersion: v1, kind: Config, clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}], \
         users: [{name: u, user: {}}], contexts: [{name: x, context: {cluster: c, user: u}}], current-context: x}",
    );
    let environment = [("KUBECONFIG", kubeconfig.to_str().expect("the path is UTF-8"))];
    let flags = ["--log=error", "--replicas=kubernetes:default/replica"];
    let unanswered = RunningDispatcher::new(Program::start(&flags, &environment).await);
    for _ in 0..20 {
        assert_eq!(readiness(&unanswered).await, 503);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(unanswered.get("/livez").await.status, 200);

    let list = folder.path().join("replicas");
    let source = format!("file:{}", list.display());
    let missing = RunningDispatcher::start(&source, &[]).await;
    assert_eq!(readiness(&missing).await, 200, "the program that writes the list may start later");
    write(&list, "not an address");
    let malformed = RunningDispatcher::start(&source, &[]).await;
    assert_eq!(readiness(&malformed).await, 503);
    write(&list, "");
    let waiting = async {
        while readiness(&malformed).await != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(WAIT_LIMIT, waiting).await.expect("an empty list is an answer");
    let listed = RunningDispatcher::start("static:127.0.0.1:1", &[]).await;
    assert_eq!(readiness(&listed).await, 200);
}

#[tokio::test]
async fn the_metrics_list_no_replica_that_is_gone_and_the_sums_list_none() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let list = folder.path().join("replicas");
    let stubs = [StubReplica::start(StubBehavior::Prompt).await, StubReplica::start(StubBehavior::Prompt).await];
    write(&list, &format!("{}\n{}", stubs[0].address, stubs[1].address));
    let dispatcher = RunningDispatcher::start(&format!("file:{}", list.display()), &[]).await;
    dispatcher.until_states(&["ready"; 2]).await;
    assert_eq!(dispatcher.post(&[]).await.status, 200);
    let series = async || {
        let metrics = dispatcher.metrics().await;
        metrics.lines().filter(|line| line.starts_with("dispatcher_in_flight")).map(str::to_owned).collect::<Vec<_>>()
    };
    let expected = |stub: &StubReplica| format!("dispatcher_in_flight{{replica=\"{}\"}} 0", stub.address);
    let mut found = series().await;
    found.sort();
    let mut both = stubs.each_ref().map(expected);
    both.sort();
    assert_eq!(found, both);
    write(&list, &stubs[1].address);
    dispatcher.until_states(&["ready"]).await;
    assert_eq!(series().await, [expected(&stubs[1])]);

    let answer = service::fetch::get(&dispatcher.program.address, "/metrics/sums", WAIT_LIMIT).await;
    let sums = String::from_utf8(answer.expect("the dispatcher answers").1.into()).expect("the metrics are UTF-8");
    assert!(!sums.contains("replica=\""), "{sums}");
    for line in ["dispatcher_in_flight 0", "dispatcher_capacity 1", "dispatcher_enqueued_requests_total 1"] {
        assert!(sums.lines().any(|found| found == line), "{line} is not in:\n{sums}");
    }
}
