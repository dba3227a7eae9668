//! The files of a run before they are in place. They lie in a hidden folder of the directory, and are renamed when all of
//! them are complete. So the directory never has a part of a file, and a run that fails leaves it as it was.

use super::transfer::{Limits, write_error};
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// The beginning of the name of the hidden folder.
const PREFIX: &str = ".fetch-";

/// The permissions of files. The replica runs as another user than this program perhaps.
const FILE_MODE: u32 = 0o644;

/// The permissions of folders.
const FOLDER_MODE: u32 = 0o755;

/// Time between two tries to lock the directory.
const LOCK_INTERVAL: Duration = Duration::from_millis(100);

/// The directory, and the hidden folder in it. Dropping it removes the folder.
pub(super) struct Staging {
    directory: PathBuf,
    /// Whether this run has made the directory, and has put nothing in place yet.
    is_new: bool,
    folder: Option<TempDir>,
    /// Holds the lock of the directory until it is dropped.
    _lock: File,
}

/// A file that was put in place, or was tried.
#[derive(Debug)]
struct Placed<'a> {
    path: &'a Path,
    /// The folders that were made for it.
    made: Vec<PathBuf>,
}

/// The files of one source.
pub(super) struct Tree {
    root: PathBuf,
    /// The paths below the root.
    files: BTreeSet<PathBuf>,
}

impl Staging {
    /// Makes the directory if it is missing, locks it, and makes the hidden folder. Waits while another run has the lock.
    /// Removes the hidden folders of runs that were killed, since they could fill the volume.
    ///
    /// # Errors
    /// If the directory cannot be made or written, or is locked for too long.
    pub(super) fn open(directory: &Path, limits: &Limits) -> Result<Self> {
        let is_new = match fs::create_dir(directory) {
            Ok(()) => {
                set_mode(directory, FOLDER_MODE)?;
                true
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) => return Err(write_error(directory, error)),
        };
        ensure!(directory.is_dir(), "{} is no directory; name one, or a new name", directory.display());
        let lock = File::open(directory).map_err(|error| write_error(directory, error))?;
        if lock_directory(directory, &lock, limits)? {
            remove_leftovers(directory);
        }
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(directory);
        let folder = match folder {
            Ok(folder) => Some(folder),
            Err(error) => {
                if is_new {
                    let _nothing_is_in_it = fs::remove_dir(directory);
                }
                return Err(write_error(directory, error));
            }
        };
        Ok(Self { directory: directory.to_owned(), is_new, folder, _lock: lock })
    }

    /// A place for a file that is not put in place itself, such as an archive.
    pub(super) fn scratch(&self) -> PathBuf {
        self.folder().join("download")
    }

