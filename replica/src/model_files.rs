//! The files that a model is loaded from: their version, and whether they have changed. Knows nothing of their contents.
//!
//! The files are looked at from time to time. Kubernetes replaces a mounted volume by a symbolic link to another folder,
//! and network file systems change on other machines; notifications of the file system miss both.

use crate::model::files_of_directory;
use sha2::{Digest, Sha256};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The number of hexadecimal digits of a version.
const VERSION_DIGITS: usize = 12;

/// The version of a model that is a part of the program.
const BUNDLED: &str = "bundled";

/// The files of a model: its file or its folder, and the file of its labels.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    paths: Vec<PathBuf>,
}

/// What distinguishes the files of one look from those of another: for each file its path, and its device, inode, length
/// and time of change. Symbolic links are followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(Vec<(PathBuf, FileState)>);

impl ModelFiles {
    /// The files at `paths`. A path of a folder stands for the files in it that a model is loaded from. A path that ends with `.onnx` also stands for
    /// the files beside it that have its name and more, such as `model.onnx.data`, which may have weights of the network.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths }
    }

    /// Whether there are no files, because the model is a part of the program.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// The files in order, with their states.
    ///
    /// # Errors
    /// If a file or a folder is missing or may not be read. The message names it.
    pub fn snapshot(&self) -> io::Result<Snapshot> {
        let mut files = Vec::new();
        for path in &self.paths {
            let metadata = metadata(path)?;
            if metadata.is_dir() {
                // Other files may be large or change often, such as the weights of another framework or a log.
                for path in files_of_directory(path)? {
                    let metadata = self::metadata(&path)?;
                    files.push((path, state(&metadata)));
                }
                continue;
            }
            files.push((path.clone(), state(&metadata)));
            if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("onnx")) {
                let network = path.file_name().unwrap_or_default().as_encoded_bytes();
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
                files.extend(files_in(folder, |name| name.starts_with(network) && name != network)?);
            }
        }
        files.sort();
        Ok(Snapshot(files))
    }

    /// The version of the files: the first 12 hexadecimal digits of the SHA-256 of the only file, as `sha256sum` prints it.
    /// Of several files, those of their names and hashes together.
    ///
    /// # Errors
    /// If a file cannot be read. The message names the file.
    pub fn version(&self) -> io::Result<String> {
        if self.is_empty() {
            return Ok(BUNDLED.to_owned());
        }
        let Snapshot(files) = self.snapshot()?;
        let mut hashes = Vec::new();
        for (path, _) in &files {
            hashes.push(hash(path).map_err(|error| named(path, &error))?);
        }
        let whole = match (&hashes[..], &files[..]) {
            ([only], _) => only.clone(),
            (_, files) => {
                let mut whole = Sha256::new();
                for ((path, _), hash) in files.iter().zip(&hashes) {
                    whole.update(path.file_name().unwrap_or_default().as_encoded_bytes());
                    whole.update(hash);
                }
                whole.finalize().to_vec()
            }
        };
        let digits: String = whole.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(digits[..VERSION_DIGITS].to_owned())
    }
}

/// The state of a file; see [`state`].
type FileState = [i64; 7];

/// The files in a folder whose names are `wanted`, with their states.
fn files_in(folder: &Path, wanted: impl Fn(&[u8]) -> bool) -> io::Result<Vec<(PathBuf, FileState)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| named(folder, &error))? {
        let entry = entry.map_err(|error| named(folder, &error))?;
        match fs::metadata(entry.path()) {
            Ok(metadata) if metadata.is_file() && wanted(entry.file_name().as_encoded_bytes()) => {
                files.push((entry.path(), state(&metadata)));
            }
            // A folder, another file, or a link without a file, which no model needs.
            _ => {}
        }
    }
    Ok(files)
}

fn metadata(path: &Path) -> io::Result<Metadata> {
    fs::metadata(path).map_err(|error| named(path, &error))
}

/// What changes when a file is written or replaced, or when its permissions change. Without the latter, a file that could
/// not be read would not be tried again.
fn state(metadata: &Metadata) -> FileState {
    let (device, inode) = (metadata.dev() as i64, metadata.ino() as i64);
    let (written, changed) = ([metadata.mtime(), metadata.mtime_nsec()], [metadata.ctime(), metadata.ctime_nsec()]);
    [device, inode, metadata.len() as i64, written[0], written[1], changed[0], changed[1]]
}

