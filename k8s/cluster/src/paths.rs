//! Where the workspace, its programs and the output of this crate are.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The root of the workspace.
pub fn root() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).expect("this crate lies two folders deep in the workspace").to_owned()
}

/// A program of the workspace, which lies beside this one.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the system tells where this program is");
    own.with_file_name(name)
}

/// The folder for the logs and reports of a subcommand.
pub fn output(subcommand: &str) -> PathBuf {
    root().join("target/roundhouse").join(subcommand)
}

/// Empties `folder` and reserves it for this process. The reservation ends when the returned file is closed.
///
/// # Errors
/// If another process has reserved the folder, or the file system refuses.
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
