//! A network of the cluster's own, in a namespace that is made for it: nothing in it reaches the machine's, or anything
//! beyond. A bridge joins its pods; every address of a Service is this namespace's own.

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

/// The node's address, and where the API server listens.
pub const NODE: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);

/// Of Services, as the API server is told.
pub const SERVICES: &str = "10.96.0.0/16";

/// Where names are resolved.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// Names of namespaces are this, the id of the process that made them, and a number for each pod.
const NAME: &str = "roundhouse-cluster";

/// What joins the pods.
const BRIDGE: &str = "pods";

/// The namespace, removed when dropped.
pub struct Network {
    name: String,
    pods: AtomicU16,
}

/// A pod's namespace with its address, removed when dropped; its processes must have ended by then.
pub struct Sandbox {
    name: String,
    /// In the bridge's network.
    pub address: Ipv4Addr,
}

impl Network {
    /// Makes the namespace and moves this thread into it, and so all threads and processes that it starts.
    ///
    /// # Errors
    /// When the system does not let us, as when this is not run by root.
    pub fn enter() -> Result<Self> {
        clear_leftovers();
        let name = format!("{NAME}-{}", std::process::id());
        ip(&["netns", "add", &name]).context("a network namespace is needed, which only root may make")?;
        let network = Self { name, pods: AtomicU16::new(2) };
        let path = namespaces().join(&network.name);
        let namespace = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).context("enter the network")?;
        ip(&["link", "set", "lo", "up"])?;
        ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["address", "add", &format!("{NODE}/16"), "dev", BRIDGE])?;
        ip(&["link", "set", BRIDGE, "up"])?;
        // What is sent to a Service's address ends here, where the node passes it on.
        ip(&["route", "add", "local", SERVICES, "dev", "lo"])?;
        Ok(network)
    }

    /// A namespace for one pod, with an address that no other had before.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn sandbox(&self) -> Result<Sandbox> {
        let number = self.pods.fetch_add(1, Ordering::Relaxed);
        let [high, low] = number.to_be_bytes();
        let sandbox = Sandbox { name: format!("{}-{number}", self.name), address: Ipv4Addr::new(10, 244, high, low) };
        let (name, near) = (sandbox.name.as_str(), format!("pod{number}"));
        ip(&["netns", "add", name])?;
        ip(&["link", "add", &near, "type", "veth", "peer", "name", "eth0", "netns", name])?;
        ip(&["link", "set", &near, "master", BRIDGE, "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        ip(&["-n", name, "address", "add", &format!("{}/16", sandbox.address), "dev", "eth0"])?;
        ip(&["-n", name, "link", "set", "eth0", "up"])?;
        ip(&["-n", name, "route", "add", "default", "via", &NODE.to_string()])?;
        Ok(sandbox)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

impl Sandbox {
    /// What to put before a command so that it runs in there.
    pub fn enter(&self) -> [&str; 4] {
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
        eprintln!("a network namespace is left behind: {error:#}");
    }
}

/// Namespaces whose maker was killed.
fn clear_leftovers() {
    let Ok(entries) = fs::read_dir(namespaces()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if maker(&name).is_some_and(|maker| !Path::new("/proc").join(maker).exists()) {
            remove(&name);
        }
    }
}

/// The id of the process that made a namespace of this name; nothing if it is none of ours.
fn maker(name: &str) -> Option<&str> {
    let rest = name.strip_prefix(NAME)?.strip_prefix('-')?;
    rest.split('-').next().filter(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()))
}

fn namespaces() -> PathBuf {
    "/run/netns".into()
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("run ip (Debian: apt-get install iproute2)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_namespaces_have_a_maker() {
        for (name, expected) in [
            ("roundhouse-cluster-17", Some("17")),
            ("roundhouse-cluster-17-4", Some("17")),
            ("roundhouse-cluster-", None),
            ("roundhouse-cluster", None),
            ("roundhouse-cluster-a", None),
            ("other-17", None),
        ] {
            assert_eq!(maker(name), expected, "{name}");
        }
    }
}
