//! Retry policy: the decision whether a request whose attempt failed is sent to another replica. Pure: facts in,
//! decision out. It knows nothing of the queue, of sockets or of time. The worker carries the decision out.

use crate::failure::AttemptFailure;
use crate::rotation::Address;
use service::wire::{Code, RequestError};
use std::time::Duration;

/// The largest number of attempts for one request. Attempts that reached no replica, or a busy one, do not count.
pub const MAX_ATTEMPTS: usize = 4;

/// The pause of a request after the first replica that had fewer free slots than the request has images. Each further
/// one doubles the pause, so that the four attempts take 0.7 s. Without pauses, its body would be sent and parsed again
/// and again while the same slots are taken.
const CROWDED_PAUSE: Duration = Duration::from_millis(100);

/// A request counts as poison after this number of replicas have died while they held it.
pub const MAX_DEATHS: u32 = 2;

/// The failed attempts of one request. The value has the size of one pointer, because most requests have no failed
/// attempt.
#[derive(Debug, Clone, Default)]
pub struct FailedAttempts {
    recorded: Option<Box<Recorded>>,
}

#[derive(Debug, Clone, Default)]
struct Recorded {
    /// The value of [`FailedAttempts::tried`].
    tried: Vec<Address>,
    /// The value of [`FailedAttempts::counted`].
    counted: usize,
    /// The value of [`FailedAttempts::deaths`].
    deaths: u32,
}

impl FailedAttempts {
    /// Records that the body of the request has brought down `deaths` replicas, also for other clients.
    pub fn record_body_deaths(&mut self, deaths: u32) {
        let recorded = self.recorded.get_or_insert_default();
        recorded.deaths = recorded.deaths.max(deaths);
    }

    /// Records that an attempt at the replica `address` failed.
    pub fn record(&mut self, address: &Address, failure: AttemptFailure) {
        let recorded = self.recorded.get_or_insert_default();
        recorded.deaths += u32::from(failure == AttemptFailure::Died);
        recorded.counted += usize::from(counts(failure));
        // Neither a busy replica nor one that was not asked has failed.
        let has_failed = !matches!(failure, AttemptFailure::Busy | AttemptFailure::NoSocket);
        if has_failed && !recorded.tried.contains(address) {
            recorded.tried.push(address.clone());
        }
    }

    /// Replicas at which an attempt failed, and which the next attempt should avoid. Busy replicas are not among them.
    pub fn tried(&self) -> &[Address] {
        self.recorded.as_ref().map_or(&[], |recorded| &recorded.tried)
    }

    /// Number of attempts that count towards [`MAX_ATTEMPTS`].
    pub fn counted(&self) -> usize {
        self.recorded.as_ref().map_or(0, |recorded| recorded.counted)
    }

    /// Number of replicas that died while they held the request, or the deaths of its body if these are more.
    pub fn deaths(&self) -> u32 {
        self.recorded.as_ref().map_or(0, |recorded| recorded.deaths)
    }
}

/// Whether an attempt that failed in this way counts towards [`MAX_ATTEMPTS`]. Those that reached no replica, or a busy
/// one, cost no replica any work. They cannot go on for ever: an unreachable replica is ejected, and an attempt without a
/// socket waits.
pub fn counts(failure: AttemptFailure) -> bool {
    use AttemptFailure::{Busy, Closed, Connect, NoSocket, Unresolved};
    !matches!(failure, Busy | Connect | Closed | NoSocket | Unresolved)
}

/// The decision whether a request whose attempt failed is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDecision {
    /// The request returns to its place in the queue and waits for its next permit.
    Retry,
    /// The request does so after this pause, during which it holds no slot.
    RetryAfter(Duration),
    /// The request is not tried again.
    GiveUp(Reason),
}

/// The reason for which a request is not tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The request's deadline has passed.
    Deadline,
    /// [`MAX_DEATHS`] replicas died while they held the request.
    Poison,
    /// The replica's answer is too long. Another replica's would be as long.
    LongAnswer,
    /// [`MAX_ATTEMPTS`] attempts have failed.
    Attempts {
        /// The failure of the last attempt.
        last: AttemptFailure,
    },
    /// The retry budget is used up.
    Budget {
        /// The failure of the last attempt.
        last: AttemptFailure,
    },
}

