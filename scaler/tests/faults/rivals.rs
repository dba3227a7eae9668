//! Two scalers on one target.

use crate::control_plane::{ControlPlane, report, wait_for};
use crate::fake_dispatcher::FakeDispatcher;
use crate::program::{Scaler, command, failure_output};
use crate::script;
use crate::test_deployment::{LOAD, MORE_LOAD, TestDeployment};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;
use scaler::leader::election;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A load that needs eleven replicas, in requests per second.
const MOST_LOAD: f64 = 125.0;

/// The reporting instances of all Events with the reason `Scaled`.
async fn scaled_by(deployment: &TestDeployment) -> Vec<String> {
    let events = Api::<Event>::namespaced(deployment.client.clone(), &deployment.namespace);
    let events = events.list(&ListParams::default()).await.expect("the API server answers").items;
    let scaled = events.into_iter().filter(|event| event.reason.as_deref() == Some("Scaled"));
    scaled.filter_map(|event| event.reporting_instance).collect()
}

pub(crate) async fn one_leads_and_the_other_takes_over(control_plane: Arc<ControlPlane>) {
    let deployment = TestDeployment::new(&control_plane, "rivals").await;
    let dispatcher = FakeDispatcher::start(LOAD);
    let kubeconfig = deployment.kubeconfig(|_| {});
    let flags = |identity: &str| {
        deployment.flags_up_to(12, &[format!("--dispatcher={}", dispatcher.address), format!("--identity={identity}")])
    };
    let first = Scaler::start(&kubeconfig, &flags("first")).await;
    first.wait_until_steady().await;
    let mut second = Scaler::start(&kubeconfig, &flags("second")).await;
    second.wait_until_steady().await;
    let status = second.run_command(&["status"]).await;
    assert!(status.contains("leads     no: another one does"), "{status}");
    assert_eq!(second.latest().await["withheld"], "this scaler does not lead");
    assert!(first.run_command(&["status"]).await.contains("leads     yes"));
    dispatcher.set_load(MORE_LOAD);
    deployment.wait_for_replicas(&first, "six replicas from the leader", |replicas| replicas >= 6).await;
    wait_for("an Event of the leader", async || (!scaled_by(&deployment).await.is_empty()).then_some(())).await;
    assert!(scaled_by(&deployment).await.iter().all(|scaler| scaler == "first"), "only the leader scales");
    deployment.assert_never_scaled_down();

    first.kill().await;
    let died = Instant::now();
    dispatcher.set_load(MOST_LOAD);
    let is_withheld = |latest: &Value| latest["action"] == "up" && latest["withheld"].is_string();
    second.wait_for("a change that the second scaler may not make yet", is_withheld).await;
    let explained = second.run_command(&["explain"]).await;
    assert!(explained.contains("(not done: this scaler does not lead)"), "{explained}");
    wait_for("the second scaler to lead", async || {
        second.run_command(&["status"]).await.contains("leads     yes").then_some(())
    })
    .await;
    let took = died.elapsed();
    let longest = election::LEASE + election::RETRY;
    assert!(took <= longest + Duration::from_secs(1), "taken over after {took:?}");
    deployment.wait_for_replicas(&second, "eleven replicas from the second scaler", |replicas| replicas >= 11).await;
    wait_for("an Event of the second scaler", async || {
        scaled_by(&deployment).await.contains(&"second".into()).then_some(())
    })
    .await;
    deployment.assert_never_scaled_down();
    second.assert_healthy();
    report(&format!(
        "rivals: taken over {:.1} s after the leader's death; {:?}",
        took.as_secs_f64(),
        deployment.replica_history()
    ));
}

/// The program of a replica that serves nothing and ends when its parent ends.
const REPLICA: &str = "#!/bin/sh\nexec cat >/dev/null\n";

pub(crate) async fn a_list_has_one_scaler() {
    let folder = tempfile::tempdir().expect("temporary folders can be created");
    let replica = folder.path().join("replica");
    script::write(&replica, REPLICA);
    let list = folder.path().join("replicas");
    let flags = [
        "--target=processes".into(),
        format!("--list={}", list.display()),
        format!("--replica={}", replica.display()),
        "--dispatcher=127.0.0.1:1".into(),
    ];
    let mut first = Scaler::spawn(&mut command(&flags)).await;
    // The scaler prints its address before it locks the list.
    wait_for("the lock of the first scaler", async || first.has_logged("starting a replica").then_some(())).await;
    let error = failure_output(&mut command(&flags)).await;
    let words = ["another scaler publishes its replicas in", &list.display().to_string(), "--list of its own"];
    assert!(words.iter().all(|word| error.contains(word)), "{error}");
    first.assert_healthy();
    first.kill().await;
    let mut next = Scaler::spawn(&mut command(&flags)).await;
    next.assert_healthy();
    report(&format!("rivals on this machine: {}", error.trim().replace('\n', " ")));
}
