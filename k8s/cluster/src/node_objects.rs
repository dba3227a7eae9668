//! The objects that make the servers of the node known to the cluster: its metrics and its name server.

use crate::network::IpFamily;
use crate::node::METRICS_PORT;
use serde_json::{Value, json};

/// The namespace of the objects.
const NAMESPACE: &str = "kube-system";

/// A list of the objects. With `has_slices`, the endpoints are an EndpointSlice; otherwise they are Endpoints, for API
/// servers before Kubernetes 1.21.
pub(crate) fn list(family: IpFamily, has_slices: bool) -> Value {
    let node = family.node_address();
    let metadata = |name: &str| json!({"name": name, "namespace": NAMESPACE});
    let metrics = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata("metrics"),
        "spec": {"ports": [{"name": "https", "port": 443, "targetPort": METRICS_PORT}]}});
    let port = json!({"name": "https", "port": METRICS_PORT});
    let endpoints = if has_slices {
        let mut metadata = metadata("metrics");
        metadata["labels"] = json!({"kubernetes.io/service-name": "metrics"});
        let kind = match family {
            IpFamily::Ipv4 => "IPv4",
            IpFamily::Ipv6 => "IPv6",
        };
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
            "addressType": kind, "endpoints": [{"addresses": [node]}], "ports": [port]})
    } else {
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata("metrics"),
            "subsets": [{"addresses": [{"ip": node}], "ports": [port]}]})
    };
    // The certificate cannot be given here, since the node makes a new one at each start.
    let service = json!({"namespace": NAMESPACE, "name": "metrics"});
    let api = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1beta1.metrics.k8s.io"},
        "spec": {"group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
            "insecureSkipTLSVerify": true, "service": service}});
    // Reserves the address of the name server. Otherwise the API server could give it to another Service.
    let dns = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata("kube-dns"),
        "spec": {"clusterIP": family.dns_address(), "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]}});
    json!({"apiVersion": "v1", "kind": "List", "items": [metrics, endpoints, api, dns]})
}
