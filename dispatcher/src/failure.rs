//! Why an attempt against a replica failed. Knows what each failure tells about the replica; whether the request is
//! tried again is decided in [`crate::retry`].

use crate::rotation::HealthSignal;
use std::time::Duration;

/// A deadline that passes after the replica has had the request for this long counts as the replica's failure. A
/// request that had waited long may have left the replica only a few milliseconds.
const FAIR_ATTEMPT: Duration = Duration::from_secs(2);

/// Why an attempt brought no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection could be opened: the replica never saw the request.
    Connect,
    /// The connection ended before the whole answer had arrived: the request may have killed the replica.
    Died,
    /// The replica answered with a status or a body that the wire contract does not have.
    Invalid,
    /// The replica answered with a 5xx status.
    Server,
    /// The replica answered that all of its slots are taken.
    Busy,
    /// The request's deadline passed before the replica answered.
    Deadline,
    /// The replica stopped answering both requests and probes.
    Stalled,
    /// The client had left before the request was sent.
    Unused,
}

impl Failure {
    /// The value of the label `reason` of `dispatcher_retries_total`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Died => "reset",
            Self::Invalid => "invalid",
            Self::Server => "server_error",
            Self::Busy => "busy",
            Self::Deadline => "deadline",
            Self::Stalled => "stalled",
            Self::Unused => "unused",
        }
    }

    /// What the failure tells about a replica that has had the request for `elapsed`.
    pub fn health_signal(self, elapsed: Duration) -> HealthSignal {
        match self {
            Self::Connect | Self::Died => HealthSignal::Unreachable,
            Self::Deadline if elapsed < FAIR_ATTEMPT => HealthSignal::Inconclusive,
            Self::Invalid | Self::Server | Self::Deadline => HealthSignal::Failed,
            Self::Busy => HealthSignal::Busy,
            // A failed liveness check has already ejected a stalled replica, and an unused permit never reached one.
            Self::Stalled | Self::Unused => HealthSignal::Inconclusive,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_of_the_replica_count_against_it() {
        let (short, long) = (FAIR_ATTEMPT / 2, FAIR_ATTEMPT);
        for (failure, elapsed, expected) in [
            (Failure::Connect, short, HealthSignal::Unreachable),
            (Failure::Died, short, HealthSignal::Unreachable),
            (Failure::Invalid, short, HealthSignal::Failed),
            (Failure::Server, short, HealthSignal::Failed),
            (Failure::Busy, short, HealthSignal::Busy),
            (Failure::Deadline, short, HealthSignal::Inconclusive),
            (Failure::Deadline, long, HealthSignal::Failed),
            (Failure::Stalled, long, HealthSignal::Inconclusive),
            (Failure::Unused, short, HealthSignal::Inconclusive),
        ] {
            assert_eq!(failure.health_signal(elapsed), expected, "{failure:?} after {elapsed:?}");
        }
    }
}
