//! The age of this process, counted from exec. So it includes libtorch's static initialisers, which run before `main`.

use std::time::{Duration, Instant};

/// The time since exec. If the operating system does not report it, the time since `main_entered`.
pub fn age(main_entered: Instant) -> Duration {
    since_exec().unwrap_or_else(|| main_entered.elapsed())
}

/// The time since exec, from Linux's `/proc`. Field 22 of `/proc/self/stat` is the start of the process in clock ticks
/// since boot (proc_pid_stat(5)).
fn since_exec() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the command in parentheses, which may contain spaces. So fields are counted from its end.
    let started: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    let age = uptime - started / rustix::param::clock_ticks_per_second() as f64;
    Duration::try_from_secs_f64(age).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_grows_with_the_clock() {
        let start = Instant::now();
        let before = age(start);
        std::thread::sleep(Duration::from_millis(120));
        let grown = age(start) - before;
        assert!((80..1000).contains(&grown.as_millis()), "{grown:?}");
    }
}
