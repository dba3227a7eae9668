//! The rules of the node's packet filter as a text for `nft`. Pure.
//!
//! One part replaces the addresses of Services by those of their endpoints, as kube-proxy does. Another part drops what
//! NetworkPolicies do not permit. It sees packets after the replacement, as the network plugins of clusters do.

use super::network_policy::{Direction, Isolation, Peer, Permission, PortRange};
use super::service_table::ServicePort;
use crate::network::{DNS_PORT, IpFamilies, IpFamily};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

/// The name of the table with all rules.
const TABLE: &str = "roundhouse";

/// The text that replaces all rules at once. The search for the neighbours of a link is always permitted: without it, a
/// pod could not reach the node by IPv6. `services` are the ports of the Services, and `isolations` the pods that
/// permit only some connections.
pub(super) fn text(families: IpFamilies, services: &[ServicePort], isolations: &[Isolation]) -> String {
    let (node, dns) = (families.primary.node_address(), families.primary.dns_address());
    let translations: String = services.iter().filter_map(translation).collect();
    let name_server = SocketAddr::from((node, DNS_PORT));
    let ip = keyword(node);
    let dns_translation = format!("    {ip} daddr {dns} udp dport 53 dnat {ip} to {name_server}\n");
    let unanswered: String = families.all().map(rejections).collect();
    let (mut chains, mut jumps) = (String::new(), [String::new(), String::new()]);
    for Isolation { address, direction, permitted } in isolations {
        let ip = keyword(*address);
        let (side, index) = match direction {
            Direction::Egress => ("egress", 0),
            Direction::Ingress => ("ingress", 1),
        };
        let name = format!("{side}_{}", address.to_string().replace(['.', ':'], "_"));
        writeln!(chains, "  chain {name} {{").expect(INFALLIBLE);
        for permission in permitted {
            for rule in permission_rules(ip, *direction, permission) {
                writeln!(chains, "    {rule} return").expect(INFALLIBLE);
            }
        }
        chains.push_str("    drop\n  }\n");
        let field = if index == 0 { "saddr" } else { "daddr" };
        writeln!(jumps[index], "    {ip} {field} {address} jump {name}").expect(INFALLIBLE);
    }
    let [egress, ingress] = jumps;
    format!(
        "add table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
  chain services {{
{dns_translation}{translations}  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat
    jump services
  }}
  chain output {{
    type nat hook output priority -100
    jump services
  }}
  chain unanswered {{
{unanswered}  }}
{chains}  chain egress {{
{egress}  }}
  chain ingress {{
{ingress}  }}
  chain filter_output {{
    type filter hook output priority filter
    jump unanswered
  }}
  chain filter_forward {{
    type filter hook forward priority filter
    ct state established,related accept
    jump unanswered
    jump egress
    jump ingress
  }}
  chain filter_input {{
    type filter hook input priority filter
    ct state established,related accept
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
    jump egress
  }}
}}
"
    )
}

const INFALLIBLE: &str = "writing to a String never fails";

/// The name of an address's version of the Internet Protocol in rules.
fn keyword(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}

/// The rules that refuse connections to Services without endpoints.
fn rejections(family: IpFamily) -> String {
    let (ip, range) = (keyword(family.node_address()), family.service_range());
    format!("    {ip} daddr {range} meta l4proto tcp reject with tcp reset\n    {ip} daddr {range} reject\n")
}

/// The rule that sends each connection to a port of a Service to a random endpoint; `None` if there is no endpoint.
fn translation(port: &ServicePort) -> Option<String> {
    let ServicePort { address, endpoints } = port;
    let ip = keyword(address.ip());
    let elements: Vec<_> = endpoints
        .iter()
        .enumerate()
        .map(|(index, endpoint)| format!("{index} : {} . {}", endpoint.ip(), endpoint.port()))
        .collect();
    let (count, elements) = (elements.len(), elements.join(", "));
    let rule = format!(
        "    {ip} daddr {} tcp dport {} dnat {ip} to numgen random mod {count} map {{ {elements} }}\n",
        address.ip(),
        address.port()
    );
    (count > 0).then_some(rule)
}

/// The conditions that hold for the packets of a permission, one for each combination of a kind of peer and a port.
fn permission_rules(ip: &str, direction: Direction, permission: &Permission) -> Vec<String> {
    let field = match direction {
        Direction::Ingress => "saddr",
        Direction::Egress => "daddr",
    };
    let peers = match &permission.peers {
        None => vec![String::new()],
        Some(peers) => peer_conditions(ip, field, peers),
    };
    let ports = match &permission.ports {
        None => vec![String::new()],
        Some(ports) => ports.iter().map(port_condition).collect(),
    };
    peers.iter().flat_map(|peer| ports.iter().map(move |port| [peer.as_str(), port].join(" "))).collect()
}