fn hash(path: &Path) -> io::Result<Vec<u8>> {
    let mut hash = Sha256::new();
    io::copy(&mut fs::File::open(path)?, &mut hash)?;
    Ok(hash.finalize().to_vec())
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_change_of_the_permissions_changes_the_state() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().expect("a file");
        let now = || state(&fs::metadata(file.path()).expect("the file exists"));
        let before = now();
        assert_eq!(now(), before);
        let changed = fs::metadata(file.path()).expect("the file exists").ctime_nsec();
        // The clock of the file system may be coarse.
        while fs::metadata(file.path()).expect("the file exists").ctime_nsec() == changed {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(0o600)).expect("changed");
        }
        assert_ne!(now(), before);
    }

    #[test]
    fn the_version_of_one_file_is_its_hash_and_of_several_files_depends_on_each() {
        let folder = tempfile::tempdir().expect("a folder");
        let (weights, labels) = (folder.path().join("w"), folder.path().join("labels.txt"));
        fs::write(&weights, "abc").expect("written");
        fs::write(&labels, "cat").expect("written");
        let version = |paths: &[&Path]| {
            let files = ModelFiles::new(paths.iter().map(|path| path.to_path_buf()).collect());
            files.version().expect("readable")
        };
        // The hash is the example of FIPS 180-4.
        assert_eq!(version(&[&weights]), "ba7816bf8f01");
        assert_eq!(version(&[]), "bundled");
        let both = version(&[&weights, &labels]);
        assert_eq!(version(&[folder.path()]), both, "the files of a folder");
        fs::write(&labels, "dog").expect("written");
        assert_ne!(version(&[&weights, &labels]), both);
        let missing = ModelFiles::new(vec![folder.path().join("missing")]).version().expect_err("missing");
        assert!(missing.to_string().contains("missing"), "{missing}");
    }

    #[test]
    fn the_weights_beside_an_onnx_network_belong_to_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for (network, data) in [("a.onnx", "a.onnx.data"), ("B.ONNX", "B.ONNX_data")] {
            fs::write(at(network), "abc").expect("written");
            let files = ModelFiles::new(vec![at(network)]);
            let look = || (files.snapshot().expect("there"), files.version().expect("readable"));
            let mut seen = vec![look()];
            assert_eq!(seen[0].1, "ba7816bf8f01", "the hash of the only file");
            for weights in ["one", "more"] {
                fs::write(at(data), weights).expect("written");
                let now = look();
                let is_new = |before: &(Snapshot, String)| before.0 != now.0 && before.1 != now.1;
                assert!(seen.iter().all(is_new), "{data}: {weights}");
                seen.push(now);
            }
            let last = look();
            for other in ["b.onnx.data", "a.onn", "labels.txt"] {
                fs::write(at(other), network).expect("written");
            }
            fs::create_dir_all(at("a.onnx.folder")).expect("a folder");
            assert_eq!(look(), last, "files of other names, and folders");
        }
        let labels = ModelFiles::new(vec![at("a.onn")]).snapshot().expect("there");
        assert_eq!(labels.0.len(), 1, "only ONNX networks have weights in other files");
    }

    #[test]
    fn every_way_to_replace_a_file_is_seen() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("..1")).and_then(|()| fs::create_dir(at("..2"))).expect("folders");
        fs::write(at("..1/w"), "one").and_then(|()| fs::write(at("..2/w"), "two")).expect("written");
        symlink("..1", at("..data")).and_then(|()| symlink("..data/w", at("w"))).expect("links");
        let files = [ModelFiles::new(vec![at("w")]), ModelFiles::new(vec![folder.path().to_owned()])];
        let mut before: Vec<_> = files.iter().map(|files| files.snapshot().expect("there")).collect();
        let mut is_seen = |what: &str| {
            for (files, before) in files.iter().zip(&mut before) {
                let now = files.snapshot().expect("there");
                assert_ne!(now, *before, "{what}");
                assert_eq!(now, files.snapshot().expect("there"), "{what}: nothing has changed since");
                *before = now;
            }
        };
        symlink("..2", at("..new")).and_then(|()| fs::rename(at("..new"), at("..data"))).expect("another folder");
        is_seen("Kubernetes replaces the folder");
        fs::write(at("..2/w"), "more").expect("written");
        is_seen("the file is written in place");
        fs::write(at("other"), "new").and_then(|()| fs::rename(at("other"), at("w"))).expect("renamed");
        is_seen("another file gets the name");
        fs::remove_file(at("w")).expect("removed");
        assert!(files[0].snapshot().is_err(), "the file is missing");
        assert_ne!(files[1].snapshot().expect("the folder is there"), before[1]);
    }
}