impl Reason {
    /// The error that the client receives for this reason.
    pub fn error(self) -> RequestError {
        match self {
            Self::Deadline => {
                RequestError::new(Code::DeadlineExceeded, "the replica did not answer before the deadline")
            }
            Self::Poison => {
                let message = format!("{MAX_DEATHS} replicas died while they held this body; do not send it again");
                RequestError::new(Code::Poison, message)
            }
            Self::LongAnswer => {
                let message = "the replica's answer is longer than 64 MiB, or than the memory that is left for long \
                               answers; send fewer images, or ask for fewer outputs or a smaller top_k";
                RequestError::new(Code::ReplicaFailed, message)
            }
            Self::Attempts { last: AttemptFailure::Crowded } | Self::Budget { last: AttemptFailure::Crowded } => {
                let message =
                    "no replica had a free slot for each image of the request; send fewer images, or retry in 1 s";
                RequestError::new(Code::Busy, message).retry_after(Duration::from_secs(1))
            }
            Self::Attempts { last } => {
                let message = format!(
                    "{MAX_ATTEMPTS} attempts at replicas failed, the last one by `{}`; send the request again later",
                    last.as_str()
                );
                RequestError::new(Code::ReplicaFailed, message)
            }
            Self::Budget { last } => {
                let message = format!(
                    "the attempt at a replica failed by `{}`, and the retry budget is used up; send the request again \
                     later",
                    last.as_str()
                );
                RequestError::new(Code::ReplicaFailed, message)
            }
        }
    }
}

/// Decides about a request whose last attempt failed by `last` and is recorded in `failed`. `withdraw` takes one retry
/// from the budget, and returns whether the budget had one. It is called only if nothing else forbids the retry.
pub fn decide(failed: &FailedAttempts, last: AttemptFailure, withdraw: impl FnOnce() -> bool) -> RetryDecision {
    match last {
        AttemptFailure::Deadline => RetryDecision::GiveUp(Reason::Deadline),
        AttemptFailure::LongAnswer => RetryDecision::GiveUp(Reason::LongAnswer),
        // These retries take nothing from the budget: `moves_off_stalled_replica` has charged the budget for a stall,
        // and the other failures cost no replica any work.
        AttemptFailure::Busy
        | AttemptFailure::Connect
        | AttemptFailure::Closed
        | AttemptFailure::NoSocket
        | AttemptFailure::Unresolved
        | AttemptFailure::Unused
        | AttemptFailure::ClientGone
        | AttemptFailure::Stalled => RetryDecision::Retry,
        AttemptFailure::Died
        | AttemptFailure::Broken
        | AttemptFailure::Invalid
        | AttemptFailure::Server
        | AttemptFailure::Crowded => {
            if failed.deaths() >= MAX_DEATHS {
                RetryDecision::GiveUp(Reason::Poison)
            } else if failed.counted() >= MAX_ATTEMPTS {
                RetryDecision::GiveUp(Reason::Attempts { last })
            } else if !withdraw() {
                RetryDecision::GiveUp(Reason::Budget { last })
            } else if last == AttemptFailure::Crowded {
                // One attempt counts at least, and `MAX_ATTEMPTS` bounds the power.
                RetryDecision::RetryAfter(CROWDED_PAUSE * (1 << (failed.counted() - 1)))
            } else {
                RetryDecision::Retry
            }
        }
    }
}

