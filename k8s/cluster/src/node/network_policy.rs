//! The connections that the NetworkPolicies of a cluster permit. Pure.
//!
//! The rules are those of the documentation of NetworkPolicy: a pod that no policy selects for a direction permits every
//! connection in this direction, and any other pod permits those that at least one rule of its policies names.

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

type Labels = BTreeMap<String, String>;

/// The direction of a connection, seen from a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// Another peer connects to the pod.
    Ingress,
    /// The pod connects to another peer.
    Egress,
}

/// A pod that permits only some connections in one direction.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Isolation {
    /// The pod's address.
    pub address: IpAddr,
    pub direction: Direction,
    /// The permitted connections.
    pub permitted: Vec<Permission>,
}

/// Connections that a rule permits: those with one of the peers and one of the ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Permission {
    /// The peers; `None` if every peer is permitted.
    pub peers: Option<Vec<Peer>>,
    /// The ports; `None` if all ports of all protocols are permitted.
    pub ports: Option<Vec<PortRange>>,
}

/// The peers of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Peer {
    /// A pod.
    Pod(IpAddr),
    /// A range of addresses without some parts, each in the form `10.0.0.0/8`.
    Block {
        /// The range.
        range: String,
        /// The parts that are not permitted.
        except: Vec<String>,
    },
}

/// Ports of one protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortRange {
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The numbers of the ports; `None` for all.
    pub numbers: Option<RangeInclusive<u16>>,
}

/// The pods, namespaces and policies of a cluster.
#[derive(Debug, Default)]
pub(super) struct PolicyInput {
    /// The pods by their addresses.
    pub pods: BTreeMap<IpAddr, PolicyPod>,
    /// The labels of each namespace.
    pub namespaces: BTreeMap<String, Labels>,
    /// The NetworkPolicies of all namespaces.
    pub policies: Vec<Arc<NetworkPolicy>>,
}

/// A pod, as NetworkPolicies see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PolicyPod {
    namespace: String,
    labels: Labels,
    /// The names and numbers of the ports of its containers.
    ports: Vec<(String, u16)>,
}

impl PolicyPod {
    /// The pod `pod`.
    pub(super) fn new(pod: &Pod) -> Self {
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let ports = containers.flat_map(|container| container.ports.iter().flatten());
        let ports = ports.filter_map(|port| Some((port.name.clone()?, u16::try_from(port.container_port).ok()?)));
        let ports = ports.collect();
        Self { namespace: pod.namespace().unwrap_or_default(), labels: pod.labels().clone(), ports }
    }

    fn port(&self, name: &str) -> Option<u16> {
        self.ports.iter().find(|(found, _)| found == name).map(|(_, number)| *number)
    }
}

/// The labels of namespaces by their names.
pub(super) fn namespace_labels(namespaces: &[Arc<Namespace>]) -> BTreeMap<String, Labels> {
    namespaces.iter().map(|namespace| (namespace.name_any(), namespace.labels().clone())).collect()
}

impl PolicyInput {
    /// The pods that permit only some connections, in the order of their addresses.
    pub(super) fn isolations(&self) -> Vec<Isolation> {
        let mut all = Vec::new();
        for (&address, pod) in &self.pods {
            for direction in [Direction::Ingress, Direction::Egress] {
                let mut policies = self.policies.iter().filter(|policy| is_isolated(policy, pod, direction)).peekable();
                if policies.peek().is_some() {
                    let permitted = policies.flat_map(|policy| self.permissions(policy, pod, direction)).collect();
                    all.push(Isolation { address, direction, permitted });
                }
            }
        }
        all
    }

    /// What `policy` permits to `pod` in one direction.
    fn permissions(&self, policy: &NetworkPolicy, pod: &PolicyPod, direction: Direction) -> Vec<Permission> {
        let Some(spec) = &policy.spec else { return Vec::new() };
        let rules: Vec<_> = match direction {
            Direction::Ingress => spec.ingress.iter().flatten().map(|rule| (&rule.from, &rule.ports)).collect(),
            Direction::Egress => spec.egress.iter().flatten().map(|rule| (&rule.to, &rule.ports)).collect(),
        };
        let mut permissions = Vec::new();
        for (peers, ports) in rules {
            // An empty list is as good as none: it permits everything.
            let peers = peers.as_deref().filter(|peers| !peers.is_empty());
            let peers = peers.map(|peers| peers.iter().flat_map(|peer| self.peers(peer, &pod.namespace)).collect());
            let Some(ports) = ports.as_deref().filter(|ports| !ports.is_empty()) else {
                permissions.push(Permission { peers, ports: None });
                continue;
            };
            for port in ports {
                permissions.extend(self.with_port(peers.as_deref(), port, pod, direction));
            }
        }
        permissions
    }

