//! The paths of the workspace, of its programs, and of the output of this crate.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The root folder of the workspace.
pub fn root() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).expect("this crate is in k8s/cluster of the workspace").to_owned()
}

/// The path of a program of the workspace. It is in the folder of this program.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the system knows the path of this program");
    own.with_file_name(name)
}

/// The folder for the logs and reports of a subcommand.
pub fn output(subcommand: &str) -> PathBuf {
    root().join("target/roundhouse").join(subcommand)
}

/// Locks `folder` for this process and empties it. The lock ends when the returned file is closed.
///
/// # Errors
/// If another process has locked the folder, or the folder cannot be emptied.
pub fn reserve(folder: &Path) -> Result<File> {
    let path = folder.with_extension("lock");
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let lock = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    if lock.try_lock().is_err() {
        bail!("another `cluster` process uses {}; end it first", folder.display());
    }
    fs::remove_dir_all(folder).with_context(|| format!("empty {}", folder.display()))?;
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(lock)
}
