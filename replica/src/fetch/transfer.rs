//! Copies bytes within the limits of a run: the size of all that it writes, its time, and a request to stop. Logs the
//! progress, since a pod has no terminal.

use anyhow::{Error, anyhow};
use bytesize::ByteSize;
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Bytes that are copied at once. A limit is checked after each of these pieces.
const PIECE_BYTES: usize = 256 << 10;

/// Time between two lines of the log about one file.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// The name of the signal that asks the run to stop, once there is one.
pub(super) type Stop = Arc<OnceLock<&'static str>>;

/// The limits of a run, and what it has used of them.
pub(super) struct Limits {
    max_size: ByteSize,
    /// Bytes that may still be written.
    left: u64,
    timeout: Duration,
    deadline: Instant,
    stop: Stop,
    piece: Vec<u8>,
}

/// The reason why bytes could not be copied.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The source failed.
    #[error("{0}")]
    Read(io::Error),
    /// The file could not be written.
    #[error("{0}")]
    Write(io::Error),
    /// All files together would be too large.
    #[error("all files together have more than {0}; free the source of what is not needed, or raise --max-size")]
    TooLarge(ByteSize),
    /// The time is over.
    #[error("it takes more than {0:?}; raise --timeout")]
    Late(Duration),
    /// The process was told to stop.
    #[error("stopped by {0}")]
    Stopped(&'static str),
}

impl Fault {
    /// The error for the user. `path` is the file that was written, and `read` explains a failure of the source.
    pub(super) fn explained(self, path: &Path, read: impl FnOnce(io::Error) -> Error) -> Error {
        match self {
            Self::Read(error) => read(error),
            Self::Write(error) => write_error(path, error),
            limit => limit.into(),
        }
    }
}

impl Limits {
    /// The limits of a run that starts at `now`.
    pub(super) fn new(max_size: ByteSize, timeout: Duration, now: Instant, stop: Stop) -> Self {
        let piece = vec![0; PIECE_BYTES];
        Self { max_size, left: max_size.as_u64(), timeout, deadline: now + timeout, stop, piece }
    }

    /// The time that is left.
    ///
    /// # Errors
    /// If there is none, or the process was told to stop.
    pub(super) fn time_left(&self) -> Result<Duration, Fault> {
        if let Some(signal) = self.stop.get() {
            return Err(Fault::Stopped(signal));
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(Fault::Late(self.timeout)) } else { Ok(left) }
    }

    /// Checks that `bytes` may still be written. So a file whose size is known in advance is refused at once.
    ///
    /// # Errors
    /// If they are too many.
    pub(super) fn check_size(&self, bytes: u64) -> Result<(), Fault> {
        if bytes > self.left { Err(Fault::TooLarge(self.max_size)) } else { Ok(()) }
    }

    /// Copies all bytes of `reader` to `writer`. Returns their number.
    ///
    /// # Errors
    /// If a limit is reached, or reading or writing fails.
    pub(super) fn copy(
        &mut self,
        mut reader: impl Read,
        mut writer: impl Write,
        mut progress: Progress,
    ) -> Result<u64, Fault> {
        loop {
            self.time_left()?;
            let bytes = match reader.read(&mut self.piece) {
                Ok(0) => return Ok(progress.bytes),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    // A stop ends the connection, and that would be taken for the server's fault.
                    self.time_left()?;
                    return Err(Fault::Read(error));
                }
            };
            self.check_size(bytes as u64)?;
            self.left -= bytes as u64;
            writer.write_all(&self.piece[..bytes]).map_err(Fault::Write)?;
            progress.advance(bytes as u64);
        }
    }
}

/// The progress of one file.
pub(super) struct Progress {
    name: String,
    total: Option<u64>,
    bytes: u64,
    started: Instant,
    reported: Instant,
}

impl Progress {
    /// The progress of the file `name` that has `total` bytes, if that is known.
    pub(super) fn new(name: impl Into<String>, total: Option<u64>) -> Self {
        let now = Instant::now();
        Self { name: name.into(), total, bytes: 0, started: now, reported: now }
    }

