//! The files that a model is loaded from: their version, and whether they have changed. Knows nothing of their contents.
//!
//! The files are looked at from time to time. Kubernetes replaces a mounted volume by a symbolic link to another folder,
//! and network file systems change on other machines; notifications of the file system miss both.

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
pub struct Snapshot(Vec<(PathBuf, [i64; 5])>);

impl ModelFiles {
    /// The files at `paths`. A path of a folder stands for the files in it.
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
            if !metadata.is_dir() {
                files.push((path.clone(), state(&metadata)));
                continue;
            }
            let entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
            for entry in entries.map_err(|error| named(path, &error))? {
                // The folders of Kubernetes in a mounted volume, such as `..data`, have hidden names.
                let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
                let (path, metadata) = (entry.path(), fs::metadata(entry.path()));
                match metadata {
                    Ok(metadata) if metadata.is_file() && !is_hidden => files.push((path, state(&metadata))),
                    // A link without a file, which no model needs.
                    _ => {}
                }
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

fn metadata(path: &Path) -> io::Result<Metadata> {
    fs::metadata(path).map_err(|error| named(path, &error))
}

fn state(metadata: &Metadata) -> [i64; 5] {
    let (device, inode) = (metadata.dev() as i64, metadata.ino() as i64);
    [device, inode, metadata.len() as i64, metadata.mtime(), metadata.mtime_nsec()]
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
