//! The Services of the cluster and their endpoints. Knows nothing of sockets.

use k8s_openapi::api::core::v1::{Endpoints, Service};
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard};

/// The name of a Service with its namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ServiceKey {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
}

/// All Services and Endpoints of the cluster. Clones share the same table.
#[derive(Debug, Clone, Default)]
pub(super) struct ServiceTable {
    objects: Arc<Mutex<Objects>>,
}

#[derive(Debug, Default)]
struct Objects {
    services: BTreeMap<ServiceKey, Arc<Service>>,
    endpoints: BTreeMap<ServiceKey, Arc<Endpoints>>,
}

/// A TCP port of a Service that has an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ServicePort {
    /// The Service that has the port.
    pub service: ServiceKey,
    /// The cluster address of the Service.
    pub address: Ipv4Addr,
    /// The number of the port.
    pub number: u16,
    /// The name of the port; `None` if the port has no name.
    pub name: Option<String>,
}

impl ServiceTable {
    /// Replaces all Services.
    pub(super) fn set_services(&self, services: Vec<Arc<Service>>) {
        self.objects().services = by_key(services);
    }

    /// Replaces all Endpoints.
    pub(super) fn set_endpoints(&self, endpoints: Vec<Arc<Endpoints>>) {
        self.objects().endpoints = by_key(endpoints);
    }

    /// The TCP ports of all Services with a cluster address.
    pub(super) fn ports(&self) -> Vec<ServicePort> {
        self.objects().services.iter().flat_map(|(key, service)| tcp_ports(key, service)).collect()
    }

    /// The addresses and port numbers of the ready endpoints behind a port of a Service.
    pub(super) fn endpoints(&self, port: &ServicePort) -> Vec<(Ipv4Addr, u16)> {
        let objects = self.objects();
        let Some(endpoints) = objects.endpoints.get(&port.service) else { return Vec::new() };
        let mut all = Vec::new();
        for subset in endpoints.subsets.iter().flatten() {
            let mut ports = subset.ports.iter().flatten();
            let Some(target) = ports.find(|found| found.name == port.name) else { continue };
            let Ok(number) = u16::try_from(target.port) else { continue };
            let addresses = subset.addresses.iter().flatten();
            all.extend(addresses.filter_map(|address| Some((address.ip.parse().ok()?, number))));
        }
        all
    }

    /// The addresses of a name such as `dispatcher.shop.svc.cluster.local.`: the cluster address of the Service, or
    /// those of the ready endpoints if the Service is headless. `None` if there is no such Service.
    pub(super) fn resolve(&self, name: &str) -> Option<Vec<Ipv4Addr>> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let (service, namespace) = name.strip_suffix(".svc.cluster.local")?.split_once('.')?;
        let key = ServiceKey { namespace: namespace.to_owned(), name: service.to_owned() };
        let objects = self.objects();
        let service = objects.services.get(&key)?;
        if let Some(address) = cluster_address(service) {
            return Some(vec![address]);
        }
        let subsets = objects.endpoints.get(&key).and_then(|endpoints| endpoints.subsets.clone()).unwrap_or_default();
        let addresses = subsets.into_iter().flat_map(|subset| subset.addresses.unwrap_or_default());
        Some(addresses.filter_map(|address| address.ip.parse().ok()).collect())
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().expect("no thread panics while it holds the lock")
    }
}

fn by_key<K: ResourceExt>(objects: Vec<Arc<K>>) -> BTreeMap<ServiceKey, Arc<K>> {
    let key = |object: &K| ServiceKey { namespace: object.namespace().unwrap_or_default(), name: object.name_any() };
    objects.into_iter().map(|object| (key(&object), object)).collect()
}

fn tcp_ports(key: &ServiceKey, service: &Service) -> Vec<ServicePort> {
    let Some(address) = cluster_address(service) else { return Vec::new() };
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let tcp = ports.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
    tcp.filter_map(|port| {
        let number = u16::try_from(port.port).ok()?;
        Some(ServicePort { service: key.clone(), address, number, name: port.name.clone() })
    })
    .collect()
}

/// The cluster address of a Service. `None` if the Service is headless, which the text `None` in its specification
/// says.
fn cluster_address(service: &Service) -> Option<Ipv4Addr> {
    service.spec.as_ref()?.cluster_ip.as_ref()?.parse().ok()
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

    #[test]
    fn a_port_has_the_ready_endpoints_of_its_name() {
        let table = table();
        let [port] = &table.ports()[..] else { panic!("{:?}", table.ports()) };
        assert_eq!((port.address, port.number), ([10, 96, 0, 5].into(), 80));
        assert_eq!(table.endpoints(port), [([10, 244, 0, 2].into(), 5052), ([10, 244, 0, 3].into(), 5052)]);
    }

    #[test]
    fn names_resolve_to_cluster_addresses_and_those_of_headless_services_to_endpoints() {
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
