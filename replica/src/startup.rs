//! The age of this process, counted from exec: libtorch's static initialisers, which run before `main`, are included.

use std::time::{Duration, Instant};

/// The time since exec. Where the operating system does not tell it, the time since `main` was entered.
pub fn age(main_entered: Instant) -> Duration {
    since_exec().unwrap_or_else(|| main_entered.elapsed())
}

/// The time since exec by Linux's `/proc`: field 22 of `stat` is the start in clock ticks since boot
/// (proc_pid_stat(5)).
fn since_exec() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the command in parentheses, may contain spaces. So fields are counted from its end.
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