    /// A place for the files of source `index`.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(super) fn tree(&self, index: usize) -> Result<Tree> {
        let root = self.folder().join(index.to_string());
        fs::create_dir(&root).map_err(|error| write_error(&root, error))?;
        Ok(Tree { root, files: BTreeSet::new() })
    }

    /// Puts the files of all sources in place. They replace files of the same names. Returns their names.
    ///
    /// # Errors
    /// If two sources have the same file, or a file cannot be put in place. The directory is as before then.
    pub(super) fn publish(mut self, trees: &[Tree]) -> Result<Vec<PathBuf>> {
        let mut names = BTreeSet::new();
        for path in trees.iter().flat_map(|tree| &tree.files) {
            ensure!(names.insert(path.clone()), "two sources have a file {}; leave one of them out", path.display());
        }
        for tree in trees {
            for path in &tree.files {
                self.check_way(path)?;
                // Some network file systems report a full disk only now.
                let file = tree.root.join(path);
                File::open(&file).and_then(|file| file.sync_all()).map_err(|error| write_error(&file, error))?;
            }
        }
        let mut placed = Vec::new();
        if let Err(error) = self.place_all(trees, &mut placed) {
            self.restore_all(&placed);
            return Err(error);
        }
        self.is_new = false;
        Ok(names.into_iter().collect())
    }

    /// Checks that nothing but folders is on the way to `path`, and no folder is in its place. A symbolic link on the way
    /// would lead out of the directory.
    fn check_way(&self, path: &Path) -> Result<()> {
        let folders: Vec<&Path> = path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()).collect();
        for folder in folders.into_iter().rev() {
            let folder = self.directory.join(folder);
            match fs::symlink_metadata(&folder) {
                Ok(metadata) => ensure!(
                    metadata.is_dir(),
                    "{} is in the way: a folder must have that name; remove it",
                    folder.display()
                ),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(write_error(&folder, error)),
            }
        }
        let file = self.directory.join(path);
        let is_folder = fs::symlink_metadata(&file).is_ok_and(|metadata| metadata.is_dir());
        ensure!(!is_folder, "{} is in the way: a file must have that name; remove the folder", file.display());
        Ok(())
    }

    /// Puts all files in place, until one cannot be. `placed` gets those that were tried.
    fn place_all<'a>(&self, trees: &'a [Tree], placed: &mut Vec<Placed<'a>>) -> Result<()> {
        fs::create_dir(self.kept()).map_err(|error| write_error(&self.kept(), error))?;
        for tree in trees {
            for path in &tree.files {
                let mut made = Vec::new();
                let result = self.keep(path).and_then(|()| self.place(&tree.root.join(path), path, &mut made));
                placed.push(Placed { path, made });
                result?;
            }
        }
        Ok(())
    }

    /// Takes back what was done, the latest first.
    fn restore_all(&self, placed: &[Placed<'_>]) {
        placed.iter().rev().for_each(|placed| self.restore(placed.path, &placed.made));
    }

    /// Keeps the file that `path` has now for [`Self::restore`]. It stays in its place until another one replaces it, so
    /// that a replica that shares the directory finds it at all times.
    fn keep(&self, path: &Path) -> Result<()> {
        let (file, kept) = (self.directory.join(path), self.kept().join(path));
        if fs::symlink_metadata(&file).is_err() {
            return Ok(());
        }
        make_folders(&self.kept(), path, &mut Vec::new())?;
        // Some file systems have no hard links.
        let keep = fs::hard_link(&file, &kept).or_else(|_no_links| fs::copy(&file, &kept).map(drop));
        keep.map_err(|error| write_error(&kept, error))
    }

    /// Takes back what was done for `path`: the file that was there comes back, and the folders that were made for it go.
    fn restore(&self, path: &Path, made: &[PathBuf]) {
        let (file, kept) = (self.directory.join(path), self.kept().join(path));
        if fs::rename(kept, &file).is_err() {
            let _it_may_be_missing = fs::remove_file(&file);
        }
        for folder in made.iter().rev() {
            let _it_may_have_other_files = fs::remove_dir(folder);
        }
    }

    /// The folder for the files that are replaced.
    fn kept(&self) -> PathBuf {
        self.folder().join("replaced")
    }

    /// Renames a file. `made` gets the folders that were missing.
    fn place(&self, from: &Path, path: &Path, made: &mut Vec<PathBuf>) -> Result<()> {
        let to = self.directory.join(path);
        make_folders(&self.directory, path, made)?;
        fs::rename(from, &to).map_err(|error| write_error(&to, error))
    }

    fn folder(&self) -> &Path {
        self.folder.as_ref().expect("the folder is there until the value is dropped").path()
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Some(folder) = self.folder.take() {
            let path = folder.path().to_owned();
            if let Err(error) = folder.close() {
                tracing::warn!("remove {}: {error}; the next run removes it", path.display());
            }
        }
        if self.is_new {
            let _nothing_is_in_it = fs::remove_dir(&self.directory);
        }
    }
}

impl Tree {
    /// Makes the file `path` with the permissions of a file for everyone, and the folders on the way.
    ///
    /// # Errors
    /// If the name is taken already, or the file cannot be made.
    pub(super) fn create(&mut self, path: &Path) -> Result<File> {
        if !self.files.insert(path.to_owned()) {
            bail!("there are two entries {}; pack each file once", path.display());
        }
        make_folders(&self.root, path, &mut Vec::new())?;
        create_file(&self.root.join(path)).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => anyhow!("{} is both a file and a folder", path.display()),
            _ => write_error(path, error),
        })
    }

    /// Moves a complete file to `path`.
    ///
    /// # Errors
    /// If it cannot be moved.
    pub(super) fn adopt(&mut self, file: &Path, path: &Path) -> Result<()> {
        fs::rename(file, self.root.join(path)).map_err(|error| write_error(path, error))?;
        self.files.insert(path.to_owned());
        Ok(())
    }

    /// Leaves out the folder that all files are in, if there is one.
    pub(super) fn leave_out_top_folder(&mut self) {
        if let Some(top) = top_folder(&self.files) {
            self.files =
                self.files.iter().filter_map(|path| path.strip_prefix(&top).ok()).map(Path::to_owned).collect();
            self.root.push(top);
        }
    }

    /// Number of files.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }
}

/// The folder that all files are in. Pure.
fn top_folder(files: &BTreeSet<PathBuf>) -> Option<PathBuf> {
    let top = |path: &PathBuf| {
        let mut parts = path.components();
        let first = parts.next()?;
        parts.next().map(|_| PathBuf::from(first.as_os_str()))
    };
    let first = top(files.first()?)?;
    files.iter().all(|path| top(path).as_ref() == Some(&first)).then_some(first)
}

