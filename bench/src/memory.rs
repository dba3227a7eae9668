//! The resident memory of a process, as Linux reports it (proc_pid_status(5)).

use anyhow::{Context, Result};
use std::fs;

/// The memory of `process` that is resident now, in bytes.
///
/// # Errors
/// If the process has ended, or the system is not Linux.
pub(crate) fn resident(process: u32) -> Result<u64> {
    read(process, "VmRSS")
}

/// The most memory of `process` that was ever resident, in bytes.
///
/// # Errors
/// If the process has ended, or the system is not Linux.
pub(crate) fn peak(process: u32) -> Result<u64> {
    read(process, "VmHWM")
}

/// Converts bytes to megabytes (10^6 bytes).
pub(crate) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn read(process: u32, field: &str) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("read {path}; the process has ended, or this is not Linux"))?;
    bytes(&text, field).with_context(|| format!("no {field} in {path}"))
}

/// The value of `field` in bytes; `None` if the field is missing or malformed. The file gives it in units of 1024
/// bytes, which it calls kB.
fn bytes(status: &str, field: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_the_status_is_found_by_its_whole_name() {
        let status = "VmHWM:\t  400000 kB\nVmRSS:\t  250000 kB\nRssAnon:\t 9 kB\n";
        assert_eq!(bytes(status, "VmRSS"), Some(256_000_000));
        assert_eq!(bytes(status, "VmHWM"), Some(409_600_000));
        assert_eq!(bytes(status, "Vm"), None);
    }
}
