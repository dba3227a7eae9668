//! The network of a local cluster: a network namespace for the cluster, and one for each pod.
//!
//! No connection leads from the cluster's network to the machine's network or the Internet. The cluster's namespace
//! routes all packets between pods, so that a packet filter there sees each of them, as on a real node. The program
//! `ip` of iproute2 makes the namespaces.

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fmt;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::str::FromStr;
use std::sync::atomic::{AtomicU16, Ordering};
use tokio::sync::oneshot;

/// The port of the name server on the node. Connections to port 53 of its address are forwarded to this port, as in
/// OpenShift.
pub const DNS_PORT: u16 = 5353;

/// The first part of the names of namespaces. The cluster's namespace is `PREFIX-PROCESS`, that of a pod is
/// `PREFIX-PROCESS-NUMBER`. PROCESS is the id of the process that has made the namespace.
const NAME_PREFIX: &str = "roundhouse-cluster";

/// The folder in which `ip` keeps namespaces that have names.
const NAMESPACES: &str = "/run/netns";

/// The address at which pods reach the node by IPv6. It is the same on the interface of each pod.
const GATEWAY_V6: &str = "fe80::1";

/// A version of the Internet Protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum IpFamily {
    /// IPv4
    #[default]
    Ipv4,
    /// IPv6
    Ipv6,
}

/// The versions of the Internet Protocol of a cluster: one, or two in a dual-stack cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IpFamilies {
    /// The version of the API server, of the name server, and of Services that ask for none.
    pub primary: IpFamily,
    /// The other version, of which each pod has an address, too; `None` in a cluster with one version.
    pub secondary: Option<IpFamily>,
}

impl IpFamilies {
    /// All versions, the primary one first.
    pub fn all(self) -> impl Iterator<Item = IpFamily> {
        std::iter::once(self.primary).chain(self.secondary)
    }

    /// The ranges of addresses of Services, as the flags of the control plane take them.
    pub fn service_ranges(self) -> String {
        self.all().map(IpFamily::service_range).collect::<Vec<_>>().join(",")
    }
}

impl FromStr for IpFamilies {
    type Err = String;

    /// Parses `ipv4`, `ipv6`, or both with a comma between them.
    fn from_str(text: &str) -> Result<Self, String> {
        let family = |name: &str| <IpFamily as ValueEnum>::from_str(name, false);
        let (primary, secondary) = match text.split_once(',') {
            Some((first, second)) => (family(first), family(second).map(Some)),
            None => (family(text), Ok(None)),
        };
        match (primary, secondary) {
            (Ok(primary), Ok(secondary)) if secondary != Some(primary) => Ok(Self { primary, secondary }),
            _ => Err(format!("{text:?} is none of ipv4, ipv6, \"ipv4,ipv6\" and \"ipv6,ipv4\"")),
        }
    }
}

impl fmt::Display for IpFamilies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.all().map(IpFamily::name).collect();
        write!(f, "{}", names.join(","))
    }
}

impl IpFamily {
    /// The version of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }

    /// The value of `--ip-family`.
    fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }

    /// The address of the node and of the API server.
    pub fn node_address(self) -> IpAddr {
        self.pod_address(1)
    }

    /// The address of the pod with this number. Number 1 is the node's.
    fn pod_address(self, number: u16) -> IpAddr {
        let [high, low] = number.to_be_bytes();
        match self {
            Self::Ipv4 => Ipv4Addr::new(10, 244, high, low).into(),
            Self::Ipv6 => Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, number).into(),
        }
    }

    /// The number of the pod with this address.
    fn pod_number(address: IpAddr) -> u16 {
        let bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        u16::from_be_bytes([bytes[bytes.len() - 2], bytes[bytes.len() - 1]])
    }

    /// The range from which the API server takes the address of each Service.
    pub fn service_range(self) -> &'static str {
        match self {
            Self::Ipv4 => "10.96.0.0/16",
            Self::Ipv6 => "fd00:10:96::/112",
        }
    }

    /// The address of the cluster's name server. It is in the range of Services.
    pub fn dns_address(self) -> IpAddr {
        match self {
            Self::Ipv4 => Ipv4Addr::new(10, 96, 0, 10).into(),
            Self::Ipv6 => Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 10).into(),
        }
    }

    /// The length of a prefix that is one address.
    fn host_prefix(self) -> u8 {
        match self {
            Self::Ipv4 => 32,
            Self::Ipv6 => 128,
        }
    }
}

