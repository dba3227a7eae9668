//! The log line about failed attempts, at most once per second however many attempts fail. Time is an argument.

use crate::failure::Failure;
use std::time::{Duration, Instant};

/// The least time between two log lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// Counts failed attempts and logs them together.
#[derive(Debug, Default)]
pub struct FailureLog {
    /// Failed attempts since the last log line.
    unlogged: u64,
    /// `None` before the first log line.
    last_logged: Option<Instant>,
}

impl FailureLog {
    /// Records that an attempt at the replica `address` failed. Logs if the last log line is at least [`INTERVAL`] old.
    pub fn record(&mut self, address: &str, failure: Failure, now: Instant) {
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
            "attempts failed; address and failure of the last"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_within_an_interval_share_a_line() {
        let start = Instant::now();
        let mut log = FailureLog::default();
        for (milliseconds, unlogged) in [(0, 0), (10, 1), (999, 2), (1000, 0), (1001, 1), (5000, 0)] {
            log.record("replica:6000", Failure::Server, start + Duration::from_millis(milliseconds));
            assert_eq!(log.unlogged, unlogged, "after {milliseconds} ms");
        }
    }
}
