//! Waits until the controllers of the control plane act.
//!
//! After an outage of the API server, they wait before they watch again: those of Kubernetes 1.20 for up to 7 s, those of
//! 1.36 for up to 54 s. A scaler cannot add a replica before that, since no controller would make its pod.

use super::{Fixture, strangers};
use crate::wait::wait_for;
use anyhow::Result;
use serde_json::{Value, json};
use std::time::Duration;

/// The name of the objects that the controllers have to act on.
const NAME: &str = "controllers";

/// Time in which the controllers must act.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Creates a Deployment with one pod and a Service, waits until the Service has the pod as a ready endpoint, and deletes
/// both. Controllers of Deployments, of ReplicaSets and of endpoints must act for that, and the scheduler.
///
/// # Errors
/// If that takes longer than two minutes.
pub(super) async fn wait(fixture: &Fixture) -> Result<()> {
    let kubectl = &fixture.cluster.kubectl;
    let labels = json!({"app": NAME});
    let template = strangers::pod(kubectl.namespace(), NAME, &labels);
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": NAME},
        "spec": {"selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": template["spec"]}}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME},
        "spec": {"selector": labels, "ports": [{"port": strangers::PORT}]}});
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [deployment, service]});
    kubectl.run_with_input(&["apply", "-f", "-"], &list.to_string()).await?;
    let slices = ["get", "endpointslices", "-l", "kubernetes.io/service-name=controllers", "-o", "json"];
    let acted = wait_for("the controllers to act", TIMEOUT, async || {
        let slices: Value = serde_json::from_str(&kubectl.run(&slices).await?)?;
        Ok(has_ready_endpoint(&slices).then_some(()))
    })
    .await;
    kubectl.run(&["delete", "deployment,service", NAME, "--wait=false"]).await?;
    acted
}

/// Whether one of the EndpointSlices in a list has a ready endpoint.
fn has_ready_endpoint(slices: &Value) -> bool {
    let slices = slices["items"].as_array().into_iter().flatten();
    let mut endpoints = slices.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    endpoints.any(|endpoint| endpoint["conditions"]["ready"] == true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_may_have_no_endpoints_or_unready_ones() {
        let list = |endpoints: Value| json!({"items": [{"endpoints": null}, {"endpoints": endpoints}]});
        for (endpoints, expected) in [
            (json!(null), false),
            (json!([]), false),
            (json!([{"conditions": {}}, {"conditions": {"ready": false}}]), false),
            (json!([{"conditions": {"ready": false}}, {"conditions": {"ready": true}}]), true),
        ] {
            assert_eq!(has_ready_endpoint(&list(endpoints.clone())), expected, "{endpoints}");
        }
    }
}
