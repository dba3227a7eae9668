//! Faults of the cluster: no API server, a deleted target, an exhausted quota, missing privileges.

use crate::FAULT;
use crate::control_plane::{ControlPlane, apply, report, wait_for};
use crate::fake_dispatcher::FakeDispatcher;
use crate::program::Scaler;
use crate::test_deployment::{LESS_LOAD, LOAD, MORE_LOAD, TestDeployment};
use k8s_openapi::api::core::v1::ResourceQuota;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Api;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

/// A load that needs more than the four replicas of the quota, in requests per second. With a much higher one, four
/// replicas would seem to answer each request in a few milliseconds, since the fake answers every load, and no further
/// replica would seem to be needed.
const MUCH_LOAD: f64 = 70.0;

fn flags(deployment: &TestDeployment, dispatcher: &FakeDispatcher) -> Vec<String> {
    deployment.flags(&[format!("--dispatcher={}", dispatcher.address)])
}

/// Checks that status, explanations and metrics report a target that cannot be changed. `least_age` is the least age of
/// the last observation, in seconds.
async fn check_refusal(scaler: &Scaler, words: &[&str], least_age: f64) {
    for text in
        [scaler.run_command(&["status"]).await, scaler.run_command(&["explain", "--all", "--last", "1000"]).await]
    {
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
    let age = scaler.metric("scaler_observation_age_seconds", &[]).await;
    assert!(age >= least_age, "the last observation is {age} s old");
    let held = scaler.metric("scaler_decisions_total", &["action=\"hold\"", "reason=\"refused\""]).await;
    assert!(held >= 5.0, "{held} decisions were held");
}

pub(crate) async fn the_api_server_is_away(control_plane: Arc<ControlPlane>) {
    let deployment = TestDeployment::new(&control_plane, "away").await;
    let dispatcher = FakeDispatcher::start(LOAD);
    let mut proxy = control_plane.proxy().await;
    let mut scaler = Scaler::start(&deployment.kubeconfig_through(&proxy), &flags(&deployment, &dispatcher)).await;
    scaler.wait_until_steady().await;
    let began = Instant::now();
    proxy.interrupt();
    let words = ["cannot follow deployment away/replica", "the API server does not answer", "check the API server"];
    let explanation = scaler.wait_for_explanation(&words).await;
    // More replicas are needed, but the API server cannot be reached.
    dispatcher.set_load(MORE_LOAD);
    tokio::time::sleep(FAULT.saturating_sub(began.elapsed())).await;
    check_refusal(&scaler, &words, FAULT.as_secs_f64() - 5.0).await;
    let status = scaler.run_command(&["status"]).await;
    assert!(status.contains("none can hold the lease"), "{status}");
    assert_eq!(deployment.replicas_since(began), [4]);
    proxy.restore().await;
    deployment.wait_for_replicas(&scaler, "six replicas after the API server is back", |replicas| replicas >= 6).await;
    deployment.assert_never_scaled_down();
    scaler.assert_healthy();
    report(&format!("away: {explanation}; {:?}", deployment.replica_history()));
}

pub(crate) async fn the_target_is_deleted(control_plane: Arc<ControlPlane>) {
    let deployment = TestDeployment::new(&control_plane, "deleted").await;
    let dispatcher = FakeDispatcher::start(LOAD);
    let mut scaler = Scaler::start(&deployment.kubeconfig(|_| {}), &flags(&deployment, &dispatcher)).await;
    scaler.wait_until_steady().await;
    let began = Instant::now();
    deployment.delete().await;
    let words = ["deployment deleted/replica does not exist", "create it, or name another"];
    let explanation = scaler.wait_for_explanation(&words).await;
    tokio::time::sleep(FAULT.saturating_sub(began.elapsed())).await;
    check_refusal(&scaler, &words, FAULT.as_secs_f64() - 5.0).await;
    deployment.deploy().await;
    scaler.wait_until_steady().await;
    dispatcher.set_load(MORE_LOAD);
    deployment.wait_for_replicas(&scaler, "six replicas after the Deployment is back", |replicas| replicas >= 6).await;
    deployment.assert_never_scaled_down();
    scaler.assert_healthy();
    report(&format!("deleted: {explanation}; {:?}", deployment.replica_history()));
}

pub(crate) async fn a_quota_is_exceeded(control_plane: Arc<ControlPlane>) {
    let deployment = TestDeployment::new(&control_plane, "quota").await;
    let dispatcher = FakeDispatcher::start(LOAD);
    let flags = deployment.flags_up_to(20, &[format!("--dispatcher={}", dispatcher.address)]);
    let mut scaler = Scaler::start(&deployment.kubeconfig(|_| {}), &flags).await;
    scaler.wait_until_steady().await;
    let quotas = Api::<ResourceQuota>::namespaced(deployment.client.clone(), &deployment.namespace);
    apply(&quotas, "pods", json!({"spec": {"hard": {"pods": "4"}}})).await;
    wait_for("the quota in force", async || {
        quotas.get("pods").await.expect("the API server answers").status?.used?.get("pods").cloned()
    })
    .await;
    dispatcher.set_load(MORE_LOAD);
    deployment.wait_for_replicas(&scaler, "more replicas than the quota permits", |replicas| replicas > 4).await;
    scaler.wait_for("blocked replicas", |latest| latest["replicas"]["blocked"].as_u64() > Some(0)).await;
    let most = *deployment.replica_history().last().expect("the Deployment has replicas");
    let status = scaler.run_command(&["status"]).await;
    assert!(status.contains(&format!("4 ready, 0 starting, {} blocked", most - 4)), "{status}");
    dispatcher.set_load(MUCH_LOAD);
    let words = ["recommended, but some replicas cannot be placed", "tries again later"];
    let explanation = scaler.wait_for_explanation(&words).await;
    deployment.wait_for_replicas(&scaler, "only the four replicas that serve", |replicas| replicas == 4).await;
    apply(&quotas, "pods", json!({"spec": {"hard": {"pods": "100"}}})).await;
    let is_more = |latest: &Value| latest["replicas"]["ready"].as_u64() > Some(4);
    scaler.wait_for("more replicas under the higher quota", is_more).await;
    assert!(
        deployment.replica_history().iter().all(|&replicas| replicas >= 4),
        "replicas that serve stay: {:?}",
        deployment.replica_history()
    );
    dispatcher.set_load(LESS_LOAD);
    scaler.wait_for("a decision to scale down", |latest| latest["action"] == "down").await;
    scaler.assert_healthy();
    report(&format!("quota: {explanation}; {:?}", deployment.replica_history()));
}

pub(crate) async fn the_scaler_may_not_scale(control_plane: Arc<ControlPlane>) {
    let deployment = TestDeployment::new(&control_plane, "forbidden").await;
    let roles = Api::<Role>::namespaced(deployment.client.clone(), &deployment.namespace);
    let bindings = Api::<RoleBinding>::namespaced(deployment.client.clone(), &deployment.namespace);
    let rule = |group: &str, resource: &str, verbs: &[&str]| {
        let (groups, resources) = ([group], [resource]);
        json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
    };
    let read = [rule("apps", "deployments", &["list", "watch"]), rule("", "pods", &["list", "watch"])];
    let leases = rule("coordination.k8s.io", "leases", &["get", "create", "update"]);
    let scale = rule("apps", "deployments/scale", &["get", "patch"]);
    let get_scale = rule("apps", "deployments/scale", &["get"]);
    apply(&roles, "scaler", json!({"rules": [read[0], read[1], leases, get_scale]})).await;
    let of_role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "scaler"});
    let to_user = json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bound"}]);
    apply(&bindings, "scaler", json!({"roleRef": of_role, "subjects": to_user})).await;

    let dispatcher = FakeDispatcher::start(LOAD);
    let mut scaler = Scaler::start(&deployment.kubeconfig_of("bound"), &flags(&deployment, &dispatcher)).await;
    scaler.wait_until_steady().await;
    let began = Instant::now();
    dispatcher.set_load(MORE_LOAD);
    let words =
        ["cannot scale deployment forbidden/replica to", "403", "let the scaler get and patch deployments/scale"];
    let explanation = scaler.wait_for_explanation(&words).await;
    tokio::time::sleep(FAULT.saturating_sub(began.elapsed())).await;
    check_refusal(&scaler, &words, 10.0).await;
    assert_eq!(deployment.replica_history(), [4]);
    apply(&roles, "scaler", json!({"rules": [read[0], read[1], leases, scale]})).await;
    deployment.wait_for_replicas(&scaler, "six replicas after scaling is permitted", |replicas| replicas >= 6).await;
    deployment.assert_never_scaled_down();
    scaler.assert_healthy();
    report(&format!("forbidden: {explanation}; {:?}", deployment.replica_history()));
}
