//! Faults of the cluster: no API server, a deleted target, an exhausted quota, missing privileges.

use crate::FAULT;
use crate::control_plane::{ControlPlane, apply, eventually, say};
use crate::dispatcher::Dispatcher;
use crate::program::Scaler;
use crate::scene::{LESS_LOAD, LOAD, MORE_LOAD, Scene};
use k8s_openapi::api::core::v1::ResourceQuota;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Api;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A load that needs more than the twenty permitted replicas, in requests per second.
const MUCH_LOAD: f64 = 300.0;

fn flags(scene: &Scene, dispatcher: &Dispatcher) -> Vec<String> {
    scene.flags(&[format!("--dispatcher={}", dispatcher.address)])
}

/// Checks that status, explanations and metrics report a target that cannot be changed, for at least `least_age` s.
async fn judge(scaler: &Scaler, words: &[&str], least_age: f64) {
    for text in [scaler.ask(&["status"]).await, scaler.ask(&["explain", "--all", "--last", "1000"]).await] {
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
    let age = scaler.metric("scaler_observation_age_seconds", &[]).await;
    assert!(age >= least_age, "{age}");
    let held = scaler.metric("scaler_decisions_total", &["action=\"hold\"", "reason=\"refused\""]).await;
    assert!(held >= 5.0, "{held}");
}

pub(crate) async fn the_api_server_is_away(control_plane: Arc<ControlPlane>) {
    let scene = Scene::new(&control_plane, "away").await;
    let dispatcher = Dispatcher::start(LOAD);
    let mut line = control_plane.line().await;
    let mut scaler = Scaler::start(&scene.kubeconfig_over(&line), &flags(&scene, &dispatcher)).await;
    scaler.until_steady().await;
    let began = Instant::now();
    line.cut();
    let words = ["cannot follow deployment away/replica", "the API server does not answer", "check the API server"];
    let said = scaler.until_said(&words).await;
    // More replicas are needed, but the API server cannot be reached.
    dispatcher.load(MORE_LOAD);
    tokio::time::sleep(FAULT.saturating_sub(began.elapsed())).await;
    judge(&scaler, &words, FAULT.as_secs_f64() - 5.0).await;
    let status = scaler.ask(&["status"]).await;
    assert!(status.contains("none can hold the lease"), "{status}");
    assert_eq!(scene.asked_since(began), [4]);
    line.mend().await;
    scene.until_asked(&scaler, "more, when it is back", |replicas| replicas >= 6).await;
    scene.never_went_down();
    scaler.is_well();
    say(&format!("away: {said}; {:?}", scene.asked()));
}

pub(crate) async fn the_target_is_deleted(control_plane: Arc<ControlPlane>) {
    let scene = Scene::new(&control_plane, "deleted").await;
    let dispatcher = Dispatcher::start(LOAD);
    let mut scaler = Scaler::start(&scene.kubeconfig(|_| {}), &flags(&scene, &dispatcher)).await;
    scaler.until_steady().await;
    let began = Instant::now();
    scene.delete().await;
    let words = ["deployment deleted/replica does not exist", "create it, or name another"];
    let said = scaler.until_said(&words).await;
    tokio::time::sleep(FAULT.saturating_sub(began.elapsed())).await;
    judge(&scaler, &words, FAULT.as_secs_f64() - 5.0).await;
    scene.deploy().await;
    scaler.until_steady().await;
    dispatcher.load(MORE_LOAD);
    scene.until_asked(&scaler, "more, when it is back", |replicas| replicas >= 6).await;
    scene.never_went_down();
    scaler.is_well();
    say(&format!("deleted: {said}; {:?}", scene.asked()));
}

pub(crate) async fn a_quota_is_exceeded(control_plane: Arc<ControlPlane>) {
    let scene = Scene::new(&control_plane, "quota").await;
    let dispatcher = Dispatcher::start(LOAD);
    let flags = scene.flags_up_to(20, &[format!("--dispatcher={}", dispatcher.address)]);
    let mut scaler = Scaler::start(&scene.kubeconfig(|_| {}), &flags).await;
    scaler.until_steady().await;
    let quotas = Api::<ResourceQuota>::namespaced(scene.client.clone(), &scene.namespace);
    apply(&quotas, "pods", json!({"spec": {"hard": {"pods": "4"}}})).await;
    eventually("the quota in force", async || {
        quotas.get("pods").await.expect("it answers").status?.used?.get("pods").cloned()
    })
    .await;
    dispatcher.load(MORE_LOAD);
    scene.until_asked(&scaler, "more than there may be", |replicas| replicas > 4).await;
    scaler.until("blocked ones", |latest| latest["replicas"]["blocked"].as_u64() > Some(0)).await;
    let most = *scene.asked().last().expect("a number");
    let status = scaler.ask(&["status"]).await;
    assert!(status.contains(&format!("4 ready, 0 starting, {} blocked", most - 4)), "{status}");
    dispatcher.load(MUCH_LOAD);
    let words = ["recommended, no more can be placed", "trying again later"];
    let said = scaler.until_said(&words).await;
    scene.until_asked(&scaler, "those only that serve", |replicas| replicas == 4).await;
    apply(&quotas, "pods", json!({"spec": {"hard": {"pods": "100"}}})).await;
    let is_more = |latest: &Value| latest["replicas"]["ready"].as_u64() > Some(4);
    scaler.until_within(Duration::from_secs(60), "more, as there may be", is_more).await;
    assert!(scene.asked().iter().all(|&replicas| replicas >= 4), "those that serve stay: {:?}", scene.asked());
    dispatcher.load(LESS_LOAD);
    scaler.until_within(Duration::from_secs(60), "fewer", |latest| latest["action"] == "down").await;
    scaler.is_well();
    say(&format!("quota: {said}; {:?}", scene.asked()));
}

pub(crate) async fn the_scaler_may_not_scale(control_plane: Arc<ControlPlane>) {
    let scene = Scene::new(&control_plane, "forbidden").await;
    let roles = Api::<Role>::namespaced(scene.client.clone(), &scene.namespace);
    let bindings = Api::<RoleBinding>::namespaced(scene.client.clone(), &scene.namespace);
    let rule = |group: &str, resource: &str, verbs: &[&str]| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
    let read = [rule("apps", "deployments", &["list", "watch"]), rule("", "pods", &["list", "watch"])];
    let leases = rule("coordination.k8s.io", "leases", &["get", "create", "update"]);
    let scale = rule("apps", "deployments/scale", &["get", "patch"]);
    let seen = rule("apps", "deployments/scale", &["get"]);
    apply(&roles, "scaler", json!({"rules": [read[0], read[1], leases, seen]})).await;
    let of_role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "scaler"});
    let to_user = json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bound"}]);
    apply(&bindings, "scaler", json!({"roleRef": of_role, "subjects": to_user})).await;

    let dispatcher = Dispatcher::start(LOAD);
    let mut scaler = Scaler::start(&scene.kubeconfig_of("bound"), &flags(&scene, &dispatcher)).await;
    scaler.until_steady().await;
    let began = Instant::now();
    dispatcher.load(MORE_LOAD);
    let words =
        ["cannot scale deployment forbidden/replica to", "403", "let the scaler get and patch deployments/scale"];
    let said = scaler.until_said(&words).await;
    tokio::time::sleep(FAULT.saturating_sub(began.elapsed())).await;
    judge(&scaler, &words, 10.0).await;
    assert_eq!(scene.asked(), [4]);
    apply(&roles, "scaler", json!({"rules": [read[0], read[1], leases, scale]})).await;
    scene.until_asked(&scaler, "more, when it may", |replicas| replicas >= 6).await;
    scene.never_went_down();
    scaler.is_well();
    say(&format!("forbidden: {said}; {:?}", scene.asked()));
}