fn peer_conditions(ip: &str, field: &str, peers: &[Peer]) -> Vec<String> {
    let mut conditions = Vec::new();
    for peer in peers {
        conditions.push(match peer {
            // An address or a range of the other version of the Internet Protocol holds for no packet of this pod's
            // address.
            Peer::Pod(address) if keyword(*address) != ip => continue,
            Peer::Pod(address) => format!("{ip} {field} {address}"),
            Peer::Block { range, .. } if range.contains(':') != (ip == "ip6") => continue,
            Peer::Block { range, except } if except.is_empty() => format!("{ip} {field} {range}"),
            Peer::Block { range, except } => {
                format!("{ip} {field} {range} {ip} {field} != {{ {} }}", except.join(", "))
            }
        });
    }
    conditions
}

fn port_condition(PortRange { protocol, numbers }: &PortRange) -> String {
    match numbers {
        None => format!("meta l4proto {protocol}"),
        Some(numbers) => format!("{protocol} dport {}-{}", numbers.start(), numbers.end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(address: [u8; 4], endpoints: &[u8]) -> ServicePort {
        let endpoints = endpoints.iter().map(|&last| ([10, 244, 0, last], 5052).into()).collect();
        ServicePort { address: (address, 80).into(), endpoints }
    }

    fn tcp(numbers: Option<std::ops::RangeInclusive<u16>>) -> PortRange {
        PortRange { protocol: "tcp".into(), numbers }
    }

    #[test]
    fn each_service_with_endpoints_has_a_rule() {
        let services = [port([10, 96, 0, 5], &[2, 3]), port([10, 96, 0, 6], &[])];
        let text = text(IpFamilies::default(), &services, &[]);
        let rule = "ip daddr 10.96.0.5 tcp dport 80 dnat ip to numgen random mod 2 map { 0 : 10.244.0.2 . 5052, 1 : \
                    10.244.0.3 . 5052 }";
        assert!(text.contains(rule), "{text}");
        assert!(!text.contains("10.96.0.6"), "{text}");
        assert!(text.contains("ip daddr 10.96.0.10 udp dport 53 dnat ip to 10.244.0.1:5353"), "{text}");
    }

    #[test]
    fn permissions_become_conditions() {
        let pods = |lasts: &[u8]| Some(lasts.iter().map(|&last| Peer::Pod([10, 0, 0, last].into())).collect());
        let block = |range: &str, except: &[&str]| {
            let except = except.iter().map(|&part| part.to_owned()).collect();
            Some(vec![Peer::Block { range: range.into(), except }])
        };
        for (peers, ports, expected) in [
            (None, None, vec![" "]),
            (pods(&[]), None, vec![]),
            (pods(&[1, 2]), None, vec!["ip saddr 10.0.0.1 ", "ip saddr 10.0.0.2 "]),
            (None, Some(vec![tcp(None), tcp(Some(80..=90))]), vec![" meta l4proto tcp", " tcp dport 80-90"]),
            (pods(&[1]), Some(vec![tcp(Some(80..=80))]), vec!["ip saddr 10.0.0.1 tcp dport 80-80"]),
            (block("10.0.0.0/8", &[]), None, vec!["ip saddr 10.0.0.0/8 "]),
            (block("10.0.0.0/8", &["10.1.0.0/16"]), None, vec!["ip saddr 10.0.0.0/8 ip saddr != { 10.1.0.0/16 } "]),
            (block("::/0", &[]), None, vec![]),
            (Some(vec![Peer::Pod("fd00::1".parse().expect("an address"))]), None, vec![]),
        ] {
            let permission = Permission { peers, ports };
            assert_eq!(permission_rules("ip", Direction::Ingress, &permission), expected, "{permission:?}");
        }
    }

    #[test]
    fn an_isolated_pod_drops_what_is_not_permitted() {
        let permitted = vec![Permission { peers: None, ports: Some(vec![tcp(Some(80..=80))]) }];
        let address = "fd00:10:244::2".parse().expect("an address");
        let isolation = Isolation { address, direction: Direction::Egress, permitted };
        let text = text("ipv6".parse().expect("a family"), &[], &[isolation]);
        let chain = "  chain egress_fd00_10_244__2 {\n     tcp dport 80-80 return\n    drop\n  }\n";
        assert!(text.contains(chain), "{text}");
        assert!(text.contains("    ip6 saddr fd00:10:244::2 jump egress_fd00_10_244__2\n"), "{text}");
    }
}