/// Decides whether a request that a stalled replica holds is given to another replica. The stalled attempt counts
/// towards [`MAX_ATTEMPTS`]. If the request is not given to another replica, it stays at the stalled one, which may
/// still answer. `withdraw` takes one retry from the budget, and returns whether the budget had one.
pub fn moves_off_stalled_replica(failed: &FailedAttempts, withdraw: impl FnOnce() -> bool) -> bool {
    failed.counted() + 1 < MAX_ATTEMPTS && withdraw()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(failures: &[AttemptFailure]) -> FailedAttempts {
        let mut failed = FailedAttempts::default();
        for (index, &failure) in failures.iter().enumerate() {
            failed.record(&index.to_string().into(), failure);
        }
        failed
    }

    #[test]
    fn every_failure_counts_as_an_attempt_except_those_that_cost_no_replica_any_work() {
        let [a, b]: [Address; 2] = ["a".into(), "b".into()];
        let mut failed = FailedAttempts::default();
        assert_eq!((failed.tried(), failed.counted(), failed.deaths()), (&[][..], 0, 0));
        for (address, failure, tried, counted, deaths) in [
            (&a, AttemptFailure::Busy, 0, 0, 0),
            (&b, AttemptFailure::NoSocket, 0, 0, 0),
            (&a, AttemptFailure::Connect, 1, 0, 0),
            (&a, AttemptFailure::Unresolved, 1, 0, 0),
            (&a, AttemptFailure::Closed, 1, 0, 0),
            (&a, AttemptFailure::Died, 1, 1, 1),
            (&b, AttemptFailure::Server, 2, 2, 1),
            (&b, AttemptFailure::Died, 2, 3, 2),
        ] {
            failed.record(address, failure);
            let found = (failed.tried().len(), failed.counted(), failed.deaths());
            assert_eq!(found, (tried, counted, deaths), "after {failure:?} at {address}");
        }
        assert_eq!(failed.tried(), [a, b]);
        failed.record_body_deaths(1);
        assert_eq!(failed.deaths(), 2, "the request has seen more deaths than other requests with its body");
        failed.record_body_deaths(3);
        assert_eq!(failed.deaths(), 3);
    }

    /// The part of the retry budget in a decision: not asked, or asked with an answer.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum BudgetUse {
        NotAsked,
        Permits,
        Forbids,
    }

    #[test]
    fn a_retry_depends_on_the_last_failure_the_earlier_ones_and_the_budget() {
        use AttemptFailure::{
            Broken, Busy, Closed, Connect, Crowded, Deadline, Died, Invalid, LongAnswer, NoSocket, Server, Stalled,
            Unused,
        };
        let rows = [
            // (all failures in order of time, budget, decision)
            (&[Server][..], BudgetUse::Permits, RetryDecision::Retry),
            (&[Died], BudgetUse::Permits, RetryDecision::Retry),
            (&[Invalid], BudgetUse::Permits, RetryDecision::Retry),
            (&[Server], BudgetUse::Forbids, RetryDecision::GiveUp(Reason::Budget { last: Server })),
            (&[Died], BudgetUse::Forbids, RetryDecision::GiveUp(Reason::Budget { last: Died })),
            (&[Busy], BudgetUse::NotAsked, RetryDecision::Retry),
            (&[Connect], BudgetUse::NotAsked, RetryDecision::Retry),
            (&[Closed; 9], BudgetUse::NotAsked, RetryDecision::Retry),
            (&[NoSocket; 9], BudgetUse::NotAsked, RetryDecision::Retry),
            (&[Unused], BudgetUse::NotAsked, RetryDecision::Retry),
            (&[Stalled], BudgetUse::NotAsked, RetryDecision::Retry),
            (&[Deadline], BudgetUse::NotAsked, RetryDecision::GiveUp(Reason::Deadline)),
            (&[Died, Died], BudgetUse::NotAsked, RetryDecision::GiveUp(Reason::Poison)),
            (&[Died, Broken, Broken], BudgetUse::Permits, RetryDecision::Retry),
            (&[Broken; 4], BudgetUse::NotAsked, RetryDecision::GiveUp(Reason::Attempts { last: Broken })),
            (&[Died, Server], BudgetUse::Permits, RetryDecision::Retry),
            (&[Died, Server, Died], BudgetUse::NotAsked, RetryDecision::GiveUp(Reason::Poison)),
            (&[Server; 3], BudgetUse::Permits, RetryDecision::Retry),
            (&[Server; 4], BudgetUse::NotAsked, RetryDecision::GiveUp(Reason::Attempts { last: Server })),
            (
                &[Server, Stalled, Server, Invalid],
                BudgetUse::NotAsked,
                RetryDecision::GiveUp(Reason::Attempts { last: Invalid }),
            ),
            (&[Connect, Busy, Connect, Busy, Server], BudgetUse::Permits, RetryDecision::Retry),
            (&[Crowded], BudgetUse::Permits, RetryDecision::RetryAfter(CROWDED_PAUSE)),
            (&[Busy, Crowded, Crowded], BudgetUse::Permits, RetryDecision::RetryAfter(CROWDED_PAUSE * 2)),
            (&[Crowded; 3], BudgetUse::Permits, RetryDecision::RetryAfter(CROWDED_PAUSE * 4)),
            (&[Crowded; 4], BudgetUse::NotAsked, RetryDecision::GiveUp(Reason::Attempts { last: Crowded })),
            (&[Crowded], BudgetUse::Forbids, RetryDecision::GiveUp(Reason::Budget { last: Crowded })),
            (&[LongAnswer], BudgetUse::NotAsked, RetryDecision::GiveUp(Reason::LongAnswer)),
        ];
        for (failures, budget, expected) in rows {
            let mut asked = BudgetUse::NotAsked;
            let withdraw = || {
                asked = budget;
                budget == BudgetUse::Permits
            };
            let last = *failures.last().expect("each row has a failure");
            assert_eq!(decide(&failed(failures), last, withdraw), expected, "{failures:?}");
            assert_eq!(asked, budget, "{failures:?}");
        }
    }

    #[test]
    fn a_request_leaves_a_stalled_replica_unless_its_attempts_or_the_budget_are_used_up() {
        for (failures, permits, expected) in [
            (&[][..], true, true),
            (&[], false, false),
            (&[AttemptFailure::Server, AttemptFailure::Died], true, true),
            (&[AttemptFailure::Server; 3], true, false),
            (&[AttemptFailure::Connect; 9], true, true),
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
            (Reason::Attempts { last: AttemptFailure::Server }, Code::ReplicaFailed),
            (Reason::Budget { last: AttemptFailure::Server }, Code::ReplicaFailed),
            (Reason::LongAnswer, Code::ReplicaFailed),
            (Reason::Attempts { last: AttemptFailure::Crowded }, Code::Busy),
            (Reason::Budget { last: AttemptFailure::Crowded }, Code::Busy),
        ] {
            let error = reason.error();
            assert_eq!((error.code, error.retry_after.is_some()), (code, code == Code::Busy), "{reason:?}");
        }
    }
}
