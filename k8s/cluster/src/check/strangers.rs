//! Pods that are no part of Roundhouse.

use crate::kustomization::IMAGE_PREFIX;
use serde_json::{Value, json};

/// The port at which a stranger listens.
pub(super) const PORT: u16 = 5052;

/// A pod with these labels. It runs a dispatcher without replicas, since each program that listens will do.
pub(super) fn pod(namespace: &str, name: &str, labels: &Value) -> Value {
    let container = json!({"name": "dispatcher", "image": format!("{IMAGE_PREFIX}/dispatcher"), "imagePullPolicy": "IfNotPresent",
        "args": [format!("--listen=[::]:{PORT}"), "--replicas=static:127.0.0.1:9"],
        "ports": [{"name": "http", "containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/livez", "port": "http"}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]}}});
    let security = json!({"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"}});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false,
            "securityContext": security, "containers": [container]}})
}