/// Makes a file that everyone may read, whatever the umask of this process. There must be none of that name.
///
/// # Errors
/// If it exists or cannot be made.
pub(super) fn create_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    Ok(file)
}

/// Makes the folders between `root` and the file `path` below it.
fn make_folders(root: &Path, path: &Path, made: &mut Vec<PathBuf>) -> Result<()> {
    let folders: Vec<&Path> = path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()).collect();
    for folder in folders.into_iter().rev() {
        let folder = root.join(folder);
        match fs::create_dir(&folder) {
            Ok(()) => {
                made.push(folder.clone());
                set_mode(&folder, FOLDER_MODE)?;
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                bail!("{} is both a file and a folder", folder.strip_prefix(root).unwrap_or(&folder).display())
            }
            Err(error) => return Err(write_error(&folder, error)),
        }
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(|error| write_error(path, error))
}

/// Locks the directory. Returns whether it is locked: some network file systems have no locks, and then a hidden folder
/// may belong to a run that goes on.
fn lock_directory(directory: &Path, lock: &File, limits: &Limits) -> Result<bool> {
    let mut has_told = false;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => {
                let context = || format!("wait for another run that fills {}", directory.display());
                let left = limits.time_left().with_context(context)?;
                if !has_told {
                    tracing::info!("another run fills {}; waiting for its end", directory.display());
                    has_told = true;
                }
                std::thread::sleep(LOCK_INTERVAL.min(left));
            }
            Err(TryLockError::Error(error)) => {
                tracing::debug!(%error, "the directory cannot be locked");
                return Ok(false);
            }
        }
    }
}

