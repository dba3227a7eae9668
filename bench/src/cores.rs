//! Keeping programs on cores. Linux only: it asks `taskset`.

use anyhow::{Context, Result, ensure};
use std::ffi::OsStr;
use std::fs;
use std::process::{Command, Stdio};

/// Cores that this process may use, in ascending order.
///
/// # Errors
/// When the system does not tell.
pub fn allowed() -> Result<Vec<u32>> {
    let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).context("no list of cores")?;
    parse(list.trim()).with_context(|| format!("read the list of cores {list:?}"))
}

/// A program that stays on one core with all of its threads, under the process id of what is started.
pub fn command_on(core: u32, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

/// Keeps every thread of this process off a core until it is dropped.
pub struct Elsewhere {
    before: Vec<u32>,
}

impl Elsewhere {
    /// From now on.
    ///
    /// # Errors
    /// When there is no other core.
    pub fn than(core: u32) -> Result<Self> {
        let before = allowed()?;
        let others: Vec<u32> = before.iter().copied().filter(|&other| other != core).collect();
        ensure!(!others.is_empty(), "this takes two cores: one for the replica, another for its clients");
        move_to(&others)?;
        Ok(Self { before })
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        if let Err(error) = move_to(&self.before) {
            eprintln!("{error:#}");
        }
    }
}

fn move_to(cores: &[u32]) -> Result<()> {
    let list = cores.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let mut taskset = Command::new("taskset");
    taskset.args(["-a", "-c", "-p", &list, &std::process::id().to_string()]).stdout(Stdio::null());
    let status = taskset.status().context("run taskset; on Debian and Ubuntu: sudo apt-get install util-linux")?;
    ensure!(status.success(), "taskset failed ({status})");
    Ok(())
}

/// Such as `0-2,5`.
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
    fn lists_of_cores_are_understood() {
        assert_eq!(parse("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse("7"), Some(vec![7]));
        for malformed in ["", "-", "a", "1-", "1,,2"] {
            assert_eq!(parse(malformed), None, "{malformed:?}");
        }
    }
}
