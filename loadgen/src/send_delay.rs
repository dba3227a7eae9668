//! Whether loadgen kept to its schedule. If it did not, the latencies contain delays that loadgen caused, and not the
//! server. Pure.

use crate::latencies::{Latencies, Percentiles};
use crate::sample::Sample;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A request that is sent later than this after its scheduled time counts as late.
pub const LATE_AFTER: Duration = Duration::from_millis(10);

/// Largest share of late requests, 0 to 1, with which a run is valid.
const MAX_LATE_SHARE: f64 = 0.01;

/// The delays with which requests were sent. They are caused by loadgen, not by the server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SendDelays {
    /// Time from the scheduled to the actual send time of all requests, in milliseconds.
    pub send_delay_ms: Percentiles,
    /// Requests that were sent more than 10 ms late.
    pub late_sends: usize,
    /// Whether more than 1 % of the requests were sent late. If so, loadgen was the bottleneck, and the figures say
    /// nothing about the server.
    pub is_bottleneck: bool,
}

impl SendDelays {
    /// Computes the send delays of a run.
    pub fn new(samples: &[Sample]) -> Self {
        let late_sends = samples.iter().filter(|sample| sample.send_delay > LATE_AFTER).count();
        let delays: Latencies = samples.iter().map(|sample| sample.send_delay).collect();
        Self {
            send_delay_ms: delays.percentiles().unwrap_or_default(),
            late_sends,
            is_bottleneck: late_sends as f64 > MAX_LATE_SHARE * samples.len() as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::RequestOutcome;

    #[test]
    fn one_late_send_in_a_hundred_is_allowed() {
        let sample = |delay_ms| Sample {
            scheduled: Duration::ZERO,
            send_delay: Duration::from_millis(delay_ms),
            latency: Duration::from_millis(delay_ms),
            sent_bytes: 0,
            received_bytes: 0,
            outcome: RequestOutcome::Answered { right: None },
        };
        let run = |late: usize| -> Vec<Sample> { (0..100).map(|n| sample(if n < late { 11 } else { 10 })).collect() };
        let found = |late| SendDelays::new(&run(late));
        assert_eq!((found(0).late_sends, found(0).is_bottleneck), (0, false));
        assert_eq!((found(1).late_sends, found(1).is_bottleneck), (1, false));
        assert_eq!((found(2).late_sends, found(2).is_bottleneck), (2, true));
        assert!(!SendDelays::new(&[]).is_bottleneck);
    }
}
