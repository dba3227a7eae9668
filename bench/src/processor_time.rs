//! Processor time that a process and its children have used so far, as Linux counts it.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One tick of `/proc/PID/stat`: USER_HZ is 100 on every architecture that matters (proc(5)).
const TICK: Duration = Duration::from_millis(10);

/// Time on a processor, user and system, of every thread that lives and of every child that does.
///
/// # Errors
/// When the process has ended, or the system is not Linux.
pub fn spent(process: u32) -> Result<Duration> {
    let folder = PathBuf::from(format!("/proc/{process}"));
    let mut sum = own(&folder)?;
    for thread in threads(&folder)? {
        for child in read(&thread.join("children"))?.split_whitespace() {
            sum += spent(child.parse().context("read a child's process id")?)?;
        }
    }
    Ok(sum)
}

/// In nanoseconds where the kernel keeps schedstat (CONFIG_SCHED_INFO), else in ticks.
fn own(process: &Path) -> Result<Duration> {
    if !process.join("schedstat").exists() {
        let stat = read(&process.join("stat"))?;
        return ticks(&stat).with_context(|| format!("read {}/stat: {stat:?}", process.display()));
    }
    let mut sum = Duration::ZERO;
    for thread in threads(process)? {
        let schedstat = read(&thread.join("schedstat"))?;
        sum += on_processor(&schedstat).with_context(|| format!("read {}: {schedstat:?}", thread.display()))?;
    }
    Ok(sum)
}

fn threads(process: &Path) -> Result<Vec<PathBuf>> {
    let folder = process.join("task");
    let entries = fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
    Ok(entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<_>>()?)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

/// `schedstat` is nanoseconds on a processor, nanoseconds waiting for one, and turns.
fn on_processor(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// `stat` is the id, the name in parentheses, which may hold anything, the state, and numbers: the 11th and the 12th of
/// them are utime and stime.
fn ticks(stat: &str) -> Option<Duration> {
    let mut numbers = stat.rsplit_once(')')?.1.split_whitespace().skip(1 + 10);
    let user: u32 = numbers.next()?.parse().ok()?;
    let system: u32 = numbers.next()?.parse().ok()?;
    Some(TICK * (user + system))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, Signal, kill_process};
    use std::process::Command;

    #[test]
    fn both_files_of_the_kernel_are_understood() {
        assert_eq!(on_processor("285526 17 1\n"), Some(Duration::from_nanos(285_526)));
        assert_eq!(on_processor(""), None);
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 90 0 1 0 250 31 0 0 20 0 3 0 812 1 2 3\n";
        assert_eq!(ticks(stat), Some(Duration::from_millis(2810)));
        assert_eq!(ticks("7 (a) S 1"), None);
    }

    #[test]
    fn the_work_of_a_child_counts() {
        // timeout(1) waits while its child works, and ends both by itself if this test does not come to it.
        let mut parent =
            Command::new("timeout").args(["20", "sh", "-c", "while :; do :; done"]).spawn().expect("starts");
        while spent(parent.id()).expect("both are there") < Duration::from_millis(20) {}
        kill_process(Pid::from_child(&parent), Signal::TERM).expect("it is there");
        parent.wait().expect("it ends");
    }
}
