//! The reasons for which an attempt at a replica fails, and what each reason tells about the health of the replica.
//! [`crate::retry`] decides whether the request is tried again.

use crate::rotation::HealthSignal;
use std::time::Duration;

/// A deadline that passes during an attempt counts as a failure of the replica only if the attempt has taken at least
/// this time. A request that has waited long in the queue may leave the replica only a few milliseconds.
const FAIR_ATTEMPT: Duration = Duration::from_secs(2);

/// The reason for which an attempt brought no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptFailure {
    /// No connection to the replica could be opened, so the replica never received the request.
    Connect,
    /// This machine had no socket for a connection to the replica.
    NoSocket,
    /// The replica, or a proxy before it, closes every new connection at once. The request is not the cause.
    Closed,
    /// The connection ended before a byte of the answer had arrived. The request may have killed the replica.
    Died,
    /// The connection ended in the middle of the answer. The replica had dealt with the request, so the request is not
    /// the cause.
    Broken,
    /// The replica's answer breaks the wire contract: its status, its body or its size is not allowed.
    Invalid,
    /// The replica answered with a 5xx status.
    Server,
    /// The replica answered that all of its slots are taken.
    Busy,
    /// The request's deadline passed before the replica answered.
    Deadline,
    /// The replica answered neither the request nor a liveness check.
    Stalled,
    /// The client had left before the request was sent.
    Unused,
}

impl AttemptFailure {
    /// Every failure.
    pub const ALL: [Self; 11] = [
        Self::Connect,
        Self::NoSocket,
        Self::Closed,
        Self::Died,
        Self::Broken,
        Self::Invalid,
        Self::Server,
        Self::Busy,
        Self::Deadline,
        Self::Stalled,
        Self::Unused,
    ];

    /// Whether the failure can be the last reason for an ejection.
    pub fn may_eject(self) -> bool {
        !matches!(self, Self::Busy | Self::Unused | Self::NoSocket | Self::Stalled)
    }

    /// The failure's value of the label `reason` of `dispatcher_retries_total`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::NoSocket => "no_socket",
            Self::Closed => "closed",
            Self::Died | Self::Broken => "reset",
            Self::Invalid => "invalid",
            Self::Server => "server_error",
            Self::Busy => "busy",
            Self::Deadline => "deadline",
            Self::Stalled => "stalled",
            Self::Unused => "unused",
        }
    }

    /// The conclusion about the replica, which has had the request for `elapsed` when the attempt fails.
    pub fn health_signal(self, elapsed: Duration) -> HealthSignal {
        match self {
            Self::Connect | Self::Closed | Self::Died | Self::Broken => HealthSignal::Unreachable,
            Self::Deadline if elapsed < FAIR_ATTEMPT => HealthSignal::Inconclusive,
            Self::Deadline => HealthSignal::Overdue,
            Self::Invalid | Self::Server => HealthSignal::Failed,
            Self::Busy => HealthSignal::Busy,
            // The failed liveness check has ejected the stalled replica already. The other two have sent the replica
            // nothing.
            Self::Stalled | Self::Unused | Self::NoSocket => HealthSignal::Inconclusive,
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
            (AttemptFailure::Connect, short, HealthSignal::Unreachable),
            (AttemptFailure::Closed, short, HealthSignal::Unreachable),
            (AttemptFailure::NoSocket, short, HealthSignal::Inconclusive),
            (AttemptFailure::NoSocket, long, HealthSignal::Inconclusive),
            (AttemptFailure::Died, short, HealthSignal::Unreachable),
            (AttemptFailure::Broken, short, HealthSignal::Unreachable),
            (AttemptFailure::Invalid, short, HealthSignal::Failed),
            (AttemptFailure::Server, short, HealthSignal::Failed),
            (AttemptFailure::Busy, short, HealthSignal::Busy),
            (AttemptFailure::Deadline, short, HealthSignal::Inconclusive),
            (AttemptFailure::Deadline, long, HealthSignal::Overdue),
            (AttemptFailure::Stalled, long, HealthSignal::Inconclusive),
            (AttemptFailure::Unused, short, HealthSignal::Inconclusive),
        ] {
            assert_eq!(failure.health_signal(elapsed), expected, "{failure:?} after {elapsed:?}");
        }
    }
}
