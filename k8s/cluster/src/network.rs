//! The network of a local cluster: a network namespace for the cluster, and one for each pod.
//!
//! No connection leads from the cluster's network to the machine's network or the Internet. A bridge connects the pods.
//! The addresses of all Services are local addresses of the cluster's namespace, so the node can listen at them. The
//! program `ip` of iproute2 makes the namespaces.

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

/// The address of the node and of the API server.
pub const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);

/// The range from which the API server takes the address of each Service.
pub const SERVICE_RANGE: &str = "10.96.0.0/16";

/// The address of the cluster's name server.
pub const DNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// The first part of the names of namespaces. The cluster's namespace is `PREFIX-PROCESS`, that of a pod is
/// `PREFIX-PROCESS-NUMBER`. PROCESS is the id of the process that has made the namespace.
const NAME_PREFIX: &str = "roundhouse-cluster";

/// The name of the bridge that connects the pods.
const BRIDGE: &str = "pods";

/// The folder in which `ip` keeps namespaces that have names.
const NAMESPACES: &str = "/run/netns";

/// The network namespace of the cluster, which is removed when this value is dropped.
pub struct Network {
    /// The name of the namespace.
    name: String,
    /// The number of the next pod, which becomes a part of its address.
    next_pod: AtomicU16,
}

/// The network namespace of a pod, which is removed when this value is dropped. The pod's processes must end before.
pub struct Sandbox {
    /// The name of the namespace.
    name: String,
    /// The pod's address.
    pub address: Ipv4Addr,
}

impl Network {
    /// Makes the namespace and moves this thread into it. Threads and processes that this thread starts later are in
    /// the namespace, too.
    ///
    /// # Errors
    /// If the system refuses, for example because the user is not root.
    pub fn enter() -> Result<Self> {
        remove_leftovers();
        let name = format!("{NAME_PREFIX}-{}", std::process::id());
        ip(&["netns", "add", &name]).context("make a network namespace, which only root may do")?;
        let network = Self { name, next_pod: AtomicU16::new(2) };
        let path = Path::new(NAMESPACES).join(&network.name);
        let namespace = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("enter the network namespace {}", path.display()))?;
        ip(&["link", "set", "lo", "up"])?;
        ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["address", "add", &format!("{NODE_ADDRESS}/16"), "dev", BRIDGE])?;
        ip(&["link", "set", BRIDGE, "up"])?;
        // Without this route, connections to the addresses of Services would not reach the node's proxy.
        ip(&["route", "add", "local", SERVICE_RANGE, "dev", "lo"])?;
        Ok(network)
    }

    /// Makes a namespace for a pod, with an address that no earlier pod had.
    ///
    /// # Errors
    /// If the system refuses to make the namespace.
    pub fn sandbox(&self) -> Result<Sandbox> {
        let number = self.next_pod.fetch_add(1, Ordering::Relaxed);
        let [high, low] = number.to_be_bytes();
        let sandbox = Sandbox { name: format!("{}-{number}", self.name), address: Ipv4Addr::new(10, 244, high, low) };
        let (name, bridge_end) = (sandbox.name.as_str(), format!("pod{number}"));
        ip(&["netns", "add", name])?;
        ip(&["link", "add", &bridge_end, "type", "veth", "peer", "name", "eth0", "netns", name])?;
        ip(&["link", "set", &bridge_end, "master", BRIDGE, "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        ip(&["-n", name, "address", "add", &format!("{}/16", sandbox.address), "dev", "eth0"])?;
        ip(&["-n", name, "link", "set", "eth0", "up"])?;
        ip(&["-n", name, "route", "add", "default", "via", &NODE_ADDRESS.to_string()])?;
        Ok(sandbox)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

impl Sandbox {
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
