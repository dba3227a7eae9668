//! Whether loadgen kept to its schedule. If it did not, the latencies contain delays that loadgen caused, and not the
//! server. Pure.

use crate::latencies::{Latencies, Percentiles};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A request that is sent later than this after its scheduled time counts as late, whatever the objective is.
const MAX_DELAY: Duration = Duration::from_millis(10);

/// Largest share of the objective, as a divisor, with which a request may be sent late: 1 % of it.
const OBJECTIVE_DIVISOR: u32 = 100;

/// Largest share of late requests, 0 to 1, with which a run is valid.
const MAX_LATE_SHARE: f64 = 0.01;

/// The delays with which requests were sent. They are caused by loadgen, not by the server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SendDelays {
    /// Time from the scheduled to the actual send time of all requests, in milliseconds.
    pub send_delay_ms: Percentiles,
    /// The delay above which a request counts as sent late, in milliseconds: 1 % of the objective, at most 10 ms.
    #[serde(default = "max_delay_ms")]
    pub late_after_ms: f64,
    /// Requests that were sent late.
    pub late_sends: usize,
    /// Whether more than 1 % of the requests, and more than one, were sent late. If so, loadgen was the bottleneck, and
    /// the figures say nothing about the server.
    pub is_bottleneck: bool,
}

/// The delay above which a request counts as sent late: 1 % of `objective`, at most 10 ms.
pub fn late_after(objective: Duration) -> Duration {
    (objective / OBJECTIVE_DIVISOR).min(MAX_DELAY)
}

/// The limit of the versions whose reports do not have it.
fn max_delay_ms() -> f64 {
    MAX_DELAY.as_secs_f64() * 1e3
}

impl SendDelays {
    /// The send delays of a run with `offered` requests, of which `late_sends` were sent more than `late_after` late.
    pub fn new(delays: &Latencies, late_sends: usize, offered: usize, late_after: Duration) -> Self {
        Self {
            send_delay_ms: delays.percentiles().unwrap_or_default(),
            late_after_ms: late_after.as_secs_f64() * 1e3,
            late_sends,
            // One late request says nothing about a run, however short it is.
            is_bottleneck: late_sends > 1 && late_sends as f64 > MAX_LATE_SHARE * offered as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_late_send_in_a_hundred_is_allowed() {
        let is_bottleneck =
            |late, offered| SendDelays::new(&Latencies::default(), late, offered, MAX_DELAY).is_bottleneck;
        assert!(!is_bottleneck(0, 100) && !is_bottleneck(1, 100) && is_bottleneck(2, 100));
        assert!(!is_bottleneck(0, 0) && !is_bottleneck(1, 20) && is_bottleneck(2, 20));
    }

    #[test]
    fn a_send_is_late_after_a_hundredth_of_the_objective() {
        let milliseconds = Duration::from_millis;
        for (objective, expected) in
            [(500, milliseconds(5)), (2000, milliseconds(10)), (50, Duration::from_micros(500))]
        {
            assert_eq!(late_after(milliseconds(objective)), expected);
        }
    }
}
