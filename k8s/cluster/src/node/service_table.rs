//! The Services of the cluster and their ready endpoints. Knows nothing of sockets and packet filters.

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

/// The label of an EndpointSlice with the name of its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// The name of a Service with its namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct ServiceKey {
    namespace: String,
    name: String,
}

/// All Services of the cluster and their endpoints. Clones share the same table.
#[derive(Debug, Clone, Default)]
pub(super) struct ServiceTable {
    objects: Arc<Mutex<Objects>>,
}

#[derive(Debug, Default)]
struct Objects {
    services: BTreeMap<ServiceKey, Arc<Service>>,
    endpoints: BTreeMap<ServiceKey, Vec<ReadyEndpoint>>,
}

/// A ready endpoint of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ReadyEndpoint {
    address: IpAddr,
    /// The names and numbers of its ports. A port without a name has the empty name.
    ports: Vec<(String, u16)>,
}

/// A TCP port of a Service that has an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ServicePort {
    /// The cluster address of the Service, and the number of the port.
    pub address: SocketAddr,
    /// The ready endpoints behind the port, in the order of their addresses.
    pub endpoints: Vec<SocketAddr>,
}

impl ServiceTable {
    /// Replaces all Services.
    pub(super) fn set_services(&self, services: Vec<Arc<Service>>) {
        let key = |service: &Service| key(service.namespace(), service.name_any());
        self.objects().services = services.into_iter().map(|service| (key(&service), service)).collect();
    }

    /// Replaces all endpoints by those of EndpointSlices.
    pub(super) fn set_slices(&self, slices: Vec<Arc<EndpointSlice>>) {
        let mut endpoints: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for slice in slices {
            let Some(service) = slice.labels().get(SERVICE_LABEL) else { continue };
            endpoints.entry(key(slice.namespace(), service.clone())).or_default().extend(ready_in_slice(&slice));
        }
        self.objects().endpoints = endpoints;
    }

    /// Replaces all endpoints by those of Endpoints objects.
    pub(super) fn set_endpoints(&self, objects: Vec<Arc<Endpoints>>) {
        let endpoints = objects.iter().map(|object| (key(object.namespace(), object.name_any()), ready_in(object)));
        self.objects().endpoints = endpoints.collect();
    }

    /// The TCP ports of all Services with a cluster address.
    pub(super) fn ports(&self) -> Vec<ServicePort> {
        let objects = self.objects();
        let mut all = Vec::new();
        for (key, service) in &objects.services {
            let endpoints = objects.endpoints.get(key).map(Vec::as_slice).unwrap_or_default();
            let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
            for port in ports.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP")) {
                let Ok(number) = u16::try_from(port.port) else { continue };
                let name = port.name.as_deref().unwrap_or_default();
                for address in cluster_addresses(service) {
                    // A packet keeps its version of the Internet Protocol.
                    let endpoints = endpoints.iter().filter(|endpoint| endpoint.address.is_ipv4() == address.is_ipv4());
                    let mut endpoints: Vec<_> = endpoints.filter_map(|endpoint| endpoint.socket(name)).collect();
                    endpoints.sort();
                    all.push(ServicePort { address: (address, number).into(), endpoints });
                }
            }
        }
        all
    }

    /// The addresses of a name such as `dispatcher.shop.svc.cluster.local.`: the cluster addresses of the Service, or
    /// those of the ready endpoints if the Service is headless. `None` if there is no such Service.
    pub(super) fn resolve(&self, name: &str) -> Option<Vec<IpAddr>> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let (service, namespace) = name.strip_suffix(".svc.cluster.local")?.split_once('.')?;
        let key = ServiceKey { namespace: namespace.to_owned(), name: service.to_owned() };
        let objects = self.objects();
        let service = objects.services.get(&key)?;
        let own = cluster_addresses(service);
        if !own.is_empty() {
            return Some(own);
        }
        Some(objects.endpoints.get(&key).into_iter().flatten().map(|endpoint| endpoint.address).collect())
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().expect("no thread panics while it holds the lock")
    }
}

impl ReadyEndpoint {
    /// The address of the endpoint with the number of its port `name`; `None` if it has no such port.
    fn socket(&self, name: &str) -> Option<SocketAddr> {
        let (_, number) = self.ports.iter().find(|(found, _)| found == name)?;
        Some((self.address, *number).into())
    }
}

fn key(namespace: Option<String>, name: String) -> ServiceKey {
    ServiceKey { namespace: namespace.unwrap_or_default(), name }
}

/// The ready endpoints of a slice. By the documentation of EndpointSlice, an unknown state counts as ready.
fn ready_in_slice(slice: &EndpointSlice) -> Vec<ReadyEndpoint> {
    let ports = slice.ports.iter().flatten();
    let ports = ports.filter_map(|port| Some((port.name.clone().unwrap_or_default(), u16::try_from(port.port?).ok()?)));
    let ports: Vec<_> = ports.collect();
    let is_ready = |ready: Option<bool>| ready.unwrap_or(true);
    let ready = slice
        .endpoints
        .iter()
        .filter(|endpoint| is_ready(endpoint.conditions.as_ref().and_then(|conditions| conditions.ready)));
    let addresses = ready.flat_map(|endpoint| endpoint.addresses.first()).filter_map(|address| address.parse().ok());
    addresses.map(|address| ReadyEndpoint { address, ports: ports.clone() }).collect()
}

