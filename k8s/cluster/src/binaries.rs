//! Finds the programs of a Kubernetes control plane. Downloads nothing.

use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The environment variable that names the folder with the programs. controller-runtime's envtest uses it, too.
const VARIABLE: &str = "KUBEBUILDER_ASSETS";

/// The programs that must be in the folder.
const PROGRAMS: [&str; 3] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// The advice how to get the programs.
const ADVICE: &str = "set KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver, kube-controller-manager and \
                      kube-scheduler. The last three are in \
                      https://dl.k8s.io/v1.33.0/kubernetes-server-linux-amd64.tar.gz (any version from 1.20 will do; \
                      setup-envtest does not have them all), etcd is in \
                      https://github.com/etcd-io/etcd/releases or in Debian's package etcd-server";

/// The folder that KUBEBUILDER_ASSETS names; `None` if the variable is not set.
///
/// # Errors
/// If the variable is set and a program is missing.
pub fn find() -> Result<Option<PathBuf>> {
    let Some(folder) = std::env::var_os(VARIABLE).map(PathBuf::from) else { return Ok(None) };
    for name in PROGRAMS {
        ensure!(folder.join(name).is_file(), "{VARIABLE}: {} has no {name}; {ADVICE}", folder.display());
    }
    let etcd = program(&folder, "etcd");
    ensure!(runs(&etcd), "{VARIABLE}: there is no etcd in {}, nor in PATH; {ADVICE}", folder.display());
    Ok(Some(folder))
}

/// The message that the machine has no control plane, with the advice how to get one.
pub fn advice() -> String {
    format!("there is no Kubernetes control plane: {ADVICE}")
}

/// The path of a program in `folder`, or its name alone if it is not there, so that it is looked for in PATH.
/// Distributions have etcd in a package of its own.
pub fn program(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    if path.is_file() { path } else { name.into() }
}

/// Whether a program can be started with `--help`. Its exit status is ignored, since some programs have no `--help`.
pub fn runs(program: impl AsRef<Path>) -> bool {
    let mut command = Command::new(program.as_ref());
    command.arg("--help").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok()
}
