//! Two scalers on one target.

use crate::control_plane::{ControlPlane, eventually, say};
use crate::dispatcher::Dispatcher;
use crate::program::{Scaler, command, fails};
use crate::scene::{LOAD, MORE_LOAD, Scene};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;
use scaler::leader::election;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A load that needs eleven replicas, in requests per second.
const MOST_LOAD: f64 = 110.0;

/// The reporting instances of all Events with the reason `Scaled`.
async fn instances(scene: &Scene) -> Vec<String> {
    let events = Api::<Event>::namespaced(scene.client.clone(), &scene.namespace);
    let events = events.list(&ListParams::default()).await.expect("it answers").items;
    let ours = events.into_iter().filter(|event| event.reason.as_deref() == Some("Scaled"));
    ours.filter_map(|event| event.reporting_instance).collect()
}

pub(crate) async fn one_leads_and_the_other_takes_over(control_plane: Arc<ControlPlane>) {
    let scene = Scene::new(&control_plane, "rivals").await;
    let dispatcher = Dispatcher::start(LOAD);
    let kubeconfig = scene.kubeconfig(|_| {});
    let flags = |identity: &str| {
        scene.flags_up_to(12, &[format!("--dispatcher={}", dispatcher.address), format!("--identity={identity}")])
    };
    let first = Scaler::start(&kubeconfig, &flags("first")).await;
    first.until_steady().await;
    let mut second = Scaler::start(&kubeconfig, &flags("second")).await;
    second.until_steady().await;
    let status = second.ask(&["status"]).await;
    assert!(status.contains("leads     no: another one does"), "{status}");
    assert_eq!(second.latest().await["withheld"], "this scaler does not lead");
    assert!(first.ask(&["status"]).await.contains("leads     yes"));
    dispatcher.load(MORE_LOAD);
    scene.until_asked(&first, "more, by the leader", |replicas| replicas >= 6).await;
    eventually("the leader's Event", async || (instances(&scene).await == ["first"]).then_some(())).await;
    scene.never_went_down();

    first.kill().await;
    let died = Instant::now();
    dispatcher.load(MOST_LOAD);
    let is_withheld = |latest: &Value| latest["action"] == "up" && latest["withheld"].is_string();
    second.until("a change that it must not make yet", is_withheld).await;
    let explained = second.ask(&["explain"]).await;
    assert!(explained.contains("(not done: this scaler does not lead)"), "{explained}");
    eventually("another leader", async || second.ask(&["status"]).await.contains("leads     yes").then_some(())).await;
    let took = died.elapsed();
    let longest = election::LEASE + election::RETRY;
    assert!(took <= longest + Duration::from_secs(1), "{took:?}");
    scene.until_asked(&second, "more, by the other", |replicas| replicas >= 11).await;
    eventually("its Event", async || instances(&scene).await.contains(&"second".into()).then_some(())).await;
    scene.never_went_down();
    second.is_well();
    say(&format!("rivals: taken over {:.1} s after the leader's death; {:?}", took.as_secs_f64(), scene.asked()));
}

/// A replica that serves nothing and ends when its parent ends.
const REPLICA: &str = "#!/bin/sh\nexec cat >/dev/null\n";

pub(crate) async fn a_list_has_one_scaler() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let replica = folder.path().join("replica");
    std::fs::write(&replica, REPLICA).expect("writable");
    std::fs::set_permissions(&replica, std::fs::Permissions::from_mode(0o755)).expect("permitted");
    let list = folder.path().join("replicas");
    let flags = [
        "--target=processes".into(),
        format!("--list={}", list.display()),
        format!("--replica={}", replica.display()),
        "--dispatcher=127.0.0.1:1".into(),
    ];
    let mut first = Scaler::run(&mut command(&flags)).await;
    let error = fails(&mut command(&flags)).await;
    let words = ["another scaler publishes its replicas in", &list.display().to_string(), "--list of its own"];
    assert!(words.iter().all(|word| error.contains(word)), "{error}");
    first.is_well();
    first.kill().await;
    let mut next = Scaler::run(&mut command(&flags)).await;
    next.is_well();
    say(&format!("rivals on this machine: {}", error.trim().replace('\n', " ")));
}
