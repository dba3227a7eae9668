//! Processor time (user and system) that processes have used, as Linux counts it.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The length of one tick of `/proc/PID/stat`. USER_HZ is 100 on x86 and Arm (proc(5)).
const TICK: Duration = Duration::from_millis(10);

/// Place of utime among the words after the name in `/proc/PID/stat` (proc_pid_stat(5)). The word after it is stime.
const UTIME: usize = 11;

/// Place of cutime among the words after the name in `/proc/PID/stat` (proc_pid_stat(5)). The word after it is cstime.
const CUTIME: usize = 13;

/// The processor time that `process` and its descendants have used so far. Descendants that have ended do not count.
/// Threads that have ended do not count where the kernel keeps schedstat.
///
/// # Errors
/// If a process has ended, or the system is not Linux.
pub(crate) fn of(process: u32) -> Result<Duration> {
    let folder = PathBuf::from(format!("/proc/{process}"));
    let mut sum = of_threads(&folder)?;
    for thread in threads(&folder)? {
        for child in read(&thread.join("children"))?.split_whitespace() {
            let id = child.parse();
            sum += of(id.with_context(|| format!("{}/children: {child:?} is no process id", thread.display()))?)?;
        }
    }
    Ok(sum)
}

/// The processor time that all ended children of this process have used, exact to 10 ms.
///
/// # Errors
/// If the system is not Linux.
pub(crate) fn of_ended_children() -> Result<Duration> {
    let stat = read(Path::new("/proc/self/stat"))?;
    ticks(&stat, CUTIME).with_context(|| format!("/proc/self/stat has no cutime: {stat:?}"))
}

/// The processor time of the process with the folder `process`: exact to a nanosecond where the kernel keeps schedstat
/// (CONFIG_SCHED_INFO), otherwise to 10 ms.
fn of_threads(process: &Path) -> Result<Duration> {
    if !process.join("schedstat").exists() {
        let stat = read(&process.join("stat"))?;
        return ticks(&stat, UTIME).with_context(|| format!("{}/stat has no utime: {stat:?}", process.display()));
    }
    let mut sum = Duration::ZERO;
    for thread in threads(process)? {
        let schedstat = read(&thread.join("schedstat"))?;
        let time = on_processor(&schedstat);
        sum += time.with_context(|| format!("{}/schedstat has no number first: {schedstat:?}", thread.display()))?;
    }
    Ok(sum)
}

fn threads(process: &Path) -> Result<Vec<PathBuf>> {
    let folder = process.join("task");
    let entries = fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
    let threads = entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<_>>();
    threads.with_context(|| format!("list {}", folder.display()))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path)
        .with_context(|| format!("read {}; the process has ended, or this is not Linux", path.display()))
}

/// The time on a processor, which is the first number of `schedstat`, in nanoseconds. `None` if it is malformed.
fn on_processor(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// The sum of user and system time in `stat`. `user` is the place of the user time among the words after the name; the
/// word after it is the system time. The name stands in parentheses, and may itself hold spaces and parentheses.
/// `None` if the text is malformed.
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
    fn processor_time_is_read_from_schedstat_and_from_stat() {
        assert_eq!(on_processor("285526 17 1\n"), Some(Duration::from_nanos(285_526)));
        assert_eq!(on_processor(""), None);
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 90 0 1 0 250 31 4 2 20 0 3 0 812 1 2 3\n";
        assert_eq!(ticks(stat, UTIME), Some(Duration::from_millis(2810)));
        assert_eq!(ticks(stat, CUTIME), Some(Duration::from_millis(60)));
        assert_eq!(ticks("7 (a) S 1", UTIME), None);
    }

    #[test]
    fn the_processor_time_of_a_child_counts() {
        // timeout(1) itself only waits for its child. It ends both after 20 s, even if this test fails.
        let mut parent =
            Command::new("timeout").args(["20", "sh", "-c", "while :; do :; done"]).spawn().expect("timeout starts");
        while of(parent.id()).expect("both processes run") < Duration::from_millis(20) {}
        kill_process(Pid::from_child(&parent), Signal::TERM).expect("the parent runs");
        parent.wait().expect("the parent ends");
    }
}
