//! PURE: whether the generator kept to its schedule, or measured itself.

use crate::latencies::{Latencies, Percentiles};
use crate::sample::Sample;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A send later than this is late.
pub const LATE: Duration = Duration::from_millis(10);

/// More than this share of late sends, and the figures are the generator's, not the server's.
const TOO_MANY: f64 = 0.01;

/// How late requests were sent, through the generator's own fault.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Punctuality {
    /// Milliseconds from the scheduled to the actual send time, of all requests.
    pub send_delay_ms: Percentiles,
    /// Requests sent more than 10 ms late.
    pub late_sends: usize,
    /// Whether more than 1 % were: the generator was the bottleneck, and nothing can be said of the server.
    pub is_bottleneck: bool,
}

impl Punctuality {
    /// Of a run.
    pub fn of(samples: &[Sample]) -> Self {
        let late_sends = samples.iter().filter(|sample| sample.send_delay > LATE).count();
        Self {
            send_delay_ms: samples
                .iter()
                .map(|sample| sample.send_delay)
                .collect::<Latencies>()
                .percentiles()
                .unwrap_or_default(),
            late_sends,
            is_bottleneck: late_sends as f64 > TOO_MANY * samples.len() as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Outcome;

    #[test]
    fn one_late_send_in_a_hundred_is_forgiven() {
        let sample = |delay_ms| Sample {
            scheduled: Duration::ZERO,
            send_delay: Duration::from_millis(delay_ms),
            latency: Duration::from_millis(delay_ms),
            sent_bytes: 0,
            received_bytes: 0,
            outcome: Outcome::Answered { right: None },
        };
        let run = |late: usize| -> Vec<Sample> { (0..100).map(|n| sample(if n < late { 11 } else { 10 })).collect() };
        let found = |late| Punctuality::of(&run(late));
        assert_eq!((found(0).late_sends, found(0).is_bottleneck), (0, false));
        assert_eq!((found(1).late_sends, found(1).is_bottleneck), (1, false));
        assert_eq!((found(2).late_sends, found(2).is_bottleneck), (2, true));
        assert!(!Punctuality::of(&[]).is_bottleneck);
    }
}
