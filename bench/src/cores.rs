//! Pins programs and threads to cores, with the program `taskset`. Linux only.

use anyhow::{Context, Result, ensure};
use std::ffi::OsStr;
use std::fs;
use std::process::{Command, Stdio};

/// The cores that this process may use, in ascending order.
///
/// # Errors
/// If `/proc/self/status` does not list the cores.
pub(crate) fn allowed() -> Result<Vec<u32>> {
    let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status; is this Linux?")?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let list = list.context("no Cpus_allowed_list in /proc/self/status")?.trim();
    parse(list).with_context(|| format!("Cpus_allowed_list in /proc/self/status is no list of cores: {list:?}"))
}

/// A command that runs `program` with all its threads on one core. The process id of the spawned child is that of
/// `program`, since taskset replaces itself by it.
pub(crate) fn command_on(core: u32, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

/// Pins the calling thread to one core.
///
/// # Errors
/// If this process may not use the core, or the system is not Linux.
pub(crate) fn pin_this_thread(core: u32) -> Result<()> {
    // The link points to PID/task/TID.
    let link = fs::read_link("/proc/thread-self").context("read /proc/thread-self; is this Linux?")?;
    let thread = link.file_name().context("the link /proc/thread-self names no thread")?.to_string_lossy().into_owned();
    taskset(&["-c", "-p", &core.to_string(), &thread])
}

/// A core that no thread of this process uses. Dropping this value permits the core again.
pub(crate) struct ReservedCore {
    before: Vec<u32>,
}

impl ReservedCore {
    /// Moves all threads of this process from `core` to the other cores.
    ///
    /// # Errors
    /// If this process may use no other core.
    pub(crate) fn new(core: u32) -> Result<Self> {
        let before = allowed()?;
        let others: Vec<u32> = before.iter().copied().filter(|&other| other != core).collect();
        ensure!(
            !others.is_empty(),
            "this process may use core {core} only; this benchmark needs one core for the replica and one for its \
             clients"
        );
        pin_process(&others)?;
        Ok(Self { before })
    }
}

impl Drop for ReservedCore {
    fn drop(&mut self) {
        if let Err(error) = pin_process(&self.before) {
            eprintln!("this process stays restricted to some cores: {error:#}");
        }
    }
}

fn pin_process(cores: &[u32]) -> Result<()> {
    let list = cores.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    taskset(&["-a", "-c", "-p", &list, &std::process::id().to_string()])
}

fn taskset(arguments: &[&str]) -> Result<()> {
    let status = Command::new("taskset").args(arguments).stdout(Stdio::null()).status();
    let status = status.context("run taskset; on Debian and Ubuntu: sudo apt-get install util-linux")?;
    ensure!(status.success(), "taskset {} failed ({status})", arguments.join(" "));
    Ok(())
}

/// The cores of a list such as `0-2,5`; `None` if the list is malformed.
fn parse(list: &str) -> Option<Vec<u32>> {
    let mut cores = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cores.extend(first.parse::<u32>().ok()?..=last.parse().ok()?);
    }
    Some(cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores_are_parsed() {
        assert_eq!(parse("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse("7"), Some(vec![7]));
        for malformed in ["", "-", "a", "1-", "1,,2"] {
            assert_eq!(parse(malformed), None, "{malformed:?}");
        }
    }
}