/// Removes the hidden folders of earlier runs. The directory must be locked.
fn remove_leftovers(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            match fs::remove_dir_all(entry.path()) {
                Ok(()) => tracing::info!("removed {}, which a killed run has left", entry.path().display()),
                Err(error) => tracing::warn!("remove {}: {error}", entry.path().display()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::transfer::Stop;
    use bytesize::ByteSize;
    use std::io::Write;
    use std::time::Instant;

    fn limits() -> Limits {
        Limits::new(ByteSize::mib(1), Duration::from_secs(60), Instant::now(), Stop::default())
    }

    fn write(tree: &mut Tree, path: &str, text: &str) {
        tree.create(Path::new(path)).and_then(|mut file| Ok(file.write_all(text.as_bytes())?)).expect("written");
    }

    /// The files below `folder` with their contents, and hidden folders.
    fn contents(folder: &Path) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_str().expect("text").to_owned();
            if path.is_dir() && !name.starts_with('.') {
                all.extend(contents(&path).into_iter().map(|(inner, text)| (format!("{name}/{inner}"), text)));
            } else {
                all.push((name, fs::read_to_string(path).unwrap_or_default()));
            }
        }
        all.sort();
        all
    }

    fn texts(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn the_top_folder_is_that_of_all_files() {
        for (files, expected) in [
            (&["m/a", "m/b/c"][..], Some("m")),
            (&["m/n/a"], Some("m")),
            (&["m/a", "b"], None),
            (&["m/a", "n/a"], None),
            (&["a"], None),
            (&[], None),
        ] {
            let files = files.iter().map(PathBuf::from).collect();
            assert_eq!(top_folder(&files), expected.map(PathBuf::from), "{files:?}");
        }
    }

    #[test]
    fn files_appear_together_and_replace_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("to");
        fs::create_dir_all(directory.join(".fetch-killed/0")).expect("a folder");
        fs::write(directory.join("a"), "old").and_then(|()| fs::write(directory.join("kept"), "")).expect("written");
        let staging = Staging::open(&directory, &limits()).expect("writable");
        let mut one = staging.tree(0).expect("a folder");
        write(&mut one, "m/a", "new");
        write(&mut one, "m/onnx/b", "b");
        one.leave_out_top_folder();
        let mut two = staging.tree(1).expect("a folder");
        fs::write(staging.scratch(), "c").expect("written");
        two.adopt(&staging.scratch(), Path::new("c")).expect("moved");
        assert!(contents(&directory).iter().any(|file| *file == ("a".to_owned(), "old".to_owned())), "not yet");
        assert_eq!(staging.publish(&[one, two]).expect("placed"), ["a", "c", "onnx/b"].map(PathBuf::from));
        assert_eq!(contents(&directory), texts(&[("a", "new"), ("c", "c"), ("kept", ""), ("onnx/b", "b")]));
    }

    #[test]
    fn a_run_that_fails_leaves_the_directory_as_it_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let new = folder.path().join("new");
        let staging = Staging::open(&new, &limits()).expect("writable");
        write(&mut staging.tree(0).expect("a folder"), "a", "a");
        drop(staging);
        assert!(!new.exists());
        let old = folder.path();
        fs::write(old.join("a"), "old").expect("written");
        drop(Staging::open(old, &limits()).map(|staging| staging.tree(0).map(|mut tree| write(&mut tree, "a", "a"))));
        assert_eq!(contents(old), texts(&[("a", "old")]));
        let staging = Staging::open(old, &limits()).expect("writable");
        let same = [0, 1].map(|index| {
            let mut tree = staging.tree(index).expect("a folder");
            write(&mut tree, "a", "a");
            tree
        });
        let error = staging.publish(&same).expect_err("twice").to_string();
        assert!(error.contains("two sources have a file a"), "{error}");
        assert_eq!(contents(old), texts(&[("a", "old")]));
    }

    #[test]
    fn a_file_that_cannot_be_placed_leaves_everything_as_it_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let to = folder.path().join("to");
        fs::create_dir_all(to.join("sub")).expect("folders");
        fs::write(to.join("b"), "old").expect("written");
        let staging = Staging::open(&to, &limits()).expect("writable");
        let mut tree = staging.tree(0).expect("a folder");
        for path in ["a", "b", "new/c", "sub/x"] {
            write(&mut tree, path, "new");
        }
        // The last file goes missing after the checks, as if the volume failed.
        let mut late = staging.tree(1).expect("a folder");
        write(&mut late, "z", "new");
        late.files.insert("zz".into());
        let trees = [tree, late];
        let mut placed = Vec::new();
        let result = staging.place_all(&trees, &mut placed);
        assert!(result.is_err() && placed.len() == 6, "{result:?} {}", placed.len());
        staging.restore_all(&placed);
        drop(staging);
        assert_eq!(contents(&to), texts(&[("b", "old")]));
        assert!(to.join("sub").is_dir() && !to.join("new").exists());
    }

    #[test]
    fn links_and_folders_in_the_way_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let (to, outside) = (folder.path().join("to"), folder.path().join("outside"));
        fs::create_dir_all(to.join("folder")).and_then(|()| fs::create_dir(&outside)).expect("folders");
        std::os::unix::fs::symlink(&outside, to.join("link")).expect("a link");
        fs::write(to.join("file"), "").expect("written");
        for (path, expected) in [
            ("link/a", "to/link is in the way: a folder must have that name"),
            ("file/a", "to/file is in the way: a folder must have that name"),
            ("folder", "to/folder is in the way: a file must have that name"),
        ] {
            let staging = Staging::open(&to, &limits()).expect("writable");
            let mut tree = staging.tree(0).expect("a folder");
            write(&mut tree, "b", "b");
            write(&mut tree, path, "a");
            let error = staging.publish(&[tree]).expect_err(path).to_string();
            assert!(error.contains(expected), "{path}: {error}");
            assert!(!to.join("b").exists(), "{path}");
        }
        assert_eq!(contents(&outside), []);
        // A link in the place of a file is replaced, and the file that it names is not written.
        fs::write(outside.join("target"), "old").expect("written");
        std::os::unix::fs::symlink(outside.join("target"), to.join("c")).expect("a link");
        let staging = Staging::open(&to, &limits()).expect("writable");
        let mut tree = staging.tree(0).expect("a folder");
        write(&mut tree, "c", "new");
        staging.publish(&[tree]).expect("placed");
        assert_eq!(contents(&outside), texts(&[("target", "old")]));
    }

    #[test]
    fn names_that_clash_inside_of_one_source_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let staging = Staging::open(folder.path(), &limits()).expect("writable");
        for (paths, expected) in [
            (["a", "a"], "there are two entries a"),
            (["a", "a/b"], "a is both a file and a folder"),
            (["a/b", "a"], "a is both a file and a folder"),
        ] {
            let index = paths.join("").len() * 10 + paths[0].len();
            let mut tree = staging.tree(index).expect("a folder");
            tree.create(Path::new(paths[0])).expect("the first");
            let error = tree.create(Path::new(paths[1])).expect_err("a clash").to_string();
            assert!(error.contains(expected), "{paths:?}: {error}");
        }
    }

    #[test]
    fn runs_for_one_directory_wait_for_each_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = Staging::open(folder.path(), &limits()).expect("writable");
        let short = Limits::new(ByteSize::mib(1), Duration::from_millis(1), Instant::now(), Stop::default());
        let error = format!("{:#}", Staging::open(folder.path(), &short).map(|_| ()).expect_err("locked"));
        assert!(error.contains("wait for another run") && error.contains("--timeout"), "{error}");
        let second = std::thread::scope(|scope| {
            let second = scope.spawn(|| Staging::open(folder.path(), &limits()).map(|_| ()));
            drop(first);
            second.join().expect("no panic")
        });
        second.expect("the lock is free");
    }
}