    /// The permissions of a rule with these peers and this port. A port may be given by name. It then has the number
    /// that the receiving pod gives to this name.
    fn with_port(
        &self,
        peers: Option<&[Peer]>,
        port: &NetworkPolicyPort,
        pod: &PolicyPod,
        direction: Direction,
    ) -> Vec<Permission> {
        let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
        let permission = |peers: Option<Vec<Peer>>, numbers| {
            let protocol = protocol.clone();
            Permission { peers, ports: Some(vec![PortRange { protocol, numbers }]) }
        };
        let name = match &port.port {
            None => return vec![permission(peers.map(<[_]>::to_vec), None)],
            Some(IntOrString::Int(number)) => {
                let range = |end: i32| Some(u16::try_from(*number).ok()?..=u16::try_from(end).ok()?);
                let numbers = range(port.end_port.unwrap_or(*number));
                return numbers
                    .map(|numbers| permission(peers.map(<[_]>::to_vec), Some(numbers)))
                    .into_iter()
                    .collect();
            }
            Some(IntOrString::String(name)) => name,
        };
        match direction {
            Direction::Ingress => {
                let number = pod.port(name);
                number.map(|number| permission(peers.map(<[_]>::to_vec), Some(number..=number))).into_iter().collect()
            }
            Direction::Egress => {
                let is_peer = |address| peers.is_none_or(|peers| peers.contains(&Peer::Pod(address)));
                let receivers = self.pods.iter().filter(|(address, _)| is_peer(**address));
                let named = receivers.filter_map(|(address, receiver)| Some((*address, receiver.port(name)?)));
                named
                    .map(|(address, number)| permission(Some(vec![Peer::Pod(address)]), Some(number..=number)))
                    .collect()
            }
        }
    }

    /// The peers that an element of a rule of a policy in `namespace` names.
    fn peers(&self, peer: &NetworkPolicyPeer, namespace: &str) -> Vec<Peer> {
        if let Some(block) = &peer.ip_block {
            return vec![Peer::Block { range: block.cidr.clone(), except: block.except.clone().unwrap_or_default() }];
        }
        let is_named = |pod: &PolicyPod| {
            let is_in_namespace = match &peer.namespace_selector {
                None => pod.namespace == namespace,
                Some(selector) => self.namespaces.get(&pod.namespace).is_some_and(|labels| matches(selector, labels)),
            };
            is_in_namespace && peer.pod_selector.as_ref().is_none_or(|selector| matches(selector, &pod.labels))
        };
        self.pods.iter().filter(|(_, pod)| is_named(pod)).map(|(&address, _)| Peer::Pod(address)).collect()
    }
}

/// Whether `policy` selects `pod` and isolates it in this direction.
fn is_isolated(policy: &NetworkPolicy, pod: &PolicyPod, direction: Direction) -> bool {
    let Some(spec) = &policy.spec else { return false };
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let has_type = |name: &str| types.iter().any(|found| found == name);
    // Without `policyTypes`, a policy is one for ingress, and one for egress if it has rules for that.
    let has_direction = match direction {
        Direction::Ingress => types.is_empty() || has_type("Ingress"),
        Direction::Egress if types.is_empty() => spec.egress.is_some(),
        Direction::Egress => has_type("Egress"),
    };
    let selects = spec.pod_selector.as_ref().is_none_or(|selector| matches(selector, &pod.labels));
    has_direction && policy.namespace().as_deref() == Some(&pod.namespace) && selects
}

