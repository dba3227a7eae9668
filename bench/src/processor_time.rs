//! Processor time (user and system) that processes have used, as Linux counts it.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One tick of `/proc/PID/stat`. USER_HZ is 100 on x86 and Arm (proc(5)).
const TICK: Duration = Duration::from_millis(10);

/// Places of utime and cutime among the words that follow the name in `/proc/PID/stat` (proc_pid_stat(5)); stime and
/// cstime are the words after them.
const UTIME: usize = 11;
const CUTIME: usize = 13;

/// Time that `process` and its children have used so far: all threads and children that still live.
///
/// # Errors
/// When the process has ended, or the system is not Linux.
pub(crate) fn of(process: u32) -> Result<Duration> {
    let folder = PathBuf::from(format!("/proc/{process}"));
    let mut sum = of_threads(&folder)?;
    for thread in threads(&folder)? {
        for child in read(&thread.join("children"))?.split_whitespace() {
            sum += of(child.parse().context("read a child's process id")?)?;
        }
    }
    Ok(sum)
}

/// Time that all ended children of this process used, in ticks of 10 ms.
///
/// # Errors
/// When the system is not Linux.
pub(crate) fn of_ended_children() -> Result<Duration> {
    let stat = read(Path::new("/proc/self/stat"))?;
    ticks(&stat, CUTIME).with_context(|| format!("find cutime in /proc/self/stat: {stat:?}"))
}

/// In nanoseconds where the kernel keeps schedstat (CONFIG_SCHED_INFO), else in ticks.
fn of_threads(process: &Path) -> Result<Duration> {
    if !process.join("schedstat").exists() {
        let stat = read(&process.join("stat"))?;
        return ticks(&stat, UTIME).with_context(|| format!("find utime in {}/stat: {stat:?}", process.display()));
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
    fs::read_to_string(path).with_context(|| format!("read {}; is this Linux?", path.display()))
}

/// The first number of `schedstat`: nanoseconds on a processor.
fn on_processor(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// User and system time from `stat`, whose words at `user` and after it hold them. The name before these words stands
/// in parentheses and may itself hold spaces and parentheses.
fn ticks(stat: &str, user: usize) -> Option<Duration> {
    let mut words = stat.rsplit_once(')')?.1.split_whitespace().skip(user);
    let user: u32 = words.next()?.parse().ok()?;
    let system: u32 = words.next()?.parse().ok()?;
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
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 90 0 1 0 250 31 4 2 20 0 3 0 812 1 2 3\n";
        assert_eq!(ticks(stat, UTIME), Some(Duration::from_millis(2810)));
        assert_eq!(ticks(stat, CUTIME), Some(Duration::from_millis(60)));
        assert_eq!(ticks("7 (a) S 1", UTIME), None);
    }

    #[test]
    fn the_work_of_a_child_counts() {
        // timeout(1) waits while its child works, and ends both after 20 s if this test fails to.
        let mut parent =
            Command::new("timeout").args(["20", "sh", "-c", "while :; do :; done"]).spawn().expect("timeout starts");
        while of(parent.id()).expect("both processes run") < Duration::from_millis(20) {}
        kill_process(Pid::from_child(&parent), Signal::TERM).expect("the parent runs");
        parent.wait().expect("the parent ends");
    }
}
