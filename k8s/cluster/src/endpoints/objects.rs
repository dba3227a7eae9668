//! The objects of `cluster endpoints`: a Service without a selector with its Endpoints or EndpointSlices, and a
//! Deployment with the status of its pods. Pure.

use super::interface::Interface;
use serde_json::{Value, json};
use std::net::Ipv4Addr;

/// The name of the Service, and of the Deployment.
pub(super) const NAME: &str = "replica";

/// The port of the replicas.
pub(super) const PORT: u16 = 6000;

/// The addresses of the replicas. They are in none of the ranges of a local cluster.
pub(super) const RANGE: &str = "10.128.0.0/16";

/// Endpoints in one EndpointSlice, which is the default of Kubernetes' controller.
const SLICE_SIZE: usize = 100;

/// Replicas with the same third byte of their addresses.
const ADDRESSES_PER_BYTE: usize = 250;

/// The address of the replica with this index.
pub(super) fn address(index: usize) -> Ipv4Addr {
    let byte = |number: usize| u8::try_from(number).expect("`--count` permits no more addresses");
    Ipv4Addr::new(10, 128, byte(index / ADDRESSES_PER_BYTE), byte(index % ADDRESSES_PER_BYTE + 1))
}

/// A Service without a selector, whose endpoints no controller writes.
pub(super) fn service() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME},
        "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": PORT}]}})
}

/// The path of the objects that `interface` has, in `namespace`.
pub(super) fn path(interface: Interface, namespace: &str, slices_version: &str) -> String {
    match interface {
        Interface::Endpoints => format!("/api/v1/namespaces/{namespace}/endpoints"),
        Interface::Slices => {
            format!("/apis/discovery.k8s.io/{slices_version}/namespaces/{namespace}/endpointslices")
        }
    }
}

/// The name and the indices of the replicas of each object with the endpoints of `count` replicas.
pub(super) fn parts(interface: Interface, count: usize) -> Vec<(String, std::ops::Range<usize>)> {
    match interface {
        Interface::Endpoints => vec![(NAME.into(), 0..count)],
        Interface::Slices => {
            let starts = (0..count).step_by(SLICE_SIZE);
            starts.map(|start| (format!("{NAME}-{start}"), start..count.min(start + SLICE_SIZE))).collect()
        }
    }
}

/// The object `name` with the endpoints of the replicas `indices`, less the replica `without`.
pub(super) fn endpoints(
    interface: Interface,
    slices_version: &str,
    name: &str,
    indices: std::ops::Range<usize>,
    without: Option<usize>,
) -> Value {
    let listed = indices.filter(|index| Some(*index) != without);
    let port = json!({"name": "http", "port": PORT, "protocol": "TCP"});
    match interface {
        Interface::Endpoints => {
            let addresses: Vec<Value> = listed
                .map(|index| json!({"ip": address(index), "nodeName": node(index), "targetRef": pod_reference(index)}))
                .collect();
            // Without the label, a controller would copy the object to EndpointSlices.
            let labels = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
            json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": name, "labels": labels},
                "subsets": [{"addresses": addresses, "ports": [port]}]})
        }
        Interface::Slices => {
            let endpoints: Vec<Value> = listed
                .map(|index| {
                    json!({"addresses": [address(index)], "conditions": {"ready": true}, "nodeName": node(index),
                        "targetRef": pod_reference(index)})
                })
                .collect();
            let labels = json!({"kubernetes.io/service-name": NAME});
            json!({"apiVersion": format!("discovery.k8s.io/{slices_version}"), "kind": "EndpointSlice",
                "metadata": {"name": name, "labels": labels}, "addressType": "IPv4", "endpoints": endpoints,
                "ports": [port]})
        }
    }
}

/// The name of the node of a replica. Names of nodes have about this length in the clusters of providers.
fn node(index: usize) -> String {
    format!("ip-10-128-{}-{}.region-1.compute.internal", index / ADDRESSES_PER_BYTE, index % ADDRESSES_PER_BYTE + 1)
}

