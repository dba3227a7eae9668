//! Copies the files of a folder, such as one of the container image that this program is in.

use super::archive::MAX_ENTRIES;
use super::name;
use super::staging::Tree;
use super::transfer::{Limits, Progress};
use anyhow::{Context, Result, anyhow, ensure};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Copies the regular files of `source` and of its subfolders into `tree`, which will be in `directory`. A link to a file
/// counts as the file: caches of models and mounted ConfigMaps have such links. Hidden files are left out.
///
/// # Errors
/// If the folder or a file cannot be read, a name is refused, or a limit is reached.
pub(super) fn copy(source: &Path, directory: &Path, tree: &mut Tree, limits: &mut Limits) -> Result<()> {
    let metadata = fs::metadata(source)
        .with_context(|| format!("read {}; is the model in this container image, or mounted?", source.display()))?;
    ensure!(metadata.is_dir(), "{} is no folder; name the folder that it is in", source.display());
    if let (Ok(source), Ok(directory)) = (source.canonicalize(), directory.canonicalize()) {
        ensure!(!directory.starts_with(&source), "{} would be copied into itself", source.display());
    }
    let mut entries = 0;
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let context = || format!("list {}", source.join(&folder).display());
        for entry in fs::read_dir(source.join(&folder)).with_context(context)? {
            let below = folder.join(entry.with_context(context)?.file_name());
            entries += 1;
            ensure!(entries <= MAX_ENTRIES, "{} has more than {MAX_ENTRIES} entries", source.display());
            let name = below.as_os_str().as_bytes();
            let path = name::entry_path(name).map_err(|fault| anyhow!("the file {} {fault}", name::shown(name)))?;
            let Some(path) = path else { continue };
            let from = source.join(&path);
            let metadata = fs::metadata(&from).with_context(|| format!("read {}", from.display()))?;
            let is_link = || fs::symlink_metadata(&from).is_ok_and(|metadata| metadata.is_symlink());
            if metadata.is_file() {
                copy_file(&from, &path, metadata.len(), tree, limits)?;
            } else if metadata.is_dir() && !is_link() {
                folders.push(path);
            } else {
                // A link to a folder may lead in a circle, and reading a pipe would wait for ever.
                tracing::warn!("{} is left out: it is neither a file nor a folder", from.display());
            }
        }
    }
    ensure!(tree.len() > 0, "{} has no files", source.display());
    Ok(())
}

fn copy_file(from: &Path, path: &Path, bytes: u64, tree: &mut Tree, limits: &mut Limits) -> Result<()> {
    limits.check_size(bytes)?;
    let read = |error| anyhow!("read {}: {error}", from.display());
    let file = File::open(from).map_err(read)?;
    let to = tree.create(path)?;
    let progress = Progress::new(from.display().to_string(), Some(bytes));
    limits.copy(file, to, progress).map_err(|fault| fault.explained(path, read))?;
    Ok(())
}
