//! The endpoints of all pods behind a Service, as EndpointSlices or Endpoints list them. Pure: objects in, changes out.
//! One pod is one endpoint, however many objects list it and at however many addresses. The work for a changed object is
//! in proportion to the object, and not to all objects.

use crate::rotation::{Address, EndpointChanges, Pod};
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// One address of a pod in one object. The order is that of preference: a ready endpoint comes before one that only
/// serves while it terminates, and IPv4 before IPv6.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodEndpoint {
    is_terminating: bool,
    is_ipv6: bool,
    address: Address,
    pod: Option<Pod>,
}

/// What tells that two endpoints are of one pod: the pod's identity or, for an endpoint without a pod, the address.
type PodKey = std::sync::Arc<str>;

/// The endpoints of all objects, and the published ones.
///
/// If no pod is ready, the pods that still serve while they terminate are published.
#[derive(Debug, Default)]
pub struct PodEndpoints {
    /// The endpoints in each object, by the name of the object.
    objects: HashMap<String, Vec<PodEndpoint>>,
    /// All endpoints of each pod. A pod that several objects list has several.
    pods: HashMap<PodKey, Vec<PodEndpoint>>,
    /// Number of pods with a ready endpoint.
    ready: usize,
    /// The published address of each pod.
    published: HashMap<PodKey, Address>,
    /// The pods with each published address, which are more than one while an address passes to another pod. The last is
    /// the one that is published.
    owners: HashMap<Address, Vec<PodKey>>,
}

impl PodEndpoints {
    /// Replaces the endpoints of the object `name`. Returns the changes of the published set. An object that was deleted
    /// has no endpoints.
    pub fn replace(&mut self, name: String, endpoints: Vec<PodEndpoint>) -> EndpointChanges {
        let mut touched = HashSet::new();
        let terminating_counted = self.ready == 0;
        self.store(name, endpoints, &mut touched);
        self.publish(touched, terminating_counted)
    }

    /// Replaces all objects. Returns the changes of the published set.
    pub fn replace_all(&mut self, mut objects: HashMap<String, Vec<PodEndpoint>>) -> EndpointChanges {
        let mut touched = HashSet::new();
        let terminating_counted = self.ready == 0;
        let gone: Vec<String> = self.objects.keys().filter(|name| !objects.contains_key(*name)).cloned().collect();
        objects.extend(gone.into_iter().map(|name| (name, Vec::new())));
        for (name, endpoints) in objects {
            self.store(name, endpoints, &mut touched);
        }
        self.publish(touched, terminating_counted)
    }

    /// Stores the endpoints of one object. Adds the pods whose endpoints differ to `touched`.
    fn store(&mut self, name: String, endpoints: Vec<PodEndpoint>, touched: &mut HashSet<PodKey>) {
        let before = self.objects.remove(&name).unwrap_or_default();
        let (old, new): (HashSet<&PodEndpoint>, HashSet<&PodEndpoint>) =
            (before.iter().collect(), endpoints.iter().collect());
        for &gone in old.difference(&new) {
            self.change_pod(gone.key(), touched, |all| {
                if let Some(index) = all.iter().position(|endpoint| endpoint == gone) {
                    all.swap_remove(index);
                }
            });
        }
        for &added in new.difference(&old) {
            self.change_pod(added.key(), touched, |all| all.push(added.clone()));
        }
        if !endpoints.is_empty() {
            self.objects.insert(name, endpoints);
        }
    }

    fn change_pod(&mut self, key: PodKey, touched: &mut HashSet<PodKey>, change: impl FnOnce(&mut Vec<PodEndpoint>)) {
        let all = self.pods.entry(key.clone()).or_default();
        self.ready -= usize::from(is_ready(all));
        change(all);
        self.ready += usize::from(is_ready(all));
        if all.is_empty() {
            self.pods.remove(&key);
        }
        touched.insert(key);
    }

