//! PURE: the recorded time that is tried, cut into steps, and into as many queries as it takes.

use super::range::{MAX_POINTS, Range};
use humantime::{format_duration, format_rfc3339_seconds};
use std::time::{Duration, UNIX_EPOCH};

/// More would take hours, and as many years as nobody keeps.
const MAX_STEPS: u64 = 1_000_000;

/// From point number 0 to point number `steps`. Seconds, since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// Of point number 0.
    pub start: u64,
    /// From point to point; at least 1.
    pub step: u64,
    /// At least 1.
    pub steps: usize,
}

/// Why there is nothing to try.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Rates are by the second.
    #[error("--step ({}) must be whole seconds", format_duration(*.0))]
    Step(Duration),
    /// Not a step between the ends.
    #[error(
        "from --since ({} ago) to --until ({} ago) there is not one step of {}; give a longer time or a shorter --step",
        format_duration(*.since), format_duration(*.until), format_duration(*.step)
    )]
    Short {
        /// How long ago it begins.
        since: Duration,
        /// How long ago it ends.
        until: Duration,
        /// As given.
        step: Duration,
    },
    /// Prometheus's clock begins then.
    #[error("--since ({} ago) lies before 1970", format_duration(*.0))]
    Early(Duration),
    /// Too many points.
    #[error(
        "{} in steps of {step}s are {steps} steps, more than {MAX_STEPS}; --step {}s would do",
        format_duration(Duration::from_secs(*.seconds)), .seconds.div_ceil(MAX_STEPS)
    )]
    Long {
        /// In all.
        seconds: u64,
        /// Seconds.
        step: u64,
        /// How many that are.
        steps: u64,
    },
}

impl Period {
    /// From `since` before `now` to `until` before it, in whole steps; what is left over is cut off at the beginning.
    ///
    /// # Errors
    /// See [`Error`].
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

    /// When point `index` is.
    pub fn at(&self, index: usize) -> u64 {
        self.start + index as u64 * self.step
    }

    /// The same for people.
    pub fn shown(&self, index: usize) -> impl std::fmt::Display {
        format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(self.at(index)))
    }

    /// How long it is.
    pub fn length(&self) -> Duration {
        Duration::from_secs(self.steps as u64 * self.step)
    }

    /// All points in as many ranges as it takes, each with the number of its first point.
    pub fn ranges(&self) -> impl Iterator<Item = (usize, Range)> {
        let all = self.steps + 1;
        (0..all).step_by(MAX_POINTS).map(move |first| (first, self.range(first, (all - first).min(MAX_POINTS))))
    }

    /// Point `index` alone.
    pub fn only(&self, index: usize) -> Range {
        self.range(index, 1)
    }

    fn range(&self, first: usize, points: usize) -> Range {
        Range { start: self.at(first), step: self.step, points }
    }

    /// At most `points` points over all of it.
    pub fn coarse(&self, points: usize) -> Range {
        let steps = self.steps.div_ceil(points - 1);
        Range { start: self.start, step: self.step * steps as u64, points: self.steps / steps + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn a_period_is_whole_steps_that_end_where_they_should() {
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
        assert_eq!(half.expect_err("half a second").to_string(), "--step (1s 500ms) must be whole seconds");
    }

    #[test]
    fn what_would_do_does() {
        let new = |step| Period::new(S(2_000_000_000), S(315_576_000), S(0), S(step));
        let error = new(1).expect_err("too many").to_string();
        assert_eq!(error, "10years in steps of 1s are 315576000 steps, more than 1000000; --step 316s would do");
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