/// The ready endpoints of an Endpoints object.
fn ready_in(object: &Endpoints) -> Vec<ReadyEndpoint> {
    let mut all = Vec::new();
    for subset in object.subsets.iter().flatten() {
        let ports = subset.ports.iter().flatten();
        let ports =
            ports.filter_map(|port| Some((port.name.clone().unwrap_or_default(), u16::try_from(port.port).ok()?)));
        let ports: Vec<_> = ports.collect();
        let addresses = subset.addresses.iter().flatten().filter_map(|address| address.ip.parse().ok());
        all.extend(addresses.map(|address| ReadyEndpoint { address, ports: ports.clone() }));
    }
    all
}

/// The cluster addresses of a Service, one of each version of the Internet Protocol that it has. None if the Service is
/// headless, which the text `None` in its specification says.
fn cluster_addresses(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let all = spec.cluster_ips.as_deref().unwrap_or(spec.cluster_ip.as_slice());
    all.iter().filter_map(|address| address.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn table() -> ServiceTable {
        let service = |name: &str, spec: Value| {
            let service = json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec});
            Arc::new(serde_json::from_value(service).expect("a Service"))
        };
        let endpoints = |name: &str| {
            let ports = json!([{"name": "http", "port": 5052}, {"name": "admin", "port": 5054}]);
            let subset = json!({"addresses": [{"ip": "10.244.0.2"}, {"ip": "10.244.0.3"}],
                "notReadyAddresses": [{"ip": "10.244.0.4"}], "ports": ports});
            let endpoints = json!({"metadata": {"name": name, "namespace": "shop"}, "subsets": [subset]});
            Arc::new(serde_json::from_value(endpoints).expect("Endpoints"))
        };
        let ports = json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
        let table = ServiceTable::default();
        table.set_services(vec![
            service("one", json!({"clusterIP": "10.96.0.5", "ports": ports})),
            service("headless", json!({"clusterIP": "None", "ports": ports})),
            service("empty", json!({"clusterIP": "None"})),
        ]);
        table.set_endpoints(vec![endpoints("one"), endpoints("headless")]);
        table
    }

    /// The same table, whose endpoints come from EndpointSlices. Those of the Service `one` are in two slices.
    fn table_of_slices() -> ServiceTable {
        let ports = json!([{"name": "admin", "port": 5054}, {"name": "http", "port": 5052}]);
        let slice = |service: &str, endpoints: Value| {
            let metadata = json!({"namespace": "shop", "labels": {SERVICE_LABEL: service}});
            let slice = json!({"metadata": metadata, "addressType": "IPv4", "endpoints": endpoints, "ports": ports});
            Arc::new(serde_json::from_value(slice).expect("an EndpointSlice"))
        };
        let endpoint = |address: &str, ready: Value| json!({"addresses": [address], "conditions": {"ready": ready}});
        let [second, third] = [endpoint("10.244.0.2", json!(true)), endpoint("10.244.0.3", json!(null))];
        let unready = endpoint("10.244.0.4", json!(false));
        let table = table();
        table.set_slices(vec![
            slice("one", json!([third, unready])),
            slice("one", json!([second])),
            slice("headless", json!([second, third])),
        ]);
        table
    }

    #[test]
    fn a_port_has_the_ready_endpoints_of_its_name() {
        for table in [table(), table_of_slices()] {
            let socket = |last: u8, port: u16| SocketAddr::from(([10, 244, 0, last], port));
            let address = ([10, 96, 0, 5], 80).into();
            assert_eq!(table.ports(), [ServicePort { address, endpoints: vec![socket(2, 5052), socket(3, 5052)] }]);
        }
    }

    #[test]
    fn each_address_of_a_dual_stack_service_has_the_endpoints_of_its_own_version() {
        let service = json!({"metadata": {"name": "two", "namespace": "shop"}, "spec": {"clusterIP": "10.96.0.5",
            "clusterIPs": ["10.96.0.5", "fd00:10:96::5"], "ports": [{"port": 80}]}});
        let slice = |kind: &str, address: &str| {
            let slice = json!({"metadata": {"namespace": "shop", "labels": {SERVICE_LABEL: "two"}}, "addressType": kind,
                "endpoints": [{"addresses": [address]}], "ports": [{"port": 5052}]});
            Arc::new(serde_json::from_value(slice).expect("an EndpointSlice"))
        };
        let table = ServiceTable::default();
        table.set_services(vec![Arc::new(serde_json::from_value(service).expect("a Service"))]);
        table.set_slices(vec![slice("IPv4", "10.244.0.2"), slice("IPv6", "fd00:10:244::2")]);
        let found = table.ports().into_iter().map(|port| format!("{} {:?}", port.address, port.endpoints));
        let expected = ["10.96.0.5:80 [10.244.0.2:5052]", "[fd00:10:96::5]:80 [[fd00:10:244::2]:5052]"];
        assert_eq!(found.collect::<Vec<_>>(), expected);
        assert_eq!(table.resolve("two.shop.svc.cluster.local").map(|found| found.len()), Some(2));
    }

    #[test]
    fn names_resolve_to_cluster_addresses_and_those_of_headless_services_to_endpoints() {
        for table in [table(), table_of_slices()] {
            assert_eq!(table.resolve("headless.shop.svc.cluster.local").map(|found| found.len()), Some(2));
        }
        let table = table();
        let resolve = |name: &str| table.resolve(name);
        assert_eq!(resolve("one.shop.svc.cluster.local."), Some(vec![[10, 96, 0, 5].into()]));
        assert_eq!(resolve("Headless.shop.svc.cluster.local").map(|found| found.len()), Some(2));
        assert_eq!(resolve("empty.shop.svc.cluster.local"), Some(vec![]));
        for name in
            ["", "one", "one.shop", "one.other.svc.cluster.local", "svc.cluster.local", "a.one.shop.svc.cluster.local"]
        {
            assert_eq!(resolve(name), None, "{name}");
        }
    }
}
