//! A control group of this program's own, under version 2: in one that it shares with others, as a terminal's, the memory of
//! groups below could not be limited (cgroups(7), "no internal processes").

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Where version 2 is mounted if there is no other.
const ROOT: &str = "/sys/fs/cgroup";

/// Left and removed when dropped.
pub struct Own {
    folder: PathBuf,
}

impl Own {
    /// Moves this process into it. Nothing where version 1 is in use, which has no such rule.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enter() -> Result<Option<Self>> {
        let root = Path::new(ROOT);
        if !root.join("cgroup.controllers").exists() {
            return Ok(None);
        }
        fs::write(root.join("cgroup.subtree_control"), "+cpu +memory").context("share out processors and memory")?;
        let own = Self { folder: root.join(format!("roundhouse-cluster-{}", std::process::id())) };
        fs::create_dir(&own.folder).with_context(|| format!("create {}", own.folder.display()))?;
        join(&own.folder)?;
        Ok(Some(own))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Err(error) = join(Path::new(ROOT)) {
            eprintln!("{error:#}");
        }
        remove(&self.folder);
    }
}

fn join(group: &Path) -> Result<()> {
    let process = std::process::id().to_string();
    fs::write(group.join("cgroup.procs"), process).with_context(|| format!("enter {}", group.display()))
}

/// With the groups below it, which are empty by now.
fn remove(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove(&entry.path());
        }
    }
    let _gone = fs::remove_dir(group);
}
