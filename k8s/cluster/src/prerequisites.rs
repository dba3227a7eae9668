//! The prerequisites for starting a cluster on this machine.

use crate::binaries;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// Programs, each with the Debian package that has it.
const TOOLS: [(&str, &str); 4] =
    [("kubectl", "kubernetes-client"), ("ip", "iproute2"), ("setpriv", "util-linux"), ("unshare", "util-linux")];

/// Whether a cluster can be started on this machine.
pub enum Prerequisites {
    /// A cluster can be started.
    Met {
        /// The folder with the programs of the control plane.
        binaries: PathBuf,
    },
    /// Something is missing.
    Missing(
        /// A line for each missing thing, with the remedy.
        Vec<String>,
    ),
}

/// Looks for everything that starting a cluster needs.
///
/// # Errors
/// If `$KUBEBUILDER_ASSETS` is set and wrong.
pub fn find() -> Result<Prerequisites> {
    let binaries = binaries::find()?;
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("only root may make network namespaces: run this as root".to_owned());
    }
    for (tool, package) in TOOLS {
        if !binaries::runs(tool) {
            missing.push(format!("there is no {tool} (Debian: apt-get install {package})"));
        }
    }
    if !Path::new("/proc/self/ns/net").exists() {
        missing.push("this system has no network namespaces: Linux is needed".to_owned());
    }
    if binaries.is_none() {
        missing.push(binaries::advice());
    }
    Ok(match binaries {
        Some(binaries) if missing.is_empty() => Prerequisites::Met { binaries },
        _ => Prerequisites::Missing(missing),
    })
}