/// The network namespace of the cluster, which is removed when this value is dropped.
pub struct Network {
    /// The name of the namespace.
    name: String,
    /// The versions of the Internet Protocol.
    pub families: IpFamilies,
    /// The number of the next pod, which becomes a part of its address.
    next_pod: AtomicU16,
}

/// The network namespace of a pod, which is removed when this value is dropped. The pod's processes must end before.
pub struct Sandbox {
    /// The name of the namespace.
    name: String,
    /// The pod's addresses, one of each version of the Internet Protocol. The primary one is the first.
    addresses: Vec<IpAddr>,
}

impl Network {
    /// Makes the namespace and moves this thread into it. Threads and processes that this thread starts later are in
    /// the namespace, too.
    ///
    /// # Errors
    /// If the system refuses, for example because the user is not root.
    pub fn enter(families: IpFamilies) -> Result<Self> {
        remove_leftovers();
        let name = format!("{NAME_PREFIX}-{}", std::process::id());
        ip(&["netns", "add", &name]).context("make a network namespace, which only root may do")?;
        let network = Self { name, families, next_pod: AtomicU16::new(2) };
        enter_namespace(&network.name)?;
        ip(&["link", "set", "lo", "up"])?;
        for family in families.all() {
            let node = family.node_address().to_string();
            add_address(&[], &format!("{node}/{}", family.host_prefix()), "lo")?;
            // The node routes the packets between pods.
            let forwarding = match family {
                IpFamily::Ipv4 => "/proc/sys/net/ipv4/ip_forward",
                IpFamily::Ipv6 => "/proc/sys/net/ipv6/conf/all/forwarding",
            };
            fs::write(forwarding, "1").with_context(|| format!("write {forwarding}"))?;
            // Without a route, the node itself could not send packets to the addresses of Services. The packet filter
            // replaces these addresses by those of endpoints.
            ip(&["route", "add", family.service_range(), "dev", "lo", "src", &node])?;
        }
        Ok(network)
    }

    /// Makes all addresses of `range`, such as `10.128.0.0/16`, addresses of the node. Servers that listen on all
    /// addresses answer at each of them.
    ///
    /// # Errors
    /// If `range` is no range of addresses.
    pub fn answer_at(&self, range: &str) -> Result<()> {
        ip(&["-n", &self.name, "route", "add", "local", range, "dev", "lo"])
    }

