//! What must be there before anything is started.

use crate::binaries;
use crate::paths;
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Programs, and Debian's packages with them.
const TOOLS: [(&str, &str); 4] =
    [("kubectl", "kubernetes-client"), ("ip", "iproute2"), ("setpriv", "util-linux"), ("unshare", "util-linux")];

/// The folder of the control plane's programs; or everything that is missing, each in a line that says what to do.
///
/// # Errors
/// When something is there and wrong.
pub fn find() -> Result<std::result::Result<PathBuf, Vec<String>>> {
    let found = binaries::find(&paths::root(), &paths::control_plane())?;
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("network namespaces are needed, which only root may make: run it as root".to_owned());
    }
    for (tool, package) in TOOLS {
        if !is_there(tool) {
            missing.push(format!("there is no {tool} (Debian: apt-get install {package})"));
        }
    }
    if !Path::new("/proc/self/ns/net").exists() {
        missing.push("this system has no network namespaces".to_owned());
    }
    match found {
        Some(folder) if missing.is_empty() => Ok(Ok(folder)),
        Some(_) => Ok(Err(missing)),
        None => {
            missing.push(binaries::advice());
            Ok(Err(missing))
        }
    }
}

fn is_there(tool: &str) -> bool {
    let mut command = Command::new(tool);
    command.arg("--help").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Its status does not matter: some tools have no --help.
    command.status().is_ok()
}
