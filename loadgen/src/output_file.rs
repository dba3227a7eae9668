//! A file of results, or standard output. It is opened before the load and written after it. Knows nothing of what is
//! written.

use anyhow::{Context, Result};
use std::fs::{File, Metadata};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The path that stands for standard output.
pub const STDOUT: &str = "-";

/// The identity of a destination, by which it is known under all its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileId {
    /// Standard output.
    Stdout,
    /// The file with this number on this device.
    File {
        /// The device that holds the file.
        device: u64,
        /// The number of the file on its device.
        number: u64,
    },
}

/// An open file of results.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    Stdout,
    File(File),
}

impl OutputFile {
    /// Opens the file, which is made if it does not exist. The contents of a file that exists stay until
    /// [`OutputFile::clear`]. `-` and other names of standard output, such as `/dev/stdout`, stand for it.
    ///
    /// # Errors
    /// If the file cannot be written, its folder does not exist, or it is a folder; the message names it.
    pub fn open(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        if path.as_os_str() == STDOUT {
            return Ok(Self { path, sink: Sink::Stdout });
        }
        let context = || format!("create {}", path.display());
        let file = File::options().write(true).create(true).truncate(false).open(&path).with_context(context)?;
        // Two handles of one file have two positions, so results and other text would overwrite each other.
        let id = file_id(&file.metadata().with_context(context)?);
        let sink = if id.is_some() && id == stdout_id() { Sink::Stdout } else { Sink::File(file) };
        Ok(Self { path, sink })
    }

    /// Whether the results go to standard output.
    pub fn is_stdout(&self) -> bool {
        matches!(self.sink, Sink::Stdout)
    }

    /// The name of the file for messages.
    pub fn name(&self) -> String {
        match self.sink {
            Sink::Stdout => "standard output".to_owned(),
            Sink::File(_) => self.path.display().to_string(),
        }
    }

    /// The identity of the file. `None` if several results may go to it: it is a device such as `/dev/null`.
    pub fn id(&self) -> Option<FileId> {
        match &self.sink {
            Sink::Stdout => Some(FileId::Stdout),
            Sink::File(file) => file.metadata().ok().as_ref().and_then(file_id),
        }
    }

    /// Deletes the contents, so that the results of an earlier run are not taken for those of this one. Does nothing
    /// with standard output, pipes and devices.
    ///
    /// # Errors
    /// If the file cannot be changed; the message names it.
    pub fn clear(&self) -> Result<()> {
        let Sink::File(file) = &self.sink else { return Ok(()) };
        let clear = || if file.metadata()?.is_file() { file.set_len(0) } else { Ok(()) };
        clear().with_context(|| format!("clear {}", self.path.display()))
    }

    /// Writes the results with `contents`. If that fails, the file is left empty instead of incomplete.
    ///
    /// # Errors
    /// If the file cannot be written, for instance because the disk is full; the message names it.
    pub fn save(mut self, contents: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
        let saved = self.fill(contents);
        if saved.is_err() {
            // The first error is the one that is reported.
            let _cleared = self.clear();
        }
        saved.with_context(|| format!("write {}", self.name()))
    }

    fn fill(&mut self, contents: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
        self.find_again()?;
        let mut buffer = BufWriter::new(self);
        contents(&mut buffer)?;
        Ok(buffer.flush()?)
    }

    /// Makes the file again if it was deleted or replaced during the load. Otherwise the results would be lost.
    fn find_again(&mut self) -> Result<()> {
        if let Sink::File(file) = &mut self.sink
            && file.metadata()?.nlink() == 0
        {
            *file = File::create(&self.path)?;
        }
        Ok(())
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.sink {
            Sink::File(file) => file.write(bytes),
            // A reader such as `head` may leave before the end. It needs no more then, and that is no error.
            Sink::Stdout => match io::stdout().write(bytes) {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(bytes.len()),
                outcome => outcome,
            },
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::File(file) => file.flush(),
            Sink::Stdout => match io::stdout().flush() {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
                outcome => outcome,
            },
        }
    }
}

/// The identity of a file; `None` for a device.
pub fn file_id(file: &Metadata) -> Option<FileId> {
    let kind = file.file_type();
    let is_device = kind.is_char_device() || kind.is_block_device();
    (!is_device).then(|| FileId::File { device: file.dev(), number: file.ino() })
}

/// The identity of the file or pipe that standard output is; `None` if it is a device such as a terminal.
fn stdout_id() -> Option<FileId> {
    let stdout = io::stdout().as_fd().try_clone_to_owned().ok()?;
    file_id(&File::from(stdout).metadata().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> impl FnOnce(&mut dyn Write) -> Result<()> {
        move |out| Ok(out.write_all(text.as_bytes())?)
    }

    #[test]
    fn an_old_result_is_gone_before_the_new_one_is_written() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("run.json");
        std::fs::write(&path, "a long result of an earlier run").expect("writable");
        let file = OutputFile::open(&path).expect("writable");
        assert!(std::fs::read_to_string(&path).expect("readable").contains("earlier"), "opening deletes nothing");
        file.clear().expect("writable");
        assert_eq!(std::fs::read_to_string(&path).expect("readable"), "");
        file.save(text("new")).expect("writable");
        assert_eq!(std::fs::read_to_string(&path).expect("readable"), "new");
    }

    #[test]
    fn a_link_stays_a_link_and_a_deleted_file_is_made_again() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (path, link) = (folder.path().join("run.json"), folder.path().join("latest.json"));
        std::fs::write(&path, "").expect("writable");
        std::os::unix::fs::symlink(&path, &link).expect("writable");
        let (file, same) = (OutputFile::open(&path).expect("writable"), OutputFile::open(&link).expect("writable"));
        assert!(file.id().is_some() && file.id() == same.id());
        same.save(text("one")).expect("writable");
        assert!(link.is_symlink() && std::fs::read_to_string(&path).expect("readable") == "one");
        std::fs::remove_file(&path).expect("writable");
        file.save(text("two")).expect("writable");
        assert_eq!(std::fs::read_to_string(&path).expect("readable"), "two");
    }

    #[test]
    fn an_incomplete_result_is_deleted_and_the_error_names_the_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("run.json");
        let file = OutputFile::open(&path).expect("writable");
        let contents = |out: &mut dyn Write| {
            out.write_all(&[b'x'; 100_000])?;
            anyhow::bail!("no space")
        };
        let error = format!("{:#}", file.save(contents).expect_err("refused"));
        assert!(error.contains("write ") && error.contains("run.json: no space"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).expect("readable"), "");
    }

    #[test]
    fn folders_and_missing_folders_are_refused_and_devices_have_no_identity() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for path in [folder.path().to_owned(), folder.path().join("no/run.json")] {
            let error = format!("{:#}", OutputFile::open(&path).expect_err("refused"));
            assert!(error.contains(&format!("create {}", path.display())), "{error}");
        }
        let null = OutputFile::open(Path::new("/dev/null")).expect("writable");
        assert_eq!(null.id(), None);
        null.clear().expect("nothing to delete");
        null.save(text("nothing")).expect("writable");
    }
}
