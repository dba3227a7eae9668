//! The prerequisites for starting a cluster on this machine.

use crate::binaries;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// The needed programs, each with its package on Debian and Ubuntu.
const TOOLS: [(&str, &str); 5] = [
    ("kubectl", "kubernetes-client"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
];

/// Whether a cluster can be started on this machine.
pub enum Prerequisites {
    /// A cluster can be started.
    Met {
        /// The folder with the programs of the control plane.
        binaries: PathBuf,
    },
    /// No cluster can be started. Each line names a missing prerequisite and its remedy.
    Missing(Vec<String>),
}

/// Checks whether this machine has all that starting a cluster needs.
///
/// # Errors
/// If KUBEBUILDER_ASSETS names a folder without the programs of a control plane.
pub fn find() -> Result<Prerequisites> {
    let binaries = binaries::find()?;
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("this user may not make network namespaces; run this as root".to_owned());
    }
    for (tool, package) in TOOLS {
        if !binaries::runs(tool) {
            missing.push(format!("there is no {tool}; on Debian and Ubuntu: apt-get install {package}"));
        }
    }
    if !Path::new("/proc/self/ns/net").exists() {
        missing.push("this system has no network namespaces; use Linux".to_owned());
    }
    if binaries.is_none() {
        missing.push(binaries::advice());
    }
    Ok(match binaries {
        Some(binaries) if missing.is_empty() => Prerequisites::Met { binaries },
        _ => Prerequisites::Missing(missing),
    })
}
