//! Retry policy: whether a request whose attempt failed is sent to another replica. Pure: facts in, decision out. It
//! knows nothing of the queue, sockets or time; the worker carries the decision out.

use crate::failure::Failure;
use crate::rotation::Address;
use service::wire::{Code, RequestError};
use std::time::Duration;
use tower::retry::budget::TpsBudget;

/// Attempts that one request may cost. An attempt that reached no replica, or a busy one, does not count.
pub const MAX_ATTEMPTS: usize = 4;

/// Replicas that may die while they hold the same request. After that the request counts as poison.
pub const MAX_DEATHS: u32 = 2;

/// The past over which the retry budget looks.
const BUDGET_WINDOW: Duration = Duration::from_secs(10);

/// Retries that the budget permits per request of the last [`BUDGET_WINDOW`].
const BUDGET_SHARE: f32 = 0.2;

/// Retries per second that the budget permits in addition, so that a dispatcher with little traffic can retry at all.
const BUDGET_FREE_PER_SECOND: u32 = 10;

/// The retry budget that all requests share: without it, retries would multiply the load when every replica fails.
pub fn budget() -> TpsBudget {
    TpsBudget::new(BUDGET_WINDOW, BUDGET_FREE_PER_SECOND, BUDGET_SHARE)
}

/// The failed attempts of one request. Most requests have none, so the value is one pointer wide.
#[derive(Debug, Default)]
pub struct FailedAttempts {
    recorded: Option<Box<Recorded>>,
}

#[derive(Debug, Default)]
struct Recorded {
    /// See [`FailedAttempts::tried`].
    tried: Vec<Address>,
    /// See [`FailedAttempts::counted`].
    counted: usize,
    /// See [`FailedAttempts::deaths`].
    deaths: u32,
}

impl FailedAttempts {
    /// Records that an attempt at `address` failed.
    pub fn record(&mut self, address: &Address, failure: Failure) {
        let recorded = self.recorded.get_or_insert_default();
        recorded.deaths += u32::from(failure == Failure::Died);
        // An unreachable replica is ejected, so such attempts end by themselves, and they cost no replica any work.
        recorded.counted += usize::from(!matches!(failure, Failure::Busy | Failure::Connect));
        if failure != Failure::Busy && !recorded.tried.contains(address) {
            recorded.tried.push(address.clone());
        }
    }

    /// Replicas that the next attempt should avoid. Busy replicas are not among them.
    pub fn tried(&self) -> &[Address] {
        self.recorded.as_ref().map_or(&[], |recorded| &recorded.tried)
    }

    /// Attempts that count towards [`MAX_ATTEMPTS`].
    pub fn counted(&self) -> usize {
        self.recorded.as_ref().map_or(0, |recorded| recorded.counted)
    }

    /// Replicas that died while they held the request.
    pub fn deaths(&self) -> u32 {
        self.recorded.as_ref().map_or(0, |recorded| recorded.deaths)
    }
}

/// The decision about a request whose attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The request returns to its place in the queue.
    Retry,
    /// The request is not tried again.
    GiveUp(Reason),
}

/// Why a request is not tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The request's deadline has passed.
    Deadline,
    /// [`MAX_DEATHS`] replicas died while they held the request.
    Poison,
    /// The request has cost [`MAX_ATTEMPTS`] attempts.
    Attempts {
        /// Why the last attempt failed.
        last: Failure,
    },
    /// The retry budget is used up.
    Budget {
        /// Why the last attempt failed.
        last: Failure,
    },
}

impl Reason {
    /// The error that the client receives.
    pub fn error(self) -> RequestError {
        match self {
            Self::Deadline => {
                RequestError::new(Code::DeadlineExceeded, "the replica did not answer before the deadline")
            }
            Self::Poison => {
                let message = format!("{MAX_DEATHS} replicas died while they held this request; it is not sent again");
                RequestError::new(Code::Poison, message)
            }
            Self::Attempts { last } => {
                let message = format!("{MAX_ATTEMPTS} attempts failed, the last one with {}", last.as_str());
                RequestError::new(Code::ReplicaFailed, message)
            }
            Self::Budget { last } => {
                let failure = last.as_str();
                let message = format!("the attempt failed with {failure}, and too many requests are being retried");
                RequestError::new(Code::ReplicaFailed, message)
            }
        }
    }
}

/// Decides about a request whose last attempt ended with `last` and is recorded in `failed`. `withdraw` takes one retry
/// from the budget and tells whether there was one; it is called only if nothing else forbids the retry.
pub fn decide(failed: &FailedAttempts, last: Failure, withdraw: impl FnOnce() -> bool) -> Decision {
    match last {
        Failure::Deadline => Decision::GiveUp(Reason::Deadline),
        // Free of the budget: the first three cost no replica any work, and `moves_off_stalled_replica` has charged the
        // last one.
        Failure::Busy | Failure::Connect | Failure::Unused | Failure::Stalled => Decision::Retry,
        Failure::Died | Failure::Invalid | Failure::Server => {
            if failed.deaths() >= MAX_DEATHS {
                Decision::GiveUp(Reason::Poison)
            } else if failed.counted() >= MAX_ATTEMPTS {
                Decision::GiveUp(Reason::Attempts { last })
            } else if !withdraw() {
                Decision::GiveUp(Reason::Budget { last })
            } else {
                Decision::Retry
            }
        }
    }
}

