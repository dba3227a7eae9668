//! Resident memory of a process, in bytes, as Linux counts it (proc_pid_status(5)).

use anyhow::{Context, Result};
use std::fs;

/// Resident memory of `process` now.
///
/// # Errors
/// When the process has ended, or the system is not Linux.
pub(crate) fn resident(process: u32) -> Result<u64> {
    read(process, "VmRSS")
}

/// The most memory that was ever resident.
///
/// # Errors
/// When the process has ended, or the system is not Linux.
pub(crate) fn peak(process: u32) -> Result<u64> {
    read(process, "VmHWM")
}

/// Bytes as megabytes (10^6 bytes).
pub(crate) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn read(process: u32, field: &str) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}; is this Linux?"))?;
    bytes(&text, field).with_context(|| format!("no {field} in {path}"))
}

/// The value of a field. The file counts in units of 1024 bytes and calls them kB.
fn bytes(status: &str, field: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_by_name() {
        let status = "VmHWM:\t  400000 kB\nVmRSS:\t  250000 kB\nRssAnon:\t 9 kB\n";
        assert_eq!(bytes(status, "VmRSS"), Some(256_000_000));
        assert_eq!(bytes(status, "VmHWM"), Some(409_600_000));
        assert_eq!(bytes(status, "Vm"), None);
    }
}
