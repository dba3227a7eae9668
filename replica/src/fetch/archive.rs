//! Unpacks archives of regular files. An archive may be hostile: nothing but regular files is made, below one folder, and
//! their number, names and sizes are bounded. Knows nothing of where an archive comes from.

use super::name;
use super::staging::Tree;
use super::transfer::{Limits, Progress};
use anyhow::{Context, Result, anyhow, bail, ensure};
use flate2::read::MultiGzDecoder;
use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::rc::Rc;
use tar::{Archive, Entry, EntryType};

/// Most entries of an archive or a folder.
pub(super) const MAX_ENTRIES: usize = 10_000;

/// Most bytes that describe one entry: its header, long names, extensions, and padding. The library keeps them in memory.
const MAX_HEADER_BYTES: u64 = 1 << 20;

/// Where the header of an archive has its magic bytes, and what they are: POSIX and GNU tar agree on five of them.
const TAR_MAGIC: (usize, &[u8]) = (257, b"ustar");

/// The first bytes of a gzip file.
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];

/// Endings of archives. A file with one of them that cannot be unpacked is refused, because a replica could not use it.
const ENDINGS: [&str; 10] = [".tar", ".tgz", ".gz", ".zip", ".zst", ".tzst", ".xz", ".txz", ".bz2", ".7z"];

/// The kinds of archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A tar archive.
    Tar,
    /// A tar archive that is compressed by gzip.
    TarGz,
}

/// Finds out by its content whether the file is an archive.
///
/// # Errors
/// If it cannot be read, or its `name` is that of an archive that cannot be unpacked.
pub(super) fn kind(path: &Path, name: &str) -> Result<Option<Kind>> {
    let open = || File::open(path).with_context(|| format!("read {}", path.display()));
    let beginning = beginning(open()?).with_context(|| format!("read {}", path.display()))?;
    if is_tar(&beginning) {
        return Ok(Some(Kind::Tar));
    }
    // A damaged gzip file is no archive; the name decides then.
    let is_tar_gz = beginning.starts_with(GZIP_MAGIC)
        && self::beginning(MultiGzDecoder::new(open()?)).is_ok_and(|inner| is_tar(&inner));
    if is_tar_gz {
        return Ok(Some(Kind::TarGz));
    }
    let lower = name.to_ascii_lowercase();
    if let Some(ending) = ENDINGS.into_iter().find(|ending| lower.ends_with(ending)) {
        bail!(
            "its name ends with {ending}, but it is no tar archive; pack the files with: tar -czf model.tar.gz FOLDER"
        );
    }
    Ok(None)
}

/// Unpacks the archive at `path` into `tree`.
///
/// # Errors
/// If it is damaged, has an entry that is no regular file or folder, or a limit is reached.
pub(super) fn unpack(path: &Path, kind: Kind, tree: &mut Tree, limits: &mut Limits) -> Result<()> {
    let file =
        BufReader::with_capacity(256 << 10, File::open(path).with_context(|| format!("read {}", path.display()))?);
    match kind {
        Kind::TarGz => unpack_entries(MultiGzDecoder::new(file), tree, limits),
        Kind::Tar => unpack_entries(file, tree, limits),
    }
}

fn unpack_entries(reader: impl Read, tree: &mut Tree, limits: &mut Limits) -> Result<()> {
    let allowance = Rc::new(Cell::new(0));
    let mut archive = Archive::new(Gate { reader, allowance: allowance.clone() });
    let mut entries = archive.entries().map_err(damaged)?;
    for count in 0.. {
        allowance.set(MAX_HEADER_BYTES);
        let Some(entry) = entries.next() else { break };
        let mut entry = entry.map_err(damaged)?;
        ensure!(
            count < MAX_ENTRIES,
            "the archive has more than {MAX_ENTRIES} entries; pack the files of the model only"
        );
        allowance.set(entry.size().saturating_add(MAX_HEADER_BYTES));
        unpack_entry(&mut entry, tree, limits)?;
    }
    ensure!(tree.len() > 0, "the archive has no files");
    Ok(())
}

fn unpack_entry(entry: &mut Entry<'_, impl Read>, tree: &mut Tree, limits: &mut Limits) -> Result<()> {
    let kind = entry.header().entry_type();
    if kind == EntryType::XGlobalHeader {
        return skip(entry, limits);
    }
    let name = entry.path_bytes().into_owned();
    let shown = || format!("the archive's entry {}", name::shown(&name));
    let path = name::entry_path(&name).map_err(|fault| anyhow!("{} {fault}", shown()))?;
    match kind {
        EntryType::Directory => return skip(entry, limits),
        // Before POSIX, a folder was a file whose name ends so.
        EntryType::Regular if name.ends_with(b"/") => return skip(entry, limits),
        EntryType::Regular => {}
        EntryType::Symlink => bail!("{} is a link; pack the file itself (tar --dereference)", shown()),
        EntryType::Link => bail!("{} is a hard link; pack the file itself (tar --hard-dereference)", shown()),
        EntryType::GNUSparse => bail!("{} is a sparse file; pack it without --sparse", shown()),
        _ => bail!("{} is a device or another special file; pack regular files only", shown()),
    }
    if let Some(extensions) = entry.pax_extensions().map_err(damaged)? {
        for extension in extensions {
            let is_sparse = extension.map_err(damaged)?.key_bytes().starts_with(b"GNU.sparse");
            ensure!(!is_sparse, "{} is a sparse file; pack it without --sparse", shown());
        }
    }
    let Some(path) = path else { return skip(entry, limits) };
    let size = entry.size();
    limits.check_size(size)?;
    let file = tree.create(&path)?;
    let progress = Progress::new(path.display().to_string(), Some(size));
    let copied = limits.copy(&mut *entry, file, progress).map_err(|fault| fault.explained(&path, damaged))?;
    ensure!(copied == size, "the archive is cut off: {} has {copied} of {size} bytes", shown());
    Ok(())
}

/// Reads the contents of an entry that gets no file. They count as others: a small archive could have any number of them.
fn skip(entry: &mut Entry<'_, impl Read>, limits: &mut Limits) -> Result<()> {
    let progress = Progress::new("an entry that is left out", Some(entry.size()));
    limits.check_size(entry.size())?;
    limits.copy(entry, io::sink(), progress).map_err(|fault| fault.explained(Path::new(""), damaged))?;
    Ok(())
}

fn damaged(error: io::Error) -> anyhow::Error {
    anyhow!("the archive is damaged: {error}; pack it again")
}

fn is_tar(beginning: &[u8]) -> bool {
    let (place, magic) = TAR_MAGIC;
    beginning.get(place..).is_some_and(|rest| rest.starts_with(magic))
}

/// The first 512 bytes, or all if there are fewer.
fn beginning(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(512).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Lets a number of bytes through. The library reads long names into memory, whatever their length.
struct Gate<R> {
    reader: R,
    allowance: Rc<Cell<u64>>,
}

impl<R: Read> Read for Gate<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.allowance.get();
        if left == 0 && !buffer.is_empty() {
            return Err(io::Error::other(format!(
                "the description of an entry has more than {MAX_HEADER_BYTES} bytes"
            )));
        }
        let end = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = self.reader.read(&mut buffer[..end])?;
        self.allowance.set(left - read as u64);
        Ok(read)
    }
}
