//! The check of the NetworkPolicies: for each pair of pods, whether one may connect to the other.

use super::{Fixture, ROLLOUT_TIMEOUT, strangers};
use crate::access::pod_addresses;
use crate::network::{IpFamily, Network};
use crate::wait::wait_for;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// A namespace without Roundhouse, with a pod that has the labels of Roundhouse's Prometheus.
const OTHER_NAMESPACE: &str = "roundhouse-strangers";

/// Time after which a connection counts as dropped. Permitted connections take less than a millisecond.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A query of the cluster's name server for `dispatcher.roundhouse.svc.cluster.local`, type A.
const DNS_QUERY: &[u8] =
    b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x0adispatcher\x0aroundhouse\x03svc\x07cluster\x05local\0\0\x01\0\x01";

/// The components whose pods connect and are connected to, with the ports of Roundhouse's programs.
const TARGETS: [(&str, u16); 3] = [("dispatcher", 5052), ("replica", 6000), ("scaler", 5053)];

/// For each peer, the targets to which it may connect. `api` is the API server, `dns` the name server, and `outside` a
/// pod of another namespace.
const PERMITTED: [(&str, &[&str]); 6] = [
    ("dispatcher", &["dispatcher", "replica", "api", "dns", "outside"]),
    ("replica", &[]),
    ("scaler", &["dispatcher", "api", "dns", "outside"]),
    ("prometheus", &["dispatcher", "replica", "scaler", "api", "dns", "outside"]),
    ("stranger", &["dispatcher", "api", "dns", "outside"]),
    ("outside", &["dispatcher", "api", "dns"]),
];

/// The same for the programs of Roundhouse once the rule for the API server names its address and port.
const NARROWED: [(&str, &[&str]); 3] =
    [("dispatcher", &["replica", "api", "dns"]), ("replica", &[]), ("scaler", &["dispatcher", "api", "dns"])];

/// Tries every pair of pods. Then narrows the rules for the API server, as docs/kubernetes.md shows, and tries again.
pub(super) async fn check(fixture: &Fixture) -> Result<String> {
    let kubectl = &fixture.cluster.kubectl;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OTHER_NAMESPACE}});
    let items = [
        namespace,
        strangers::pod(kubectl.namespace(), "stranger", &json!({"app": "stranger"})),
        strangers::pod(kubectl.namespace(), "prometheus", &labels_of("prometheus")),
        strangers::pod(OTHER_NAMESPACE, "outside", &labels_of("prometheus")),
    ];
    for item in &items {
        apply(fixture, item).await?;
    }
    let figures = try_all(fixture).await;
    // Also after a failure, which would otherwise make the next checks fail.
    kubectl.run(&["delete", "pod", "stranger", "prometheus", "--wait=false"]).await?;
    kubectl.run(&["delete", "namespace", OTHER_NAMESPACE, "--wait=false"]).await?;
    figures
}

/// Applies an object in its own namespace. Tries again while a new namespace has no ServiceAccount, without which pods are
/// refused.
async fn apply(fixture: &Fixture, object: &Value) -> Result<()> {
    let flag = format!("--namespace={}", object["metadata"]["namespace"].as_str().unwrap_or_default());
    wait_for("the ServiceAccount of a new namespace", ROLLOUT_TIMEOUT, async || {
        match fixture.cluster.kubectl.run_with_input(&[&flag, "apply", "-f", "-"], &object.to_string()).await {
            Err(error) if error.to_string().contains("serviceaccount") => Ok(None),
            applied => applied.map(|_output| Some(())),
        }
    })
    .await
}

