//! Where the control plane's programs are.

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// All that is needed.
pub const NAMES: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// How to get them.
const ADVICE: &str = "set KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver, kube-controller-manager and \
                      kube-scheduler: etcd's release has the first, Kubernetes' kubernetes-server-linux-amd64.tar.gz the \
                      others";

/// The folder with the programs: `$KUBEBUILDER_ASSETS`, or what an archive beside the checkout holds, unpacked once into
/// `unpacked`. Nothing where there is neither.
///
/// # Errors
/// When there is one, and something is wrong with it.
pub fn find(root: &Path, unpacked: &Path) -> Result<Option<PathBuf>> {
    let folder = match std::env::var_os("KUBEBUILDER_ASSETS") {
        Some(folder) => PathBuf::from(folder),
        None => match archive(&root.join("../shared/k8s")) {
            Some(archive) => unpack(&archive, unpacked)?,
            None => return Ok(None),
        },
    };
    // etcd is a project of its own.
    for name in &NAMES[1..] {
        ensure!(folder.join(name).is_file(), "there is no {name} in {}; {ADVICE}", folder.display());
    }
    Ok(Some(folder))
}

/// Why nothing can be started.
pub fn advice() -> String {
    format!("there is no Kubernetes control plane; {ADVICE}")
}

fn archive(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    entries.map(|entry| entry.path()).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("control-plane-") && name.ends_with("-linux-amd64.tar.xz")
    })
}

fn unpack(archive: &Path, folder: &Path) -> Result<PathBuf> {
    if NAMES.iter().all(|name| folder.join(name).is_file()) {
        return Ok(folder.to_owned());
    }
    // Whole, or not at all.
    let partial = folder.with_extension("partial");
    let _none = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial).with_context(|| format!("create {}", partial.display()))?;
    let status = Command::new("tar").arg("-xJf").arg(archive).arg("-C").arg(&partial).status().context("run tar")?;
    if !status.success() {
        bail!("cannot unpack {} ({status}); xz is needed (Debian: apt-get install xz-utils)", archive.display());
    }
    let _none = fs::remove_dir_all(folder);
    fs::rename(&partial, folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder.to_owned())
}
