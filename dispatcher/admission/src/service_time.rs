//! The service time of the replicas as a dispatcher measures it. Time is an argument.

use std::time::{Duration, Instant};

/// The mean covers at least this many answers.
const LEAST_ANSWERS: f64 = 10.0;

/// The mean covers at least this much time, so that a burst of a few slow answers does not change it much.
const MEMORY: Duration = Duration::from_secs(1);

/// Running mean of the time between dispatching a request and its answer: at first the mean of all answers, then an
/// exponentially weighted one over the last [`LEAST_ANSWERS`] or the last [`MEMORY`], whichever holds more answers.
#[derive(Debug, Clone, Copy)]
pub struct ServiceTime {
    /// The mean in seconds; `None` before the first answer.
    mean: Option<f64>,
    answers: f64,
    last_answer: Instant,
}

impl ServiceTime {
    /// A mean without answers; `now` counts as the time of the last one.
    pub fn new(now: Instant) -> Self {
        Self { mean: None, answers: 0.0, last_answer: now }
    }

    /// Records an answer that came at `now` and took `elapsed`.
    pub fn record(&mut self, elapsed: Duration, now: Instant) {
        let gap = now.saturating_duration_since(self.last_answer);
        let share = gap.as_secs_f64() / MEMORY.as_secs_f64();
        // 1 − e^(−x). For small x two terms of the series are exact to 1e-9 of it and cost no call of exp per answer.
        let weight_by_time = if share < 1e-4 { share - share * share / 2.0 } else { 1.0 - (-share).exp() };
        self.answers += 1.0;
        let weight = weight_by_time.min(1.0 / LEAST_ANSWERS).max(1.0 / self.answers);
        self.mean = Some(self.mean.unwrap_or_default() * (1.0 - weight) + elapsed.as_secs_f64() * weight);
        self.last_answer = now;
    }

    /// The mean; `None` before the first answer.
    pub fn mean(&self) -> Option<Duration> {
        self.mean.map(Duration::from_secs_f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// The mean after each of these (milliseconds since the last, milliseconds taken).
    fn means(answers: impl IntoIterator<Item = (u64, u64)>) -> Vec<f64> {
        let mut now = Instant::now();
        let mut time = ServiceTime::new(now);
        let mean = |(gap, took)| {
            now += MS(gap);
            time.record(MS(took), now);
            time.mean().expect("there was an answer").as_secs_f64() * 1e3
        };
        answers.into_iter().map(mean).collect()
    }

    fn is_near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 0.01 * expected, "{found} is not {expected}");
    }

    #[test]
    fn the_first_answers_count_the_same() {
        for (found, expected) in means([(50, 90), (0, 30), (0, 60)]).into_iter().zip([90.0, 60.0, 60.0]) {
            is_near(found, expected);
        }
    }

    #[test]
    fn seldom_answers_count_a_tenth() {
        let found = means([[(10_000, 100); 20].as_slice(), &[(10_000, 200)]].concat());
        is_near(found[20], 110.0);
    }

    #[test]
    fn frequent_answers_fade_with_time_not_number() {
        // 10 s at 1,000 a second, then 1 s of answers that take twice as long: exp(-1) of the old mean is left.
        let found = means([vec![(1, 100); 10_000], vec![(1, 200); 1000]].concat());
        is_near(found[9_999], 100.0);
        is_near(found[10_099], 200.0 - 100.0 * (-0.1_f64).exp());
        is_near(found[10_999], 200.0 - 100.0 * (-1.0_f64).exp());
    }
}
