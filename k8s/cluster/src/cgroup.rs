//! A control group of version 2 for this process alone.
//!
//! In a group with other processes, such as that of a terminal, the kernel would not let this program limit the memory
//! of the groups below (cgroups(7), "no internal processes").

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The mount point of version 2 on a system without version 1.
const ROOT: &str = "/sys/fs/cgroup";

/// The control group of this process. When this value is dropped, the process moves to the root group, and the group is
/// removed.
pub struct OwnControlGroup {
    folder: PathBuf,
}

impl OwnControlGroup {
    /// Makes a control group and moves this process into it. `None` on a system with version 1, which does not need it.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn enter() -> Result<Option<Self>> {
        let root = Path::new(ROOT);
        if !root.join("cgroup.controllers").exists() {
            return Ok(None);
        }
        let control = root.join("cgroup.subtree_control");
        fs::write(&control, "+cpu +memory").with_context(|| format!("write +cpu +memory to {}", control.display()))?;
        let group = Self { folder: root.join(format!("roundhouse-cluster-{}", std::process::id())) };
        fs::create_dir(&group.folder).with_context(|| format!("create {}", group.folder.display()))?;
        join(&group.folder)?;
        Ok(Some(group))
    }
}

impl Drop for OwnControlGroup {
    fn drop(&mut self) {
        if let Err(error) = join(Path::new(ROOT)) {
            eprintln!("the control group {} cannot be left: {error:#}", self.folder.display());
        }
        remove(&self.folder);
    }
}

/// Moves this process into a control group.
fn join(group: &Path) -> Result<()> {
    let process = std::process::id().to_string();
    let file = group.join("cgroup.procs");
    fs::write(&file, process).with_context(|| format!("move this process into the control group {}", group.display()))
}

/// Removes a control group and the groups below it. None of them may have a process.
fn remove(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove(&entry.path());
        }
    }
    if let Err(error) = fs::remove_dir(group) {
        eprintln!("cannot remove the control group {}: {error}; remove it with rmdir", group.display());
    }
}
