//! The period of a backtest, divided into steps, and the ranges of the queries that cover the period. Pure.

use super::range::{MAX_POINTS, QueryRange};
use humantime::{format_duration, format_rfc3339_seconds};
use std::time::{Duration, UNIX_EPOCH};

/// The largest number of steps of a period. Half a year in steps of 15 s has more, and its backtest would take hours.
const MAX_STEPS: u64 = 1_000_000;

/// A period. Its points, numbered from 0 to `steps`, are at equal distances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// The time of point 0, in seconds since 1970.
    pub start: u64,
    /// The length of a step, from one point to the next, in seconds; at least 1.
    pub step: u64,
    /// The number of steps; at least 1.
    pub steps: usize,
}

/// The reason why the flags give no valid period.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The step is not a whole number of seconds, as it must be because a workload has one rate for each second.
    #[error("--step ({}) must be a whole number of seconds, at least 1s", format_duration(*.0))]
    Step(Duration),
    /// The period is shorter than a step.
    #[error(
        "the period from --since ({} ago) to --until ({} ago) is shorter than --step ({}); give a longer period or a \
         shorter --step",
        format_duration(*.since), format_duration(*.until), format_duration(*.step)
    )]
    Short {
        /// The time from the beginning of the period until now.
        since: Duration,
        /// The time from the end of the period until now.
        until: Duration,
        /// The length of a step.
        step: Duration,
    },
    /// The period begins before 1970, where the time of Prometheus begins.
    #[error("--since ({} ago) is before 1970; give a shorter time", format_duration(*.0))]
    Early(Duration),
    /// The period has too many steps.
    #[error(
        "a period of {} has {steps} steps of {step}s, more than {MAX_STEPS}; give --step {}s, or a shorter period",
        format_duration(Duration::from_secs(*.seconds)), .seconds.div_ceil(MAX_STEPS)
    )]
    Long {
        /// The length of the period, in seconds.
        seconds: u64,
        /// The length of a step, in seconds.
        step: u64,
        /// The number of steps.
        steps: u64,
    },
}

impl Period {
    /// The period that begins `since` before `now` and ends `until` before `now`. If its length is no multiple of
    /// `step`, it begins later, with a whole step. `now` is the time since 1970.
    ///
    /// # Errors
    /// If the arguments give no valid period; see [`Error`].
    pub fn new(now: Duration, since: Duration, until: Duration, step: Duration) -> Result<Self, Error> {
        if step.subsec_nanos() > 0 || step.is_zero() {
            return Err(Error::Step(step));
        }
        let (seconds, step_seconds) = (since.saturating_sub(until).as_secs(), step.as_secs());
        let steps = seconds / step_seconds;
        if steps == 0 {
            return Err(Error::Short { since, until, step });
        }
        if since >= now {
            return Err(Error::Early(since));
        }
        if steps > MAX_STEPS {
            return Err(Error::Long { seconds, step: step_seconds, steps });
        }
        Ok(Self { start: (now - until).as_secs() - steps * step_seconds, step: step_seconds, steps: steps as usize })
    }

    /// The time of a point, in seconds since 1970.
    pub fn at(&self, index: usize) -> u64 {
        self.start + index as u64 * self.step
    }

    /// The time of a point as text in UTC, such as `2027-01-15T08:00:00Z`.
    pub fn timestamp(&self, index: usize) -> impl std::fmt::Display {
        format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(self.at(index)))
    }

    /// The length of the period.
    pub fn length(&self) -> Duration {
        Duration::from_secs(self.steps as u64 * self.step)
    }

    /// Ranges that together have every point once, each with the number of its first point. They are as few as the
    /// limit [`MAX_POINTS`] allows.
    pub fn ranges(&self) -> impl Iterator<Item = (usize, QueryRange)> {
        let all = self.steps + 1;
        (0..all).step_by(MAX_POINTS).map(move |first| (first, self.range(first, (all - first).min(MAX_POINTS))))
    }

    /// The range of the point `index` only.
    pub fn only(&self, index: usize) -> QueryRange {
        self.range(index, 1)
    }

    fn range(&self, first: usize, points: usize) -> QueryRange {
        QueryRange { start: self.at(first), step: self.step, points }
    }

    /// A range of at most `points` points, at equal distances over the whole period.
    pub fn coarse(&self, points: usize) -> QueryRange {
        let steps = self.steps.div_ceil(points - 1);
        QueryRange { start: self.start, step: self.step * steps as u64, points: self.steps / steps + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn a_period_has_whole_steps_and_ends_as_given() {
        let new = |since, until, step| Period::new(S(1_000_000), S(since), S(until), S(step));
        for (since, until, step, start, steps) in [
            (86_400, 0, 15, 913_600, 5760),
            (100, 0, 15, 999_910, 6),
            (3600, 1800, 60, 996_400, 30),
            (15, 0, 15, 999_985, 1),
            (999_999, 0, 1, 1, 999_999),
        ] {
            assert_eq!(new(since, until, step), Ok(Period { start, step, steps }), "{since} {until} {step}");
        }
        assert!(matches!(new(14, 0, 15), Err(Error::Short { .. })));
        assert!(matches!(new(60, 60, 15), Err(Error::Short { .. })));
        assert!(matches!(new(60, 90, 15), Err(Error::Short { .. })));
        assert_eq!(new(1_000_000, 0, 15), Err(Error::Early(S(1_000_000))));
        assert_eq!(new(60, 0, 0), Err(Error::Step(S(0))));
        let half = Period::new(S(1_000_000), S(60), S(0), Duration::from_millis(1500));
        assert_eq!(
            half.expect_err("half a second").to_string(),
            "--step (1s 500ms) must be a whole number of seconds, at least 1s"
        );
    }

    #[test]
    fn the_suggested_step_is_accepted() {
        let new = |step| Period::new(S(2_000_000_000), S(315_576_000), S(0), S(step));
        let error = new(1).expect_err("too many").to_string();
        assert_eq!(
            error,
            "a period of 10years has 315576000 steps of 1s, more than 1000000; give --step 316s, or a shorter period"
        );
        assert!(new(316).is_ok() && new(315).is_err());
    }

    #[test]
    fn ranges_cover_every_point_once() {
        for steps in [1, 5760, 10_998, 10_999, 11_000, 11_001, 172_800] {
            let period = Period { start: 1000, step: 15, steps };
            let mut next = 0;
            for (first, range) in period.ranges() {
                assert_eq!((first, range.start), (next, period.at(next)));
                assert!((1..=MAX_POINTS).contains(&range.points));
                next += range.points;
                assert_eq!(range.end(), period.at(next - 1));
            }
            assert_eq!(next, steps + 1);
            let coarse = period.coarse(500);
            assert!(coarse.points <= 500 && coarse.end() <= period.at(steps), "{coarse:?}");
            assert!(coarse.end() + coarse.step > period.at(steps), "{coarse:?}");
        }
    }
}
