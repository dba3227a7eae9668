//! Discovery with a real API server. `KUBEBUILDER_ASSETS` names the folder with the programs of the control plane. If
//! it is not set, the test is reported as skipped.
//!
//! The published addresses are from the range that is reserved for documentation (RFC 5737), so no replica answers
//! there.

use crate::process::{Program, report_skipped};
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::Command;

/// The path of a script. `control-plane start FOLDER` starts a control plane and prints the path of a kubeconfig.
/// `control-plane stop FOLDER` ends the control plane.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../k8s/cluster/control-plane");

/// A running control plane. It is stopped when this value is dropped.
struct ControlPlane {
    folder: PathBuf,
    kubeconfig: PathBuf,
}

impl ControlPlane {
    /// Starts a control plane in `folder`; `None` if its programs are missing.
    async fn start(folder: &Path) -> Option<Self> {
        if std::env::var_os("KUBEBUILDER_ASSETS").is_none() {
            report_skipped(
                "KUBEBUILDER_ASSETS is not set; let it name a folder with etcd (github.com/etcd-io/etcd/releases), \
                 kube-apiserver, kube-controller-manager and kube-scheduler (dl.k8s.io, kubernetes-server-*.tar.gz)",
            );
            return None;
        }
        let folder = folder.join("control-plane");
        let output = Command::new(SCRIPT).arg("start").arg(&folder).stderr(Stdio::inherit()).output().await;
        let output = output.unwrap_or_else(|error| panic!("run {SCRIPT}: {error}"));
        assert!(output.status.success(), "{SCRIPT} start failed; its output above says why");
        let kubeconfig = String::from_utf8(output.stdout).expect("the path is UTF-8").trim().into();
        Some(Self { folder, kubeconfig })
    }

    /// A client of the API server with all rights.
    async fn client(&self) -> Client {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig).expect("the script has written a kubeconfig");
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .expect("the kubeconfig is complete");
        Client::try_from(config).expect("the kubeconfig is valid")
    }

    /// Ends the control plane if it still runs.
    fn stop(&self) {
        if self.folder.exists() {
            let status = std::process::Command::new(SCRIPT).arg("stop").arg(&self.folder).status();
            assert!(status.is_ok_and(|status| status.success()), "{SCRIPT} stop {} failed", self.folder.display());
        }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The addresses of the dispatcher's replicas, sorted.
async fn addresses(dispatcher: &str) -> Vec<String> {
    let (_, body) =
        service::fetch::get(dispatcher, "/status", Duration::from_secs(5)).await.expect("the dispatcher answers");
    let status: Value = serde_json::from_slice(&body).expect("the status is JSON");
    let replicas = status["replicas"].as_array().expect("`replicas` is a list").iter();
    let mut addresses: Vec<String> =
        replicas.filter_map(|replica| replica["address"].as_str().map(str::to_owned)).collect();
    addresses.sort();
    addresses
}

/// Waits until the addresses of the dispatcher's replicas are `expected`.
async fn until_addresses(dispatcher: &str, expected: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let found = addresses(dispatcher).await;
        if found == expected {
            return;
        }
        assert!(Instant::now() < deadline, "the replicas are {found:?} instead of {expected:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Checks discovery by EndpointSlices. If the API server has none, the check is reported as skipped.
async fn check_slices(control_plane: &ControlPlane) {
    let client = control_plane.client().await;
    let apply = PatchParams::apply("test").force();
    let group = "discovery.k8s.io/v1";
    if client.list_api_group_resources(group).await.is_err() {
        return report_skipped(
            "the check of EndpointSlices, because this API server is older than v1.21; let KUBEBUILDER_ASSETS name a \
             folder with a newer one",
        );
    }
    let slices = Api::<EndpointSlice>::default_namespaced(client);
    let publish = async |name: &str, endpoints: Value| {
        let slice = json!({"apiVersion": group, "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "sliced"}}, "endpoints": endpoints,
            "ports": [{"name": "http", "port": 6000, "protocol": "TCP"}]});
        slices.patch(name, &apply, &Patch::Apply(slice)).await.expect("the API server accepts the slice");
    };
    let ready = |ip: &str| json!({"addresses": [ip], "conditions": {"ready": true, "serving": true}});
    let leaving =
        |ip: &str| json!({"addresses": [ip], "conditions": {"ready": false, "serving": true, "terminating": true}});
    publish("sliced-a", json!([ready("192.0.2.11")])).await;

    let kubeconfig = control_plane.kubeconfig.to_str().expect("the path is UTF-8");
    let dispatcher =
        Program::start(&["--replicas=kubernetes:default/sliced:http"], &[("KUBECONFIG", kubeconfig)]).await;
    let address = &dispatcher.address;
    until_addresses(address, &["192.0.2.11:6000"]).await;
    // One endpoint is in two slices.
    publish("sliced-b", json!([ready("192.0.2.11"), ready("192.0.2.12")])).await;
    until_addresses(address, &["192.0.2.11:6000", "192.0.2.12:6000"]).await;
    publish("sliced-b", json!([leaving("192.0.2.12")])).await;
    until_addresses(address, &["192.0.2.11:6000"]).await;
    // No endpoint is ready, but one still serves while it terminates.
    publish("sliced-a", json!([])).await;
    until_addresses(address, &["192.0.2.12:6000"]).await;
    slices.delete("sliced-b", &DeleteParams::default()).await.expect("the API server deletes the slice");
    until_addresses(address, &[]).await;
}

#[tokio::test]
async fn the_replicas_follow_the_service_and_outlive_the_api_server() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let Some(control_plane) = ControlPlane::start(folder.path()).await else { return };
    let client = control_plane.client().await;
    let apply = PatchParams::apply("test").force();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "replica"},
        "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 6000, "protocol": "TCP"}]}});
    let services = Api::<Service>::default_namespaced(client.clone());
    services.patch("replica", &apply, &Patch::Apply(service)).await.expect("the API server accepts the Service");
    let endpoints = Api::<Endpoints>::default_namespaced(client);
    let publish = async |ips: &[&str]| {
        let list: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        let ports = json!([
            {"name": "admin", "port": 6001, "protocol": "TCP"},
            {"name": "http", "port": 6000, "protocol": "TCP"},
        ]);
        let subsets = if list.is_empty() { json!([]) } else { json!([{"addresses": list, "ports": ports}]) };
        let object =
            json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "replica"}, "subsets": subsets});
        endpoints.patch("replica", &apply, &Patch::Apply(object)).await.expect("the API server accepts the Endpoints");
    };
    publish(&["192.0.2.1"]).await;

    let kubeconfig = control_plane.kubeconfig.to_str().expect("the path is UTF-8");
    let dispatcher =
        Program::start(&["--replicas=kubernetes:default/replica:http"], &[("KUBECONFIG", kubeconfig)]).await;
    let address = &dispatcher.address;
    until_addresses(address, &["192.0.2.1:6000"]).await;
    publish(&["192.0.2.2", "192.0.2.3"]).await;
    until_addresses(address, &["192.0.2.2:6000", "192.0.2.3:6000"]).await;
    publish(&[]).await;
    until_addresses(address, &[]).await;
    publish(&["192.0.2.4"]).await;
    until_addresses(address, &["192.0.2.4:6000"]).await;

    check_slices(&control_plane).await;

    control_plane.stop();
    // During this time the watch notices that the API server is gone, and fails to reconnect.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(addresses(address).await, ["192.0.2.4:6000"]);
}
