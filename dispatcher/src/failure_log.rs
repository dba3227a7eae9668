//! The log lines about failed attempts. At most one line of each kind is logged per second, and it counts the failures.
//! Time is an argument.

use crate::failure::AttemptFailure;
use std::time::{Duration, Instant};

/// The shortest time between two log lines of the same kind.
const INTERVAL: Duration = Duration::from_secs(1);

/// Counts failed attempts and logs them together.
#[derive(Debug, Default)]
pub struct FailureLog {
    /// Failures of replicas.
    replicas: Unlogged,
    /// Attempts for which this machine had no socket. Another cause needs another remedy, so the line is another one.
    sockets: Unlogged,
}

/// Failures of one kind.
#[derive(Debug, Default)]
struct Unlogged {
    /// Failures since the last log line.
    count: u64,
    /// The time of the last log line; `None` before the first.
    last_logged: Option<Instant>,
}

impl Unlogged {
    /// Counts a failure. Returns the number of failures for a log line if the last one is at least [`INTERVAL`] old.
    fn record(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.last_logged.is_some_and(|logged| now.saturating_duration_since(logged) < INTERVAL) {
            return None;
        }
        self.last_logged = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

impl FailureLog {
    /// Records that an attempt at the replica `address` failed, and writes a log line if one is due.
    pub fn record(&mut self, address: &str, failure: AttemptFailure, now: Instant) {
        if failure == AttemptFailure::NoSocket {
            if let Some(attempts) = self.sockets.record(now) {
                tracing::error!(
                    attempts,
                    "no socket is left for connections to replicas, and requests wait: raise the limit of open files \
                     (ulimit -n, LimitNOFILE) or widen net.ipv4.ip_local_port_range"
                );
            }
        } else if let Some(failures) = self.replicas.record(now) {
            tracing::warn!(
                address,
                failure = failure.as_str(),
                failures,
                "attempts at replicas failed since the last such line; address and failure are those of the last \
                 attempt: see the log of that replica"
            );
        }
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
            assert_eq!(log.replicas.count, unlogged, "after {milliseconds} ms");
        }
    }

    #[test]
    fn a_lack_of_sockets_has_its_own_log_line() {
        let (start, mut log) = (Instant::now(), FailureLog::default());
        log.record("replica:6000", AttemptFailure::Server, start);
        log.record("replica:6000", AttemptFailure::NoSocket, start);
        assert_eq!((log.replicas.count, log.sockets.count), (0, 0), "both are logged at once");
    }
}
