//! PURE: `/proc/PID/stat`, of which only the processor time is of interest.

use std::time::Duration;

/// Where the times are among the fields behind the program's name (proc(5): the 14th and the 15th of all).
const UTIME: usize = 11;

/// What all threads of a process have used, in the program and in the kernel, from its `/proc/PID/stat`; nothing if that
/// is no such text. `ticks` are a second.
pub fn processor_time(stat: &str, ticks: u64) -> Option<Duration> {
    // The name stands in parentheses and may itself hold any character, these and line ends included.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_ascii_whitespace().skip(UTIME).map(str::parse::<u64>);
    let (user, kernel) = (times.next()?.ok()?, times.next()?.ok()?);
    let used = user.checked_add(kernel)?;
    Some(Duration::from_secs(used / ticks) + Duration::from_secs(used % ticks) / u32::try_from(ticks).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let rest = "S 1 77 77 0 -1 4194560 1523 20 3 4 250 75 900 800 20 0 9 0 123 5 6";
        let milliseconds = Duration::from_millis;
        for (name, expected) in [
            ("replica", Some(3250)),
            ("a replica", Some(3250)),
            (") R 1 2 3 4 5 6 7 8 9 10 11 12 13", Some(3250)),
            ("((x", Some(3250)),
            ("a\n) b (", Some(3250)),
            ("", Some(3250)),
        ] {
            let stat = format!("77 ({name}) {rest}\n");
            assert_eq!(processor_time(&stat, 100), expected.map(milliseconds), "{stat:?}");
        }
        assert_eq!(processor_time(&format!("7 (a) {rest}"), 1000), Some(milliseconds(325)));
        let long = u64::MAX;
        for bad in [
            String::new(),
            "77".into(),
            "77 (replica".into(),
            "77 (replica)".into(),
            "77 (replica) S 1 77 77 0 -1 4194560 1523 20 3 4 250".into(),
            "77 (replica) S 1 77 77 0 -1 4194560 1523 20 3 4 250 x 0".into(),
            "77 (replica) S 1 77 77 0 -1 4194560 1523 20 3 4 -250 75 0".into(),
            format!("77 (replica) S 1 77 77 0 -1 4194560 1523 20 3 4 {long} 1 0"),
            format!("77 (replica) S 1 77 77 0 -1 4194560 1523 20 3 4 {long}0 1 0"),
        ] {
            assert_eq!(processor_time(&bad, 100), None, "{bad:?}");
        }
        let centuries = format!("77 (replica) S 1 77 77 0 -1 4194560 1523 20 3 4 {long} 0 0");
        assert_eq!(processor_time(&centuries, 100), Some(Duration::from_secs(long / 100) + milliseconds(150)));
    }
}
