//! Times in the rows of a file: seconds, epoch times and dates. Pure.

use crate::MAX_SECONDS;
use std::time::UNIX_EPOCH;

/// A time in a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Timestamp {
    /// A number of seconds or minutes since any start, or an epoch time in seconds, milliseconds, microseconds or
    /// nanoseconds.
    Number(f64),
    /// A date with a time of day, in seconds since the epoch.
    Date(f64),
}

impl Timestamp {
    /// The time that `word` is; `None` if it is none.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        match word.parse::<f64>() {
            Ok(number) => (number.is_finite() && number >= 0.0).then_some(Self::Number(number)),
            Err(_) => date(word).map(Self::Date),
        }
    }

    /// Whether the time is a number that is no epoch time, but counts from the start of a workload.
    pub(crate) fn is_count(self) -> bool {
        matches!(self, Self::Number(number) if number <= MAX_SECONDS as f64)
    }

    /// The time since `first`, in seconds, rounded to microseconds. Floating-point numbers of epoch times are hardly
    /// more exact. `unit` is the length in seconds of the unit in which both count, unless they are dates or epoch
    /// times. `None` if one is a number and the other a date.
    pub(crate) fn since(self, first: Self, unit: f64) -> Option<f64> {
        let seconds = match (first, self) {
            (Self::Number(first_number), Self::Number(number)) => {
                let unit = if first.is_count() { unit } else { epoch_unit(first_number) };
                (number - first_number) * unit
            }
            (Self::Date(first), Self::Date(date)) => date - first,
            _ => return None,
        };
        Some((seconds * 1e6).round() / 1e6)
    }
}

/// The unit in seconds of an epoch time, which its size tells: in the year 2026, an epoch time is 1.8e9 seconds.
fn epoch_unit(number: f64) -> f64 {
    match number {
        ..1e11 => 1.0,
        ..1e14 => 1e-3,
        ..1e17 => 1e-6,
        _ => 1e-9,
    }
}

/// A date of ISO 8601, such as `2026-01-31T12:00:00.5+01:00`, in seconds since the epoch. A space may stand instead of
/// the T. The seconds and the offset from UTC may be missing.
fn date(word: &str) -> Option<f64> {
    const TO_THE_MINUTE: usize = "2026-01-31T12:00".len();
    let word = word.strip_suffix('Z').unwrap_or(word);
    let sign = word.get(TO_THE_MINUTE..)?.find(['+', '-']);
    let (local, offset) = word.split_at(sign.map_or(word.len(), |sign| TO_THE_MINUTE + sign));
    let local = local.trim_end();
    let local = if local.len() == TO_THE_MINUTE { format!("{local}:00") } else { local.to_owned() };
    let date = humantime::parse_rfc3339_weak(&local).ok()?;
    Some(date.duration_since(UNIX_EPOCH).ok()?.as_secs_f64() - offset_seconds(offset)?)
}

/// The seconds of an offset from UTC: `+01:00`, `+0100`, `+01`, or nothing.
fn offset_seconds(offset: &str) -> Option<f64> {
    if offset.is_empty() {
        return Some(0.0);
    }
    let sign = if offset.starts_with('-') { -1.0 } else { 1.0 };
    let digits = offset[1..].replace(':', "");
    let is_valid = matches!(digits.len(), 2 | 4) && digits.bytes().all(|digit| digit.is_ascii_digit());
    let (hours, minutes) = is_valid.then(|| digits.split_at(2))?;
    let minutes = if minutes.is_empty() { 0.0 } else { minutes.parse().ok()? };
    Some(sign * (3600.0 * hours.parse::<f64>().ok()? + 60.0 * minutes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_may_have_fractions_and_offsets() {
        let since = |word: &str| {
            let first = Timestamp::parse("2026-01-31T12:00:00Z").expect("a date");
            Timestamp::parse(word).and_then(|date| date.since(first, 1.0))
        };
        for (word, seconds) in [
            ("2026-01-31T12:00:01Z", 1.0),
            ("2026-01-31 12:00:01", 1.0),
            ("2026-01-31 12:01", 60.0),
            ("2026-01-31T12:01Z", 60.0),
            ("2026-01-31T12:00:00.25Z", 0.25),
            ("2026-01-31T12:00:00.250000+00:00", 0.25),
            ("2026-01-31T14:30:00+02:00", 1800.0),
            ("2026-01-31 14:30+0200", 1800.0),
            ("2026-01-31T07:00:00-05", 0.0),
            ("2026-02-01T00:00:00", 43_200.0),
        ] {
            assert_eq!(since(word), Some(seconds), "{word}");
        }
        for bad in
            ["", "x", "2026-01-31", "2026-13-01T00:00:00", "2026-01-31T12:00:00+1", "2026-01-31T12:00:00+ab", "é"]
        {
            assert_eq!(since(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_size_of_an_epoch_time_tells_its_unit() {
        let since = |first: &str, second: &str, unit| {
            let parse = |word| Timestamp::parse(word).expect("a time");
            parse(second).since(parse(first), unit)
        };
        for (first, second) in [
            ("1769860800", "1769860802"),
            ("1769860800000", "1769860802000"),
            ("1769860800000000", "1769860802000000"),
            ("1769860800000000000", "1769860802000000000"),
            ("1769860800.5", "1769860802.5"),
            ("7", "9"),
        ] {
            assert_eq!(since(first, second, 1.0), Some(2.0), "{first}");
        }
        assert_eq!(since("7", "9", 60.0), Some(120.0));
        assert_eq!(since("1769860800", "1769860860", 60.0), Some(60.0));
        for bad in ["nan", "inf", "-1"] {
            assert_eq!(Timestamp::parse(bad), None);
        }
    }
}