    fn advance(&mut self, bytes: u64) {
        self.bytes += bytes;
        if self.reported.elapsed() >= REPORT_INTERVAL {
            self.reported = Instant::now();
            tracing::info!("{}: {}", self.name, progress_text(self.bytes, self.total, self.started.elapsed()));
        }
    }
}

/// The progress in words: `512.0 MB of 2.0 GB (25 %), 102.4 MB/s`.
pub(super) fn progress_text(bytes: u64, total: Option<u64>, elapsed: Duration) -> String {
    let size = |bytes| ByteSize::b(bytes).display().si();
    let rate = bytes as f64 / elapsed.as_secs_f64().max(1e-3) / 1e6;
    match total.filter(|total| *total > 0) {
        Some(total) => {
            let percent = (100.0 * bytes as f64 / total as f64).floor();
            format!("{} of {} ({percent} %), {rate:.1} MB/s", size(bytes), size(total))
        }
        None => format!("{}, {rate:.1} MB/s", size(bytes)),
    }
}

/// The error for a file or folder that cannot be written, with advice for its usual causes.
pub(super) fn write_error(path: &Path, error: io::Error) -> Error {
    let advice = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "; make the volume larger (an emptyDir: its sizeLimit): it holds an archive and its files at the same time"
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "; mount a volume there that the user of this container may write (securityContext.fsGroup)"
        }
        ErrorKind::NotFound => "; make the folder that it is in, or mount a volume there",
        _ => "",
    };
    anyhow!("write {}: {error}{advice}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(bytes: u64, timeout: Duration) -> Limits {
        Limits::new(ByteSize::b(bytes), timeout, Instant::now(), Stop::default())
    }

    fn copied(limits: &mut Limits, bytes: u64) -> Result<u64, Fault> {
        let mut written = Vec::new();
        let copied = limits.copy(io::repeat(7).take(bytes), &mut written, Progress::new("x", None))?;
        assert!(written.len() as u64 == copied && written.iter().all(|byte| *byte == 7));
        Ok(copied)
    }

    #[test]
    fn the_size_is_that_of_all_files_together() {
        let mut limits = limits(1 << 20, Duration::from_secs(60));
        assert_eq!(copied(&mut limits, 1 << 19).expect("half"), 1 << 19);
        assert!(limits.check_size(1 << 19).is_ok() && limits.check_size((1 << 19) + 1).is_err());
        assert_eq!(copied(&mut limits, 1 << 19).expect("all"), 1 << 19);
        let error = copied(&mut limits, 1).expect_err("one more").to_string();
        assert!(error.contains("more than 1.0 MiB") && error.contains("--max-size"), "{error}");
    }

    #[test]
    fn time_and_signals_end_a_copy() {
        let error = copied(&mut limits(9, Duration::ZERO), 1).expect_err("no time").to_string();
        assert!(error.contains("--timeout"), "{error}");
        let mut limits = limits(9, Duration::from_secs(60));
        limits.stop.set("SIGTERM").expect("it is the first");
        assert_eq!(copied(&mut limits, 1).expect_err("stopped").to_string(), "stopped by SIGTERM");
    }

    #[test]
    fn failures_of_source_and_file_are_told_apart() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("x"))
            }
        }
        let mut limits = limits(9, Duration::from_secs(60));
        let mut full: &mut [u8] = &mut [0; 2];
        let progress = || Progress::new("x", None);
        assert!(matches!(limits.copy(Failing, io::sink(), progress()), Err(Fault::Read(_))));
        assert!(matches!(limits.copy(&b"abc"[..], &mut full, progress()), Err(Fault::Write(_))));
    }

    #[test]
    fn progress_has_bytes_percent_and_rate() {
        let text = |bytes, total| progress_text(bytes, total, Duration::from_secs(4));
        assert_eq!(text(500_000_000, Some(2_000_000_000)), "500.0 MB of 2.0 GB (25 %), 125.0 MB/s");
        assert_eq!(text(999, Some(1000)), "999 B of 1.0 kB (99 %), 0.0 MB/s");
        assert_eq!(text(500_000_000, None), "500.0 MB, 125.0 MB/s");
        assert_eq!(text(0, Some(0)), "0 B, 0.0 MB/s");
    }
}