/// Whether a selector selects an object with these labels. The API server refuses invalid selectors.
fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    Selector::try_from(selector.clone()).is_ok_and(|selector| selector.matches(labels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(namespace: &str, labels: &Value, last: u8) -> (IpAddr, PolicyPod) {
        let pod = json!({"metadata": {"namespace": namespace, "labels": labels},
            "spec": {"containers": [{"name": "a", "ports": [{"name": "http", "containerPort": 5000 + u16::from(last)}]}]}});
        (IpAddr::from([10, 0, 0, last]), PolicyPod::new(&serde_json::from_value(pod).expect("a pod")))
    }

    /// Two pods of the namespace `shop` and one of `watch`, with one policy for the first.
    fn isolations(spec: &Value) -> Vec<Isolation> {
        let mut spec = spec.clone();
        spec["podSelector"] = json!({"matchLabels": {"app": "first"}});
        let policy = json!({"metadata": {"namespace": "shop"}, "spec": spec});
        let input = PolicyInput {
            pods: [
                pod("shop", &json!({"app": "first"}), 1),
                pod("shop", &json!({"app": "second"}), 2),
                pod("watch", &json!({"app": "second"}), 3),
            ]
            .into(),
            namespaces: [("shop", "a"), ("watch", "b")]
                .map(|(name, team)| (name.to_owned(), Labels::from([("team".to_owned(), team.to_owned())])))
                .into(),
            policies: vec![Arc::new(serde_json::from_value(policy).expect("a NetworkPolicy"))],
        };
        input.isolations()
    }

    fn permissions(spec: &Value) -> Vec<Permission> {
        let [isolation] = &isolations(spec)[..] else { panic!("one direction is expected") };
        assert_eq!(isolation.address, IpAddr::from([10, 0, 0, 1]));
        isolation.permitted.clone()
    }

    fn pods(lasts: &[u8]) -> Option<Vec<Peer>> {
        Some(lasts.iter().map(|&last| Peer::Pod([10, 0, 0, last].into())).collect())
    }

    fn tcp(numbers: RangeInclusive<u16>) -> Option<Vec<PortRange>> {
        Some(vec![PortRange { protocol: "tcp".into(), numbers: Some(numbers) }])
    }

    #[test]
    fn the_directions_are_those_of_the_policy_types() {
        use Direction::{Egress, Ingress};
        for (spec, expected) in [
            (json!({}), vec![Ingress]),
            (json!({"egress": []}), vec![Ingress, Egress]),
            (json!({"policyTypes": ["Egress"]}), vec![Egress]),
            (json!({"policyTypes": ["Ingress", "Egress"]}), vec![Ingress, Egress]),
        ] {
            let found: Vec<_> = isolations(&spec).iter().map(|isolation| isolation.direction).collect();
            assert_eq!(found, expected, "{spec}");
        }
    }

    #[test]
    fn peers_are_selected_by_the_labels_of_pods_and_namespaces() {
        let second = json!({"podSelector": {"matchLabels": {"app": "second"}}});
        let team = json!({"namespaceSelector": {"matchLabels": {"team": "b"}}});
        let both = json!({"podSelector": second["podSelector"], "namespaceSelector": {}});
        let none = json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}});
        for (peer, expected) in [
            (&second, pods(&[2])),
            (&team, pods(&[3])),
            (&both, pods(&[2, 3])),
            (&none, pods(&[])),
            (&json!({"podSelector": {}}), pods(&[1, 2])),
        ] {
            let found = permissions(&json!({"ingress": [{"from": [peer]}]}));
            assert_eq!(found, [Permission { peers: expected, ports: None }], "{peer}");
        }
        let block = json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}});
        let expected = Peer::Block { range: "10.0.0.0/8".into(), except: vec!["10.1.0.0/16".into()] };
        let found = permissions(&json!({"ingress": [{"from": [block]}]}));
        assert_eq!(found, [Permission { peers: Some(vec![expected]), ports: None }]);
        for anyone in [json!({}), json!({"from": []})] {
            let found = permissions(&json!({"ingress": [anyone]}));
            assert_eq!(found, [Permission { peers: None, ports: None }], "{anyone}");
        }
    }

    #[test]
    fn ports_have_numbers_names_ranges_and_protocols() {
        let ingress = |port: Value| permissions(&json!({"ingress": [{"ports": [port]}]}));
        let udp = |numbers| Some(vec![PortRange { protocol: "udp".into(), numbers }]);
        for (port, expected) in [
            (json!({"port": 80}), tcp(80..=80)),
            (json!({"port": 80, "endPort": 90}), tcp(80..=90)),
            (json!({"port": "http"}), tcp(5001..=5001)),
            (json!({"port": 53, "protocol": "UDP"}), udp(Some(53..=53))),
            (json!({"protocol": "UDP"}), udp(None)),
        ] {
            assert_eq!(ingress(port.clone()), [Permission { peers: None, ports: expected }], "{port}");
        }
        assert_eq!(ingress(json!({"port": "other"})), []);
    }

    #[test]
    fn a_named_port_of_a_rule_for_egress_is_that_of_each_receiver() {
        let to = json!({"podSelector": {}, "namespaceSelector": {}});
        let rule = json!({"to": [to], "ports": [{"port": "http"}]});
        let found = permissions(&json!({"policyTypes": ["Egress"], "egress": [rule]}));
        let expected = [1, 2, 3].map(|last: u8| {
            let number = 5000 + u16::from(last);
            Permission { peers: pods(&[last]), ports: tcp(number..=number) }
        });
        assert_eq!(found, expected);
    }
}
