//! Workloads that are described by stages as in k6's ramping arrival rate, such as `30s:10,1m:50`. Pure.

use crate::{MAX_PER_SECOND, MAX_SECONDS, Workload};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Largest number of stages.
const MAX_STAGES: usize = 10_000;

/// A linear change of the rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stage {
    /// The length of the stage. A stage of length zero changes the rate at once.
    pub duration: Duration,
    /// The rate at the end of the stage, in requests per second. It begins with the rate at the end of the stage
    /// before.
    pub target: f64,
}

/// Stages in succession.
#[derive(Debug, Clone, PartialEq)]
pub struct Stages(Vec<Stage>);

impl Stages {
    /// The workload of these stages, of which the first begins at `start_rate`. The rate of each second is the mean
    /// rate in that second. If the last stage ends within a second, that second gets a proportionally lower rate.
    pub fn workload(&self, start_rate: f64) -> Workload {
        let mut per_second = Vec::new();
        let (mut start, mut from) = (Duration::ZERO, start_rate);
        for stage in &self.0 {
            let end = start + stage.duration;
            let (begin, length) = (start.as_secs_f64(), stage.duration.as_secs_f64());
            let rate = |at: f64| from + (stage.target - from) * (at - begin) / length;
            for second in start.as_secs() as usize..end.as_secs_f64().ceil() as usize {
                if second >= per_second.len() {
                    per_second.push(0.0);
                }
                let (low, high) = (begin.max(second as f64), end.as_secs_f64().min((second + 1) as f64));
                // The mean of a linear rate is the rate in the middle.
                if high > low {
                    per_second[second] += rate((low + high) / 2.0) * (high - low);
                }
            }
            (start, from) = (end, stage.target);
        }
        Workload { per_second }
    }
}

/// The reason why a text is no list of stages.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; write stages as DURATION:RATE, separated by commas, such as 30s:10,1m30s:50")]
pub struct Error {
    reason: String,
}

impl FromStr for Stages {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let error = |reason: String| Error { reason };
        let shown = |text: &str| text.chars().take(40).collect::<String>();
        let mut stages = Vec::new();
        let mut length = Duration::ZERO;
        for (index, stage) in text.split(',').enumerate() {
            let number = index + 1;
            let (duration, target) = stage
                .split_once(':')
                .ok_or_else(|| error(format!("stage {number}, {:?}, has no colon", shown(stage))))?;
            let duration = humantime::parse_duration(duration.trim())
                .map_err(|_| error(format!("the duration of stage {number}, {:?}, is no time", shown(duration))))?;
            let rate = target.trim().parse().ok().filter(|rate| (0.0..=MAX_PER_SECOND).contains(rate));
            let target = rate.ok_or_else(|| {
                let target = shown(target);
                error(format!("the rate of stage {number}, {target:?}, is no number from 0 to {MAX_PER_SECOND}"))
            })?;
            length = length.saturating_add(duration);
            if length > Duration::from_secs(MAX_SECONDS as u64) {
                return Err(error(format!("stage {number} ends after more than a week")));
            }
            if number > MAX_STAGES {
                return Err(error(format!("there are more than {MAX_STAGES} stages")));
            }
            stages.push(Stage { duration, target });
        }
        if length.is_zero() {
            return Err(error("the stages have no length".to_owned()));
        }
        Ok(Self(stages))
    }
}

impl fmt::Display for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, stage) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let duration = humantime::format_duration(stage.duration).to_string().replace(' ', "");
            write!(f, "{comma}{duration}:{}", stage.target)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rates(stages: &str, start_rate: f64) -> Vec<f64> {
        stages.parse::<Stages>().expect(stages).workload(start_rate).per_second
    }

    #[test]
    fn the_rate_moves_linearly_to_the_target_of_each_stage() {
        assert_eq!(rates("4s:4", 0.0), [0.5, 1.5, 2.5, 3.5]);
        assert_eq!(rates("2s:10,2s:10,2s:0", 10.0), [10.0, 10.0, 10.0, 10.0, 7.5, 2.5]);
        assert_eq!(rates("2s:0,0s:8,2s:8", 0.0), [0.0, 0.0, 8.0, 8.0]);
        // The first stage ends at 0.5 s with 4/s, and the second goes on with 4/s.
        assert_eq!(rates("500ms:4,1s:4", 0.0), [3.0, 2.0]);
        assert_eq!(rates("1m30s:0", 9.0).len(), 90);
    }

    #[test]
    fn errors_name_the_invalid_stage() {
        for (text, words) in [
            ("", "stage 1, \"\", has no colon"),
            ("30s", "has no colon"),
            ("30s:10,", "stage 2"),
            ("30:10", "duration of stage 1, \"30\""),
            ("x:10", "\"x\", is no time"),
            ("-1s:10", "is no time"),
            ("1s:-1", "rate of stage 1, \"-1\""),
            ("1s:NaN", "is no number from 0 to 1000000"),
            ("1s:1e7", "is no number"),
            ("0s:5", "no length"),
            ("1s:1,8days:1", "stage 2 ends after more than a week"),
            ("99999999years:1,99999999years:1", "more than a week"),
        ] {
            let error = text.parse::<Stages>().expect_err("refused").to_string();
            assert!(error.contains(words) && error.contains("30s:10,1m30s:50"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn stages_have_the_requests_under_their_ramps(
            stages in proptest::collection::vec((0_u64..5000, 0_u32..100), 1..9),
            start in 0_u32..100,
        ) {
            prop_assume!(stages.iter().any(|&(milliseconds, _)| milliseconds > 0));
            let text: Vec<_> = stages.iter().map(|(length, target)| format!("{length}ms:{target}")).collect();
            let parsed: Stages = text.join(",").parse().expect("the stages are valid");
            prop_assert_eq!(parsed.to_string().parse(), Ok(parsed.clone()));
            let (mut from, mut expected) = (f64::from(start), 0.0);
            for (milliseconds, target) in stages {
                expected += (from + f64::from(target)) / 2.0 * milliseconds as f64 / 1e3;
                from = f64::from(target);
            }
            let found = parsed.workload(f64::from(start));
            prop_assert!((found.total() - expected).abs() < 1e-6, "{} {expected}", found.total());
            prop_assert!(found.per_second.iter().all(|rate| (0.0..=100.0).contains(rate)));
        }
    }
}
