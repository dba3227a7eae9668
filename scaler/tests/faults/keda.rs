//! The scaler's program with `--advise`, asked by gRPC's own client in the place of KEDA.

use crate::control_plane::{ControlPlane, apply, report, wait_for};
use crate::fake_dispatcher::FakeDispatcher;
use crate::program::Scaler;
use crate::test_deployment::{LOAD, MORE_LOAD, REPLICAS, TestDeployment};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use tokio::process::Command;

const FOLDER: &str = env!("CARGO_MANIFEST_DIR");

/// The overlay whose Role the scaler has in this test.
const OVERLAY: &str = "/../k8s/overlays/keda/kustomization.yaml";

/// The rules of the scaler's Role in the overlay.
fn shipped_rules() -> Value {
    let text = std::fs::read_to_string(format!("{FOLDER}{OVERLAY}")).expect("the repository has the overlay");
    let overlay: Value = serde_saphyr::from_str(&text).expect("the kustomization is YAML");
    let patches = overlay["patches"].as_array().expect("patches");
    let role = patches.iter().find(|patch| patch["target"]["kind"] == "Role").expect("a patch of the Role");
    let operations: Value = serde_saphyr::from_str(role["patch"].as_str().expect("text")).expect("a JSON patch");
    operations[0]["value"].clone()
}

/// What gRPC's own client is told about the target in a namespace.
async fn ask(address: &str, namespace: &str) -> Value {
    let python = format!("{FOLDER}/../target/tools/grpc/bin/python");
    let mut command = Command::new(python);
    command.args([&format!("{FOLDER}/tests/faults/keda.py"), address, namespace]);
    let output = command.output().await.expect("python runs");
    let answers = serde_json::from_slice(&output.stdout);
    answers.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

pub(crate) async fn keda_is_advised_and_nothing_is_written(control_plane: Arc<ControlPlane>) {
    const NAME: &str = "advised";
    if !Path::new(FOLDER).join("../target/tools/grpc/bin/python").exists() {
        return report("skipped: target/tools/grpc does not exist; to make it: cargo xtask setup");
    }
    let deployment = TestDeployment::new(&control_plane, NAME).await;
    let roles = Api::<Role>::namespaced(deployment.client.clone(), NAME);
    apply(&roles, "advisor", json!({"rules": shipped_rules()})).await;
    let binding = json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "advisor"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": NAME}]});
    apply(&Api::<RoleBinding>::namespaced(deployment.client.clone(), NAME), "advisor", binding).await;
    let dispatcher = FakeDispatcher::start(LOAD);
    let flags = deployment.flags(&[
        format!("--dispatcher={}", dispatcher.address),
        "--advise".into(),
        "--keda-listen=127.0.0.1:0".into(),
    ]);
    let mut scaler = Scaler::start(&deployment.kubeconfig_of(NAME), &flags).await;
    let address = scaler.wait_for_line("answering KEDA on ").await;
    let advised = async |least: i64| {
        wait_for(&format!("a recommendation of at least {least} replicas"), async || {
            let answers = ask(&address, NAME).await;
            answers["metrics"][0][1].as_i64().is_some_and(|replicas| replicas >= least).then_some(answers)
        })
        .await
    };
    let answers = advised(1).await;
    assert_eq!(answers["spec"], json!([["scaler_desired_replicas", 1, 1.0]]));
    let replicas = answers["metrics"][0][1].as_i64().expect("a number of replicas");
    assert!((1..=8).contains(&replicas), "{answers}");
    assert_eq!(answers["metrics"], json!([["scaler_desired_replicas", replicas, replicas as f64]]));
    assert_eq!((&answers["active"], &answers["pushed"]), (&json!(true), &json!(true)));
    assert_eq!(answers["unknown key"]["code"], "INVALID_ARGUMENT", "{answers}");
    assert_eq!(answers["huge"]["code"], "OUT_OF_RANGE", "{answers}");
    let other = ask(&address, "other").await;
    assert_eq!(other["pushed"]["code"], "NOT_FOUND", "{other}");
    assert_eq!(scaler.latest().await["withheld"], "--advise");

    dispatcher.set_load(MORE_LOAD);
    let more = advised(6).await;
    let (events, leases): (Api<Event>, Api<Lease>) =
        (Api::namespaced(deployment.client.clone(), NAME), Api::namespaced(deployment.client.clone(), NAME));
    let events = events.list(&ListParams::default()).await.expect("the API server answers").items;
    assert!(!events.iter().any(|event| event.reason.as_deref() == Some("Scaled")), "{events:?}");
    assert!(leases.list(&ListParams::default()).await.expect("the API server answers").items.is_empty());
    assert_eq!(deployment.replica_history(), [REPLICAS]);
    assert!(!scaler.log().iter().any(|line| line.contains("forbid")), "{:?}", scaler.log());
    scaler.assert_healthy();
    report(&format!("keda: {} and then {}", answers["metrics"], more["metrics"]));
}