/// The reference of an endpoint to its pod, as long as Kubernetes' controller writes it.
fn pod_reference(index: usize) -> Value {
    json!({"kind": "Pod", "namespace": "roundhouse", "name": format!("replica-7d9c5b6f4-{index:05}"),
        "uid": format!("3f0c1b52-8d6e-4a2b-9c3d-{index:012}"), "resourceVersion": format!("{}", 100_000 + index)})
}

/// A Deployment of `count` pods that no scheduler places. Its pods have what those of k8s/base have.
pub(super) fn deployment(count: usize) -> Value {
    let labels = json!({"app.kubernetes.io/name": "roundhouse", "app.kubernetes.io/component": NAME,
        "app.kubernetes.io/instance": "roundhouse", "app.kubernetes.io/part-of": "roundhouse"});
    let probe = |path: &str, period: u32| json!({"httpGet": {"path": path, "port": "http"}, "periodSeconds": period});
    let resources = json!({"cpu": "1", "memory": "1Gi"});
    let name = json!({"fieldRef": {"fieldPath": "metadata.name"}});
    let container = json!({"name": NAME, "image": "roundhouse.invalid/replica:0.1.0",
        "args": ["--listen=[::]:6000", "--drain-delay=5s", "--grace=15s"],
        "env": [{"name": "ROUNDHOUSE_NAME", "valueFrom": name}], "ports": [{"name": "http", "containerPort": PORT}],
        "startupProbe": probe("/readyz", 1), "readinessProbe": probe("/readyz", 2),
        "livenessProbe": probe("/livez", 10), "resources": {"requests": resources, "limits": resources},
        "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]}}});
    let pod = json!({"automountServiceAccountToken": false, "schedulerName": "none", "containers": [container],
        "terminationGracePeriodSeconds": 30, "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": NAME, "labels": labels},
        "spec": {"replicas": count, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod}}})
}

/// A change of a pod's status that a kubelet would write: the pod runs at the address of the replica with this index,
/// and is ready since `now` or not.
pub(super) fn pod_status(index: usize, is_ready: bool, now: &str) -> Value {
    let ready = if is_ready { "True" } else { "False" };
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "lastTransitionTime": now});
    json!({"status": {
        "phase": "Running", "podIP": address(index), "podIPs": [{"ip": address(index)}],
        "hostIP": "10.244.0.1", "startTime": now, "qosClass": "Guaranteed",
        "conditions": [condition("PodScheduled", "True"), condition("Initialized", "True"),
            condition("ContainersReady", ready), condition("Ready", ready)],
        "containerStatuses": [{"name": NAME, "image": "roundhouse.invalid/replica:0.1.0", "ready": is_ready,
            "started": true, "restartCount": 0, "state": {"running": {"startedAt": now}},
            "imageID": "roundhouse.invalid/replica@sha256:\
                        9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "containerID": "containerd://\
                            60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"}]}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_replica_has_an_address_of_its_own_in_the_range() {
        let addresses: BTreeSet<_> = (0..4000).map(address).collect();
        assert_eq!(addresses.len(), 4000);
        assert!(addresses.iter().all(|address| address.octets()[..2] == [10, 128]));
    }

    #[test]
    fn slices_have_a_hundred_endpoints_and_endpoints_are_one_object() {
        for (count, sizes) in [(1, vec![1]), (100, vec![100]), (250, vec![100, 100, 50])] {
            let parts = parts(Interface::Slices, count);
            assert_eq!(parts.iter().map(|(_, indices)| indices.len()).collect::<Vec<_>>(), sizes);
            assert_eq!(parts.iter().map(|(name, _)| name).collect::<BTreeSet<_>>().len(), sizes.len());
        }
        assert_eq!(parts(Interface::Endpoints, 250), [(NAME.to_owned(), 0..250)]);
    }

    #[test]
    fn a_change_leaves_out_one_endpoint() {
        for (interface, list) in [(Interface::Endpoints, "/subsets/0/addresses"), (Interface::Slices, "/endpoints")] {
            let length = |without| {
                let object = endpoints(interface, "v1", NAME, 0..10, without);
                object.pointer(list).and_then(Value::as_array).map(Vec::len)
            };
            assert_eq!((length(None), length(Some(3)), length(Some(10))), (Some(10), Some(9), Some(10)));
        }
    }
}