async fn try_all(fixture: &Fixture) -> Result<String> {
    let kubectl = &fixture.cluster.kubectl;
    for (namespace, pods) in [(kubectl.namespace(), &["stranger", "prometheus"][..]), (OTHER_NAMESPACE, &["outside"])] {
        for pod in pods {
            let (flag, name) = (format!("--namespace={namespace}"), format!("pod/{pod}"));
            let timeout = format!("--timeout={}s", ROLLOUT_TIMEOUT.as_secs());
            kubectl.run(&[&flag, "wait", "--for=condition=Ready", &name, &timeout]).await?;
        }
    }
    let families = fixture.cluster.local()?.node.network().families;
    let addresses = addresses(fixture, families.primary).await?;
    let (mut permitted, mut dropped) = try_pairs(fixture, &addresses, &PERMITTED).await?;
    if let Some(family) = families.secondary {
        let (more_permitted, more_dropped) =
            try_pairs(fixture, &pod_addresses_of(fixture, family).await?, &PERMITTED).await?;
        (permitted, dropped) = (permitted + more_permitted, dropped + more_dropped);
    }
    let rules = narrow(fixture).await?;
    let narrowed = try_narrowed(fixture, &addresses).await;
    for (policy, rules) in rules {
        patch_egress(fixture, policy, &rules).await?;
    }
    let (narrowed_permitted, narrowed_dropped) = narrowed?;
    Ok(format!(
        "{permitted} pairs may connect, {dropped} may not; with narrowed rules {narrowed_permitted} and \
         {narrowed_dropped}"
    ))
}

/// Waits until the narrowed rules hold, and tries the pairs of Roundhouse's programs.
async fn try_narrowed(fixture: &Fixture, addresses: &BTreeMap<&str, SocketAddr>) -> Result<(usize, usize)> {
    let network = fixture.cluster.local()?.node.network();
    for peer in ["dispatcher", "scaler"] {
        wait_for("the narrowed rules to hold", ROLLOUT_TIMEOUT, async || {
            let is_open = can_connect(network, addresses[peer].ip(), "outside", addresses["outside"]).await?;
            Ok((!is_open).then_some(()))
        })
        .await?;
    }
    try_pairs(fixture, addresses, &NARROWED).await
}

/// Replaces the rule for all ports of TCP by one for the API server's address and port. Returns each policy's name and
/// its rules before.
async fn narrow(fixture: &Fixture) -> Result<Vec<(&'static str, Value)>> {
    let api_server = fixture.cluster.local()?.control_plane.address();
    let prefix = if api_server.is_ipv4() { 32 } else { 128 };
    let peer = json!({"ipBlock": {"cidr": format!("{}/{prefix}", api_server.ip())}});
    let mut before = Vec::new();
    for policy in ["dispatcher", "scaler"] {
        let get = ["get", "networkpolicy", policy, "-o", "jsonpath={.spec.egress}"];
        let rules: Value = serde_json::from_str(&fixture.cluster.kubectl.run(&get).await?)?;
        let mut narrowed = rules.clone();
        let all = narrowed.as_array_mut().and_then(|rules| rules.last_mut());
        *all.with_context(|| format!("the NetworkPolicy {policy} has no rules for egress"))? =
            json!({"to": [peer], "ports": [{"port": api_server.port()}]});
        patch_egress(fixture, policy, &narrowed).await?;
        before.push((policy, rules));
    }
    Ok(before)
}

async fn patch_egress(fixture: &Fixture, policy: &str, rules: &Value) -> Result<()> {
    let patch = json!([{"op": "replace", "path": "/spec/egress", "value": rules}]).to_string();
    fixture.cluster.kubectl.run(&["patch", "networkpolicy", policy, "--type=json", "-p", &patch]).await.map(drop)
}

fn labels_of(component: &str) -> Value {
    json!({"app.kubernetes.io/name": "roundhouse", "app.kubernetes.io/component": component})
}

