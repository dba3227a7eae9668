//! The Services of the cluster and what is behind them.

use k8s_openapi::api::core::v1::{Endpoints, Service};
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

/// Namespace and name.
type Key = (String, String);

/// Shared by whoever looks something up.
#[derive(Debug, Clone, Default)]
pub(super) struct Directory {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    services: BTreeMap<Key, Arc<Service>>,
    endpoints: BTreeMap<Key, Arc<Endpoints>>,
}

/// A port of a Service: what is sent there goes to one of the endpoints.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    /// The Service's own address.
    pub address: Ipv4Addr,
    /// The number there.
    pub number: u16,
    /// Whose it is.
    pub service: (String, String),
    /// What it is called, if it is.
    pub name: Option<String>,
}

impl Directory {
    /// These are all Services.
    pub(super) fn set_services(&self, services: Vec<Arc<Service>>) {
        self.state().services = by_key(services);
    }

    /// These are all Endpoints.
    pub(super) fn set_endpoints(&self, endpoints: Vec<Arc<Endpoints>>) {
        self.state().endpoints = by_key(endpoints);
    }

    /// All ports of Services that have an address, TCP only.
    pub(super) fn ports(&self) -> Vec<Port> {
        let state = self.state();
        let of = |(key, service): (&Key, &Arc<Service>)| {
            let address = cluster_address(service);
            let ports = service.spec.as_ref().and_then(|spec| spec.ports.clone()).unwrap_or_default();
            let ports =
                ports.into_iter().filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
            let service = key.clone();
            ports
                .filter_map(move |port| {
                    let number = u16::try_from(port.port).ok()?;
                    Some(Port { address: address?, number, service: service.clone(), name: port.name })
                })
                .collect::<Vec<_>>()
        };
        state.services.iter().flat_map(of).collect()
    }

    /// The ready endpoints behind a port.
    pub(super) fn behind(&self, port: &Port) -> Vec<(Ipv4Addr, u16)> {
        let state = self.state();
        let Some(endpoints) = state.endpoints.get(&port.service) else { return Vec::new() };
        let mut all = Vec::new();
        for subset in endpoints.subsets.iter().flatten() {
            let mut ports = subset.ports.iter().flatten();
            let Some(target) = ports.find(|found| found.name == port.name) else { continue };
            let Ok(number) = u16::try_from(target.port) else { continue };
            let addresses = subset.addresses.iter().flatten();
            all.extend(addresses.filter_map(|found| Some((found.ip.parse().ok()?, number))));
        }
        all
    }

    /// The addresses of a name such as `dispatcher.shop.svc.cluster.local.`: the Service's own, or those of the ready
    /// endpoints of one that has none. Nothing if there is no such name.
    pub(super) fn resolve(&self, name: &str) -> Option<Vec<Ipv4Addr>> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let (service, namespace) = name.strip_suffix(".svc.cluster.local")?.split_once('.')?;
        let key = (namespace.to_owned(), service.to_owned());
        let state = self.state();
        let service = state.services.get(&key)?;
        if let Some(address) = cluster_address(service) {
            return Some(vec![address]);
        }
        let subsets = state.endpoints.get(&key).and_then(|endpoints| endpoints.subsets.clone()).unwrap_or_default();
        let addresses = subsets.into_iter().flat_map(|subset| subset.addresses.unwrap_or_default());
        Some(addresses.filter_map(|found| found.ip.parse().ok()).collect())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }
}

fn by_key<K: ResourceExt>(objects: Vec<Arc<K>>) -> BTreeMap<Key, Arc<K>> {
    objects.into_iter().map(|object| ((object.namespace().unwrap_or_default(), object.name_any()), object)).collect()
}

/// Nothing for headless ones, whose address is `None` in writing.
fn cluster_address(service: &Service) -> Option<Ipv4Addr> {
    service.spec.as_ref()?.cluster_ip.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn directory() -> Directory {
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
        let directory = Directory::default();
        directory.set_services(vec![
            service("one", json!({"clusterIP": "10.96.0.5", "ports": ports})),
            service("each", json!({"clusterIP": "None", "ports": ports})),
            service("nobody", json!({"clusterIP": "None"})),
        ]);
        directory.set_endpoints(vec![endpoints("one"), endpoints("each")]);
        directory
    }

    #[test]
    fn ports_lead_to_ready_endpoints() {
        let directory = directory();
        let [port] = &directory.ports()[..] else { panic!("{:?}", directory.ports()) };
        assert_eq!((port.address, port.number), ([10, 96, 0, 5].into(), 80));
        assert_eq!(directory.behind(port), [([10, 244, 0, 2].into(), 5052), ([10, 244, 0, 3].into(), 5052)]);
    }

    #[test]
    fn names_are_services_or_all_that_is_behind_them() {
        let directory = directory();
        let resolve = |name: &str| directory.resolve(name);
        assert_eq!(resolve("one.shop.svc.cluster.local."), Some(vec![[10, 96, 0, 5].into()]));
        assert_eq!(resolve("Each.shop.svc.cluster.local").map(|found| found.len()), Some(2));
        assert_eq!(resolve("nobody.shop.svc.cluster.local"), Some(vec![]));
        for name in
            ["", "one", "one.shop", "one.other.svc.cluster.local", "svc.cluster.local", "a.one.shop.svc.cluster.local"]
        {
            assert_eq!(resolve(name), None, "{name}");
        }
    }
}