    /// Compares the published address of each pod in `touched` with the one that its endpoints give now. If the last
    /// ready pod has gone or the first has come, all pods are compared, because the terminating ones count only while
    /// no pod is ready.
    fn publish(&mut self, mut touched: HashSet<PodKey>, terminating_counted: bool) -> EndpointChanges {
        let terminating_count = self.ready == 0;
        if terminating_count != terminating_counted {
            touched.extend(self.pods.keys().chain(self.published.keys()).cloned());
        }
        // The published pod of each address before the change.
        let mut before: HashMap<Address, Option<PodKey>> = HashMap::new();
        for key in touched {
            let endpoints = self.pods.get(&key).map(Vec::as_slice).unwrap_or_default();
            let usable = endpoints.iter().filter(|endpoint| terminating_count || !endpoint.is_terminating);
            let next = usable.min().map(|endpoint| endpoint.address.clone());
            let last = match &next {
                Some(address) => self.published.insert(key.clone(), address.clone()),
                None => self.published.remove(&key),
            };
            if last == next {
                continue;
            }
            for address in last.iter().chain(&next) {
                let owner = self.owners.get(address).and_then(|owners| owners.last()).cloned();
                before.entry(address.clone()).or_insert(owner);
            }
            if let Some(address) = last
                && let Some(owners) = self.owners.get_mut(&address)
            {
                owners.retain(|owner| *owner != key);
                if owners.is_empty() {
                    self.owners.remove(&address);
                }
            }
            if let Some(address) = next {
                self.owners.entry(address).or_default().push(key);
            }
        }
        let mut changes = EndpointChanges::default();
        for (address, owner) in before {
            match self.owners.get(&address).and_then(|owners| owners.last()) {
                Some(key) if owner.as_ref() != Some(key) => {
                    let pod = self.pods.get(key).and_then(|all| all.iter().find_map(|endpoint| endpoint.pod.clone()));
                    changes.added.push((address, pod));
                }
                Some(_) => {}
                None if owner.is_some() => changes.removed.push(address),
                None => {}
            }
        }
        // Without an order, replicas would be probed and picked in another order after each start.
        changes.added.sort_unstable();
        changes.removed.sort_unstable();
        changes
    }
}

impl PodEndpoint {
    fn key(&self) -> PodKey {
        self.pod.as_ref().unwrap_or(&self.address).clone()
    }
}

fn is_ready(endpoints: &[PodEndpoint]) -> bool {
    endpoints.iter().any(|endpoint| !endpoint.is_terminating)
}

/// The endpoints of a slice that are ready, or that still serve while they terminate. `port` is the name of the replicas'
/// port; `None` stands for the first port.
pub fn from_slice(slice: &EndpointSlice, port: Option<&str>) -> Vec<PodEndpoint> {
    let ports = slice.ports.as_deref().unwrap_or_default();
    let number = ports.iter().find(|found| port.is_none() || found.name.as_deref() == port).and_then(|port| port.port);
    let Some(number) = number else { return Vec::new() };
    let endpoints = slice.endpoints.iter().flat_map(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        // An endpoint without the condition is ready, by the documentation of EndpointConditions.
        let is_ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
        let is_serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(false);
        let pod = identity(endpoint.target_ref.as_ref());
        let addresses = endpoint.addresses.iter().filter(move |_| is_ready || is_serving);
        addresses.filter_map(move |ip| pod_endpoint(ip, number, pod.clone(), !is_ready))
    });
    endpoints.collect()
}

/// The ready endpoints in all subsets. `port` is the name of the replicas' port; `None` stands for the first port.
pub fn from_endpoints(object: &Endpoints, port: Option<&str>) -> Vec<PodEndpoint> {
    let mut ready = Vec::new();
    for subset in object.subsets.iter().flatten() {
        let ports = subset.ports.as_deref().unwrap_or_default();
        let Some(number) = ports.iter().find(|found| port.is_none() || found.name.as_deref() == port) else { continue };
        ready.extend(
            subset
                .addresses
                .iter()
                .flatten()
                .filter_map(|found| pod_endpoint(&found.ip, number.port, identity(found.target_ref.as_ref()), false)),
        );
    }
    ready
}

