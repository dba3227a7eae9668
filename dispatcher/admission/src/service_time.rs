//! The service time of the replicas as a dispatcher measures it. Pure: time is an argument.

use std::time::{Duration, Instant};

/// The smallest number of answers that the mean covers.
const LEAST_ANSWERS: f64 = 10.0;

/// The shortest time that the mean covers, so that a few slow answers in quick succession hardly change the mean.
const MEMORY: Duration = Duration::from_secs(1);

/// Running mean of the time from the dispatch of a request to its answer. At first it is the mean of all answers. Later
/// it is an exponentially weighted mean over the last [`LEAST_ANSWERS`] answers or the last [`MEMORY`], whichever holds
/// more answers.
#[derive(Debug, Clone, Copy)]
pub struct ServiceTime {
    /// The mean in seconds; `None` before the first answer.
    mean: Option<f64>,
    answers: f64,
    last_answer: Instant,
}

impl ServiceTime {
    /// A mean without answers. The time since the last answer counts from `now`.
    pub fn new(now: Instant) -> Self {
        Self { mean: None, answers: 0.0, last_answer: now }
    }

    /// Records an answer that arrived at `now`, `elapsed` after the dispatch of its request.
    pub fn record(&mut self, elapsed: Duration, now: Instant) {
        let gap = now.saturating_duration_since(self.last_answer);
        let share = gap.as_secs_f64() / MEMORY.as_secs_f64();
        // The weight is 1 − e^(−share). For a small share, two terms of the series are within a relative error of 2e-9,
        // and save the call of exp, which would be made for every answer.
        let weight_by_time = if share < 1e-4 { share - share * share / 2.0 } else { 1.0 - (-share).exp() };
        self.answers += 1.0;
        let weight = weight_by_time.min(1.0 / LEAST_ANSWERS).max(1.0 / self.answers);
        self.mean = Some(self.mean.unwrap_or_default() * (1.0 - weight) + elapsed.as_secs_f64() * weight);
        self.last_answer = now;
    }

    /// The mean service time; `None` before the first answer.
    pub fn mean(&self) -> Option<Duration> {
        self.mean.map(Duration::from_secs_f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// Records answers, each given as the milliseconds since the answer before and its service time in milliseconds.
    /// Returns the mean after each answer, in milliseconds.
    fn means(answers: impl IntoIterator<Item = (u64, u64)>) -> Vec<f64> {
        let mut now = Instant::now();
        let mut service_time = ServiceTime::new(now);
        let mean = |(gap, elapsed)| {
            now += MS(gap);
            service_time.record(MS(elapsed), now);
            service_time.mean().expect("an answer was recorded").as_secs_f64() * 1e3
        };
        answers.into_iter().map(mean).collect()
    }

    fn check_near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 0.01 * expected, "{found} is not within 1 % of {expected}");
    }

    #[test]
    fn the_first_answers_have_equal_weight() {
        for (found, expected) in means([(50, 90), (0, 30), (0, 60)]).into_iter().zip([90.0, 60.0, 60.0]) {
            check_near(found, expected);
        }
    }

    #[test]
    fn an_answer_after_a_long_pause_has_a_weight_of_one_tenth() {
        let found = means([[(10_000, 100); 20].as_slice(), &[(10_000, 200)]].concat());
        check_near(found[20], 110.0);
    }

    #[test]
    fn frequent_answers_lose_weight_with_time_and_not_with_their_number() {
        // 1,000 answers per second for 10 s, then answers that take twice as long for 1 s, which is MEMORY. The old
        // mean then has a weight of exp(-1).
        let found = means([vec![(1, 100); 10_000], vec![(1, 200); 1000]].concat());
        check_near(found[9_999], 100.0);
        check_near(found[10_099], 200.0 - 100.0 * (-0.1_f64).exp());
        check_near(found[10_999], 200.0 - 100.0 * (-1.0_f64).exp());
    }
}
