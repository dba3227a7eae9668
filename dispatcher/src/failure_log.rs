//! The log line about failed attempts. At most one line is logged per second, and it counts the failures. Time is an
//! argument.

use crate::failure::AttemptFailure;
use std::time::{Duration, Instant};

/// The shortest time between two log lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// Counts failed attempts and logs them together.
#[derive(Debug, Default)]
pub struct FailureLog {
    /// Failed attempts since the last log line.
    unlogged: u64,
    /// The time of the last log line; `None` before the first.
    last_logged: Option<Instant>,
}

impl FailureLog {
    /// Records that an attempt at the replica `address` failed. Writes a log line if the last one is at least
    /// [`INTERVAL`] old.
    pub fn record(&mut self, address: &str, failure: AttemptFailure, now: Instant) {
        self.unlogged += 1;
        if self.last_logged.is_some_and(|logged| now.saturating_duration_since(logged) < INTERVAL) {
            return;
        }
        let failures = std::mem::take(&mut self.unlogged);
        self.last_logged = Some(now);
        tracing::warn!(
            address,
            failure = failure.as_str(),
            failures,
            "attempts at replicas failed since the last such line; address and failure are those of the last attempt: \
             see the log of that replica"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_within_one_second_share_a_log_line() {
        let start = Instant::now();
        let mut log = FailureLog::default();
        for (milliseconds, unlogged) in [(0, 0), (10, 1), (999, 2), (1000, 0), (1001, 1), (5000, 0)] {
            log.record("replica:6000", AttemptFailure::Server, start + Duration::from_millis(milliseconds));
            assert_eq!(log.unlogged, unlogged, "after {milliseconds} ms");
        }
    }
}
