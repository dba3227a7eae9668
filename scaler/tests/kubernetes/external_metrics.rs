//! The real HPA controller, which gets the recommendation through the real API server. The pods need not run.

use crate::control_plane::{apply, control_plane, wait_for};
use crate::scalable::{TestDeployment, minor_version};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, PostParams};
use scaler::advice::{Advice, AdvisedTarget, AdvisedTargets};
use scaler::config::ExternalMetricsConfig;
use scaler::external_metrics::ExternalMetrics;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use tokio::sync::watch;
use tokio::time::Instant;

const NAMESPACE: &str = "advised";

/// Serves the advice of a channel at a free port of this machine, and registers that port as external.metrics.k8s.io.
async fn serve(deployment: &TestDeployment, advice: watch::Receiver<Option<Advice>>) {
    let name = format!("deployment:{NAMESPACE}/replica").parse().expect("the text names a Deployment");
    let advised: AdvisedTargets = [AdvisedTarget { name, advice }].into_iter().collect();
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    let listen: SocketAddr = free.local_addr().expect("the listener is bound");
    drop(free);
    let config = ExternalMetricsConfig { listen, certificate: None };
    let server = ExternalMetrics::bind(config).await.expect("the port is still free");
    tokio::spawn(server.serve(advised));
    // No program forwards connections to the addresses of Services here. The API server connects to an external name itself.
    let service = json!({"spec": {"type": "ExternalName", "externalName": "localhost"}});
    apply(&Api::<Service>::namespaced(deployment.client.clone(), NAMESPACE), "external-metrics", service).await;
    let api = json!({"spec": {"group": "external.metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100,
        "versionPriority": 100, "insecureSkipTLSVerify": true,
        "service": {"name": "external-metrics", "namespace": NAMESPACE, "port": listen.port()}}});
    apply(&Api::<APIService>::all(deployment.client.clone()), "v1beta1.external.metrics.k8s.io", api).await;
}

/// Creates the HPA of k8s/overlays/external-metrics, in a version of the API that the API server has.
async fn create_hpa(deployment: &TestDeployment) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../k8s/overlays/external-metrics/autoscaler.yaml");
    let text = std::fs::read_to_string(path).expect("the manifest can be read");
    let mut manifest: Value = serde_saphyr::from_str(&text).expect("the manifest is YAML");
    let version = if minor_version(&deployment.client).await >= 23 { "v2" } else { "v2beta2" };
    manifest["apiVersion"] = format!("autoscaling/{version}").into();
    let type_ = ApiResource {
        group: "autoscaling".into(),
        version: version.into(),
        api_version: format!("autoscaling/{version}"),
        kind: "HorizontalPodAutoscaler".into(),
        plural: "horizontalpodautoscalers".into(),
    };
    let hpas = Api::<DynamicObject>::namespaced_with(deployment.client.clone(), NAMESPACE, &type_);
    let hpa = serde_json::from_value(manifest).expect("the manifest is an object");
    hpas.create(&PostParams::default(), &hpa).await.expect("the HPA can be created");
}

#[tokio::test]
async fn an_hpa_sets_the_recommended_number() {
    let Some(control_plane) = control_plane() else { return };
    let deployment = TestDeployment::new(control_plane, NAMESPACE).await;
    let advice = |replicas| Some(Advice { replicas, confirmed: Instant::now() });
    let (advise, receiver) = watch::channel(advice(7));
    serve(&deployment, receiver).await;
    create_hpa(&deployment).await;
    for replicas in [7, 2] {
        advise.send_replace(advice(replicas));
        wait_for(&format!("{replicas} replicas"), async || {
            (deployment.replicas().await == replicas as i32).then_some(())
        })
        .await;
    }
}