/// The identity of the pod to which an endpoint refers: its UID, or else its name.
fn identity(reference: Option<&ObjectReference>) -> Option<Pod> {
    let ObjectReference { uid, name, .. } = reference?;
    uid.as_deref().or(name.as_deref()).filter(|identity| !identity.is_empty()).map(Pod::from)
}

/// The endpoint at `ip:port`, with an IPv6 address in brackets. `None` if `ip` is no IP address, because slices may hold
/// domain names.
fn pod_endpoint(ip: &str, port: i32, pod: Option<Pod>, is_terminating: bool) -> Option<PodEndpoint> {
    let port = u16::try_from(port).ok()?;
    let (is_ipv6, address) = match ip.parse().ok()? {
        IpAddr::V4(ip) => (false, format!("{ip}:{port}")),
        IpAddr::V6(ip) => (true, format!("[{ip}]:{port}")),
    };
    Some(PodEndpoint { is_terminating, is_ipv6, address: address.into(), pod })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rotation::Endpoints as Published;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn parse(slice: &Value) -> EndpointSlice {
        serde_json::from_value(slice.clone()).expect("the JSON is an EndpointSlice")
    }

    fn slice(endpoints: &Value) -> Value {
        let ports = json!([{"name": "http", "port": 6000}, {"name": "admin", "port": 6001}]);
        json!({"addressType": "IPv4", "metadata": {}, "endpoints": endpoints, "ports": ports})
    }

    /// The endpoint of the pod `uid` at `ip`.
    fn of_pod(uid: &str, ip: &str) -> Value {
        json!({"addresses": [ip], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": uid, "uid": uid}})
    }

    /// The published set, which follows the changes.
    #[derive(Default)]
    struct Follower {
        pods: PodEndpoints,
        published: Published,
    }

    impl Follower {
        /// Applies a slice. Returns the published addresses.
        fn apply(&mut self, name: &str, slice: &Value) -> Vec<&str> {
            let changes = self.pods.replace(name.into(), from_slice(&parse(slice), None));
            self.follow(changes)
        }

        fn follow(&mut self, changes: EndpointChanges) -> Vec<&str> {
            for address in changes.removed {
                assert!(self.published.remove(&address).is_some(), "{address} was not published");
            }
            self.published.extend(changes.added);
            self.published.keys().map(|address| &**address).collect()
        }
    }

    fn check(given: &[Value], port: Option<&str>, expected: &[&str]) {
        let endpoints = |slice| from_slice(&parse(slice), port);
        let objects = given.iter().enumerate().map(|(number, slice)| (number.to_string(), endpoints(slice)));
        let mut follower = Follower::default();
        let changes = follower.pods.replace_all(objects.collect());
        assert_eq!(follower.follow(changes), expected, "{given:?}");
    }

    #[test]
    fn slices_are_merged_and_endpoints_that_are_not_ready_are_left_out() {
        let one =
            slice(&json!([{"addresses": ["10.0.0.1"], "conditions": {"ready": true}}, {"addresses": ["10.0.0.2"]}]));
        let two = slice(&json!([
            {"addresses": ["10.0.0.2"], "conditions": {"ready": true}},
            {"addresses": ["fd00::3"], "conditions": {"ready": null}},
            {"addresses": ["10.0.0.4"], "conditions": {"ready": false, "serving": false}},
            {"addresses": ["a.example"]},
        ]));
        check(&[one.clone(), two], None, &["10.0.0.1:6000", "10.0.0.2:6000", "[fd00::3]:6000"]);
        check(std::slice::from_ref(&one), Some("admin"), &["10.0.0.1:6001", "10.0.0.2:6001"]);
        check(&[one], Some("grpc"), &[]);
        check(&[slice(&json!([]))], None, &[]);
        check(&[], None, &[]);
    }

    #[test]
    fn terminating_endpoints_are_used_only_when_none_is_ready() {
        let terminating =
            json!({"addresses": ["10.0.0.1"], "conditions": {"ready": false, "serving": true, "terminating": true}});
        let ready = json!({"addresses": ["10.0.0.2"], "conditions": {"ready": true}});
        check(&[slice(&json!([terminating]))], None, &["10.0.0.1:6000"]);
        check(&[slice(&json!([terminating])), slice(&json!([ready]))], None, &["10.0.0.2:6000"]);
    }

    #[test]
    fn only_the_ready_addresses_of_endpoints_are_published() {
        let object: Endpoints = serde_json::from_value(json!({"subsets": [{
            "addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::2"}],
            "notReadyAddresses": [{"ip": "10.0.0.9"}],
            "ports": [{"name": "http", "port": 6000}],
        }]}))
        .expect("the JSON is Endpoints");
        let mut follower = Follower::default();
        let changes = follower.pods.replace("replica".into(), from_endpoints(&object, None));
        assert_eq!(follower.follow(changes), ["10.0.0.1:6000", "[fd00::2]:6000"]);
        assert!(from_endpoints(&object, Some("grpc")).is_empty());
    }

    #[test]
    fn a_pod_with_addresses_of_both_families_is_one_replica() {
        let mut follower = Follower::default();
        assert_eq!(follower.apply("v6", &slice(&json!([of_pod("p", "fd00::1"), of_pod("q", "fd00::2")]))).len(), 2);
        let both = ["10.0.0.1:6000", "10.0.0.2:6000"];
        assert_eq!(follower.apply("v4", &slice(&json!([of_pod("p", "10.0.0.1"), of_pod("q", "10.0.0.2")]))), both);
        // The pod is not in the IPv4 slice, because that slice is updated later.
        assert_eq!(
            follower.apply("v4", &slice(&json!([of_pod("p", "10.0.0.1")]))),
            ["10.0.0.1:6000", "[fd00::2]:6000"]
        );
        assert_eq!(follower.apply("v6", &slice(&json!([]))), ["10.0.0.1:6000"]);
    }

    #[test]
    fn an_address_that_passes_to_another_pod_is_published_with_that_pod() {
        let mut follower = Follower::default();
        let pod = |follower: &Follower| follower.published["10.0.0.1:6000"].as_deref().map(str::to_owned);
        follower.apply("a", &slice(&json!([of_pod("p", "10.0.0.1")])));
        assert_eq!(pod(&follower).as_deref(), Some("p"));
        follower.apply("a", &slice(&json!([of_pod("q", "10.0.0.1")])));
        assert_eq!(pod(&follower).as_deref(), Some("q"), "in one change");
        follower.apply("b", &slice(&json!([of_pod("r", "10.0.0.1")])));
        assert_eq!(pod(&follower).as_deref(), Some("r"), "while the old slice is not yet updated");
        follower.apply("a", &slice(&json!([])));
        assert_eq!(pod(&follower).as_deref(), Some("r"));
    }

    proptest! {
        #[test]
        fn changes_add_up_to_the_same_set_as_all_objects_at_once(
            steps in prop::collection::vec((0..4_usize, prop::collection::vec((0..4_u8, 0..4_u8, 0..3_u8), 0..5)), 1..40),
        ) {
            let mut follower = Follower::default();
            let mut objects = HashMap::new();
            for (object, endpoints) in steps {
                let endpoints: Vec<_> = endpoints.into_iter().map(|(pod, ip, kind)| {
                    let ip = if kind == 1 { format!("fd00::{ip}") } else { format!("10.0.0.{ip}") };
                    let pod = (pod > 0).then(|| Pod::from(format!("pod-{pod}")));
                    pod_endpoint(&ip, 1, pod, kind == 2).expect("the address is well formed")
                }).collect();
                let changes = follower.pods.replace(object.to_string(), endpoints.clone());
                follower.follow(changes);
                objects.insert(object.to_string(), endpoints);
                let mut fresh = Follower::default();
                let changes = fresh.pods.replace_all(objects.clone());
                fresh.follow(changes);
                // Which of two pods has an address that both claim depends on the order of events.
                let addresses = |follower: &Follower| follower.published.keys().cloned().collect::<Vec<_>>();
                prop_assert_eq!(addresses(&follower), addresses(&fresh));
                prop_assert_eq!(follower.pods.ready, fresh.pods.ready);
            }
        }
    }
}
