//! How long this process has been alive, from exec on: what happens before `main` (libtorch's static initialisers)
//! counts too.

use std::time::{Duration, Instant};

/// Time since exec; `main_entered` is the next best where the system does not tell.
pub fn age(main_entered: Instant) -> Duration {
    since_exec().unwrap_or_else(|| main_entered.elapsed())
}

/// From `/proc`: field 22 of `stat` is the start in clock ticks since boot (proc_pid_stat(5)).
fn since_exec() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the command in parentheses and may hold spaces: count from its end.
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