/// The address of a pod of each component, of each stranger, of the API server and of the name server. `family` is the
/// primary one, of which the last two have addresses.
async fn addresses(fixture: &Fixture, family: IpFamily) -> Result<BTreeMap<&'static str, SocketAddr>> {
    let mut addresses = pod_addresses_of(fixture, family).await?;
    let api_server = fixture.cluster.service_address_in("default", "kubernetes").await?;
    addresses.insert("api", (api_server, 443).into());
    addresses.insert("dns", (family.dns_address(), 53).into());
    Ok(addresses)
}

/// The address of a pod of each component and of each stranger.
async fn pod_addresses_of(fixture: &Fixture, family: IpFamily) -> Result<BTreeMap<&'static str, SocketAddr>> {
    let cluster = &fixture.cluster;
    let mut pods = Vec::new();
    for (component, port) in TARGETS {
        let all = cluster.pods(component).await?;
        pods.push((component, all.into_iter().next().with_context(|| format!("there is no {component}"))?, port));
    }
    for (namespace, pod) in [
        (cluster.kubectl.namespace(), "prometheus"),
        (cluster.kubectl.namespace(), "stranger"),
        (OTHER_NAMESPACE, "outside"),
    ] {
        let found = Api::<Pod>::namespaced(cluster.client.clone(), namespace).get(pod).await;
        pods.push((pod, found.with_context(|| format!("get pod {pod}"))?, strangers::PORT));
    }
    let address = |(name, pod, port)| {
        let address = pod_addresses(&pod).into_iter().find(|&address| IpFamily::of(address) == family);
        Ok((name, SocketAddr::new(address.with_context(|| format!("pod {name} has no address"))?, port)))
    };
    pods.into_iter().map(address).collect()
}

/// Tries each peer of `permitted` with every target that has an address. Returns how many pairs may connect, and how many
/// may not.
async fn try_pairs(
    fixture: &Fixture,
    addresses: &BTreeMap<&str, SocketAddr>,
    permitted: &[(&str, &[&str])],
) -> Result<(usize, usize)> {
    let network = fixture.cluster.local()?.node.network();
    let (mut wrong, mut open, mut closed) = (Vec::new(), 0, 0);
    for (peer, targets) in permitted {
        for target in ["dispatcher", "replica", "scaler", "api", "dns", "outside"] {
            // A connection of a pod to itself never leaves the pod.
            let Some(&address) = addresses.get(target).filter(|_| *peer != target) else { continue };
            let can = can_connect(network, addresses[peer].ip(), target, address).await?;
            if can != targets.contains(&target) {
                wrong.push(format!("{peer} {} connect to {target}", if can { "can" } else { "cannot" }));
            }
            if can { open += 1 } else { closed += 1 }
        }
    }
    ensure!(wrong.is_empty(), "the NetworkPolicies are wrong: {}", wrong.join("; "));
    Ok((open, closed))
}

/// Whether a process in the pod with the address `peer` reaches a target.
async fn can_connect(network: &Network, peer: IpAddr, target: &str, address: SocketAddr) -> Result<bool> {
    let is_name_server = target == "dns";
    network.run_in_pod(peer, move || if is_name_server { is_answered(address) } else { is_connected(address) }).await?
}

/// Whether a TCP connection reaches `address`. A refused connection has reached it, too.
fn is_connected(address: SocketAddr) -> Result<bool> {
    match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(true),
        Err(error) if error.kind() == ErrorKind::TimedOut => Ok(false),
        Err(error) => Err(error).with_context(|| format!("connect to {address}")),
    }
}

/// Whether the name server at `address` answers a query.
fn is_answered(address: SocketAddr) -> Result<bool> {
    let any: SocketAddr = if address.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
    let socket = UdpSocket::bind(any).context("open a UDP socket")?;
    socket.set_read_timeout(Some(CONNECT_TIMEOUT)).context("set a timeout")?;
    // Sending fails at once if a rule of the pod's own network drops the packet.
    let is_sent = socket.send_to(DNS_QUERY, address).is_ok();
    Ok(is_sent && socket.recv(&mut [0; 512]).is_ok())
}