    /// Makes a namespace for a pod, with addresses that no earlier pod had.
    ///
    /// # Errors
    /// If the system refuses to make the namespace.
    pub fn sandbox(&self) -> Result<Sandbox> {
        let number = self.next_pod.fetch_add(1, Ordering::Relaxed);
        let addresses = self.families.all().map(|family| family.pod_address(number)).collect();
        let sandbox = Sandbox { name: self.sandbox_name(number), addresses };
        let (name, node_end) = (sandbox.name.as_str(), format!("pod{number}"));
        ip(&["netns", "add", name])?;
        ip(&["link", "add", &node_end, "type", "veth", "peer", "name", "eth0", "netns", name])?;
        ip(&["link", "set", &node_end, "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        ip(&["-n", name, "link", "set", "eth0", "up"])?;
        for &address in &sandbox.addresses {
            let family = IpFamily::of(address);
            let (pod, node) = (address.to_string(), family.node_address().to_string());
            ip(&["route", "add", &pod, "dev", &node_end, "src", &node])?;
            // The prefix is one address, so that packets to other pods go to the node, too.
            add_address(&["-n", name], &format!("{pod}/{}", family.host_prefix()), "eth0")?;
            match family {
                IpFamily::Ipv4 => {
                    ip(&["-n", name, "route", "add", &node, "dev", "eth0"])?;
                    ip(&["-n", name, "route", "add", "default", "via", &node])?;
                }
                IpFamily::Ipv6 => {
                    add_address(&[], &format!("{GATEWAY_V6}/64"), &node_end)?;
                    ip(&["-n", name, "route", "add", "default", "via", GATEWAY_V6, "dev", "eth0"])?;
                }
            }
        }
        Ok(sandbox)
    }

    /// Calls `work` on a new thread in the namespace of the pod with this address, and returns its result. Threads of
    /// the runtime would stay in that namespace.
    ///
    /// # Errors
    /// If there is no such pod.
    ///
    /// # Panics
    /// If `work` panics.
    pub async fn run_in_pod<T: Send + 'static>(
        &self,
        pod: IpAddr,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let name = self.sandbox_name(IpFamily::pod_number(pod));
        let (sender, receiver) = oneshot::channel();
        std::thread::spawn(move || sender.send(enter_namespace(&name).map(|()| work())));
        receiver.await.expect("`work` does not panic")
    }

    fn sandbox_name(&self, number: u16) -> String {
        format!("{}-{number}", self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

impl Sandbox {
    /// The pod's primary address.
    pub fn address(&self) -> IpAddr {
        self.addresses[0]
    }

    /// All addresses of the pod, the primary one first.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// The program and its arguments that run the command after them in this namespace.
    pub fn command_prefix(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.name]
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Moves this thread into the namespace `name`.
fn enter_namespace(name: &str) -> Result<()> {
    let path = Path::new(NAMESPACES).join(name);
    let namespace = File::open(&path).with_context(|| format!("open {}", path.display()))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("enter the network namespace {}", path.display()))
}

fn remove(name: &str) {
    if let Err(error) = ip(&["netns", "delete", name]) {
        eprintln!("cannot remove the network namespace {name}: {error:#}; remove it with: ip netns delete {name}");
    }
}

/// Removes the namespaces of processes that have been killed, and so have left their namespaces behind.
fn remove_leftovers() {
    let Ok(entries) = fs::read_dir(NAMESPACES) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if owner(&name).is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            remove(&name);
        }
    }
}

/// The id of the process that has made the namespace `name`; `None` if the name is not one of this program.
fn owner(name: &str) -> Option<&str> {
    let rest = name.strip_prefix(NAME_PREFIX)?.strip_prefix('-')?;
    rest.split('-').next().filter(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Gives an interface an address, in the namespace that `flags` of `ip` name. An IPv6 address is usable at once: no other
/// host can have it, so it needs no search for one.
fn add_address(flags: &[&str], address: &str, interface: &str) -> Result<()> {
    let search = if address.contains(':') { &["nodad"][..] } else { &[] };
    ip(&[flags, &["address", "add", address, "dev", interface], search].concat())
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output();
    let output = output.context("run ip; on Debian and Ubuntu: apt-get install iproute2")?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {} failed: {}", arguments.join(" "), message.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_pod_is_that_of_its_address() {
        for family in [IpFamily::Ipv4, IpFamily::Ipv6] {
            for number in [1, 255, 256, u16::MAX] {
                assert_eq!(IpFamily::pod_number(family.pod_address(number)), number, "{family:?}");
            }
        }
    }

    #[test]
    fn a_cluster_has_one_version_or_two_different_ones() {
        for text in ["ipv4", "ipv6", "ipv4,ipv6", "ipv6,ipv4"] {
            assert_eq!(text.parse::<IpFamilies>().map(|families| families.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "ipv5", "ipv4,", "ipv4,ipv4", "ipv4,ipv6,ipv4", "ipv4, ipv6"] {
            let error = text.parse::<IpFamilies>().expect_err("refused");
            assert!(error.contains(text) && error.contains("ipv6,ipv4"), "{error}");
        }
    }

    #[test]
    fn only_the_names_of_this_program_have_an_owner() {
        for (name, expected) in [
            ("roundhouse-cluster-17", Some("17")),
            ("roundhouse-cluster-17-4", Some("17")),
            ("roundhouse-cluster-", None),
            ("roundhouse-cluster", None),
            ("roundhouse-cluster-a", None),
            ("other-17", None),
        ] {
            assert_eq!(owner(name), expected, "{name}");
        }
    }
}