/// Whether a request that a stalled replica holds is given to another one. The stalled attempt counts towards
/// [`MAX_ATTEMPTS`]. A request that may not move stays where it is, because the replica may yet answer. `withdraw` is
/// as in [`decide`].
pub fn moves_off_stalled_replica(failed: &FailedAttempts, withdraw: impl FnOnce() -> bool) -> bool {
    failed.counted() + 1 < MAX_ATTEMPTS && withdraw()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(failures: &[Failure]) -> FailedAttempts {
        let mut failed = FailedAttempts::default();
        for (index, &failure) in failures.iter().enumerate() {
            failed.record(&index.to_string().into(), failure);
        }
        failed
    }

    #[test]
    fn each_failure_is_recorded_as_the_next_attempt_needs_it() {
        let [a, b]: [Address; 2] = ["a".into(), "b".into()];
        let mut failed = FailedAttempts::default();
        assert_eq!((failed.tried(), failed.counted(), failed.deaths()), (&[][..], 0, 0));
        for (address, failure, tried, counted, deaths) in [
            (&a, Failure::Busy, 0, 0, 0),
            (&a, Failure::Connect, 1, 0, 0),
            (&a, Failure::Died, 1, 1, 1),
            (&b, Failure::Server, 2, 2, 1),
            (&b, Failure::Died, 2, 3, 2),
        ] {
            failed.record(address, failure);
            let found = (failed.tried().len(), failed.counted(), failed.deaths());
            assert_eq!(found, (tried, counted, deaths), "after {failure:?} at {address}");
        }
        assert_eq!(failed.tried(), [a, b]);
    }

    /// Whether a decision asks the retry budget, and what the budget says.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Budget {
        NotAsked,
        Permits,
        Forbids,
    }

    #[test]
    fn the_last_failure_the_earlier_ones_and_the_budget_decide() {
        use Failure::{Busy, Connect, Deadline, Died, Invalid, Server, Stalled, Unused};
        let rows = [
            // (all failures in their order, budget, decision)
            (&[Server][..], Budget::Permits, Decision::Retry),
            (&[Died], Budget::Permits, Decision::Retry),
            (&[Invalid], Budget::Permits, Decision::Retry),
            (&[Server], Budget::Forbids, Decision::GiveUp(Reason::Budget { last: Server })),
            (&[Died], Budget::Forbids, Decision::GiveUp(Reason::Budget { last: Died })),
            (&[Busy], Budget::NotAsked, Decision::Retry),
            (&[Connect], Budget::NotAsked, Decision::Retry),
            (&[Unused], Budget::NotAsked, Decision::Retry),
            (&[Stalled], Budget::NotAsked, Decision::Retry),
            (&[Deadline], Budget::NotAsked, Decision::GiveUp(Reason::Deadline)),
            (&[Died, Died], Budget::NotAsked, Decision::GiveUp(Reason::Poison)),
            (&[Died, Server], Budget::Permits, Decision::Retry),
            (&[Died, Server, Died], Budget::NotAsked, Decision::GiveUp(Reason::Poison)),
            (&[Server; 3], Budget::Permits, Decision::Retry),
            (&[Server; 4], Budget::NotAsked, Decision::GiveUp(Reason::Attempts { last: Server })),
            (
                &[Server, Stalled, Server, Invalid],
                Budget::NotAsked,
                Decision::GiveUp(Reason::Attempts { last: Invalid }),
            ),
            (&[Connect, Busy, Connect, Busy, Server], Budget::Permits, Decision::Retry),
        ];
        for (failures, budget, expected) in rows {
            let mut asked = Budget::NotAsked;
            let withdraw = || {
                asked = budget;
                budget == Budget::Permits
            };
            let last = *failures.last().expect("each row has a failure");
            assert_eq!(decide(&failed(failures), last, withdraw), expected, "{failures:?}");
            assert_eq!(asked, budget, "{failures:?}");
        }
    }

    #[test]
    fn a_stalled_attempt_moves_unless_it_is_the_last_one() {
        for (failures, permits, expected) in [
            (&[][..], true, true),
            (&[], false, false),
            (&[Failure::Server, Failure::Died], true, true),
            (&[Failure::Server; 3], true, false),
            (&[Failure::Connect; 9], true, true),
        ] {
            let moves = moves_off_stalled_replica(&failed(failures), || permits);
            assert_eq!(moves, expected, "{failures:?}");
        }
    }

    #[test]
    fn each_reason_has_its_error_code() {
        for (reason, code) in [
            (Reason::Deadline, Code::DeadlineExceeded),
            (Reason::Poison, Code::Poison),
            (Reason::Attempts { last: Failure::Server }, Code::ReplicaFailed),
            (Reason::Budget { last: Failure::Server }, Code::ReplicaFailed),
        ] {
            assert_eq!(reason.error().code, code, "{reason:?}");
        }
    }
}
