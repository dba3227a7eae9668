//! Whether to claim a Lease, given its content and the time since which that has not changed. Pure.
//!
//! Only this process's own clock judges expiry: a lease has expired when it was watched for its duration and has not changed.
//! Clocks of other machines, and the times that are written in the lease, do not matter.

use k8s_openapi::api::coordination::v1::LeaseSpec;
use std::time::Duration;

/// Duration of a lease after its last renewal. This and the next two values are client-go's.
pub const LEASE: Duration = Duration::from_secs(15);

/// A leader that could not renew the lease for this time no longer leads. Shorter than the lease, so that no two lead at once.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// Time between two attempts.
pub const RETRY: Duration = Duration::from_secs(2);

/// One candidate's view of the lease. Times are since an arbitrary start.
#[derive(Debug)]
pub struct Election {
    identity: String,
    /// The content of the lease, and when it was first seen.
    seen: Option<(LeaseSpec, Duration)>,
    /// When the last accepted claim was sent, while this candidate leads.
    claimed: Option<Duration>,
}

/// The next step of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Claim the lease: it is free, has expired, or is the candidate's own. The write must fail if the lease has changed.
    Claim,
    /// Read the lease again at this time: of the next attempt, or of the lease's expiry if that is sooner.
    Wait(Duration),
}

impl Election {
    /// A candidate that does not lead yet.
    pub fn new(identity: String) -> Self {
        Self { identity, seen: None, claimed: None }
    }

    /// The next step, given the content of the lease; `None` if it does not exist.
    pub fn step(&mut self, at: Duration, lease: Option<&LeaseSpec>) -> Step {
        let Some(lease) = lease else { return Step::Claim };
        let since = match &self.seen {
            Some((seen, since)) if seen == lease => *since,
            _ => {
                self.seen = Some((lease.clone(), at));
                at
            }
        };
        let holder = lease.holder_identity.as_deref().unwrap_or_default();
        if holder.is_empty() || holder == self.identity {
            return Step::Claim;
        }
        self.claimed = None;
        let seconds = lease.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let expires = since + seconds.map_or(LEASE, Duration::from_secs);
        if expires <= at { Step::Claim } else { Step::Wait(expires.min(at + RETRY)) }
    }

    /// Notes that a claim was accepted. `sent` is when it was sent: the time of the answer would be too late, since other
    /// candidates may have watched the lease since before that.
    pub fn claimed(&mut self, sent: Duration) {
        self.claimed = Some(sent);
    }

    /// When this candidate stops leading unless it renews the lease; `None` if it does not lead.
    pub fn deadline(&self) -> Option<Duration> {
        self.claimed.map(|sent| sent + RENEW_DEADLINE)
    }

    /// Stops leading.
    pub fn step_down(&mut self) {
        self.claimed = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
    use k8s_openapi::jiff::Timestamp;

    /// A lease that was renewed at this second of its holder's clock.
    fn lease(holder: &str, renewed: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(15),
            renew_time: Some(MicroTime(Timestamp::from_second(renewed).expect("a time"))),
            ..LeaseSpec::default()
        }
    }

    /// Checks rows of (second, lease, second until which the candidate waits; `None` if it claims).
    fn check(rows: &[(u64, Option<LeaseSpec>, Option<u64>)]) {
        let mut election = Election::new("me".into());
        for (second, lease, wait) in rows {
            let step = election.step(Duration::from_secs(*second), lease.as_ref());
            let expected = wait.map_or(Step::Claim, |wait| Step::Wait(Duration::from_secs(wait)));
            assert_eq!(step, expected, "at {second} s of {rows:#?}");
        }
    }

    #[test]
    fn a_lease_that_is_free_or_the_candidates_own_is_claimed() {
        let released = LeaseSpec { holder_identity: None, ..lease("", 0) };
        for lease in [None, Some(LeaseSpec::default()), Some(released), Some(lease("", 0)), Some(lease("me", 0))] {
            check(&[(7, lease, None)]);
        }
    }

    #[test]
    fn a_lease_expires_when_it_was_not_seen_to_change() {
        let other = |renewed| Some(lease("other", renewed));
        let lasting = |seconds| Some(LeaseSpec { lease_duration_seconds: seconds, ..lease("other", 0) });
        // Renewals count although the holder's clock stands still, is years off, or goes back.
        check(&[(0, other(0), Some(2)), (14, other(0), Some(15)), (15, other(0), None)]);
        let years = other(9_999_999);
        check(&[(0, years, Some(2)), (14, other(0), Some(16)), (28, other(0), Some(29)), (29, other(0), None)]);
        check(&[(0, other(5), Some(2)), (14, other(4), Some(16)), (28, other(3), Some(30))]);
        check(&[(0, lasting(Some(3)), Some(2)), (2, lasting(Some(3)), Some(3)), (3, lasting(Some(3)), None)]);
        check(&[(0, lasting(None), Some(2)), (15, lasting(None), None)]);
        // Taken by a third candidate just then.
        check(&[(0, other(0), Some(2)), (15, Some(lease("third", 15)), Some(17))]);
    }

    #[test]
    fn leading_ends_at_the_deadline_or_when_another_holds_the_lease() {
        let second = Duration::from_secs;
        let mut election = Election::new("me".into());
        assert_eq!(election.deadline(), None);
        for (claimed, deadline) in [(3, 13), (5, 15)] {
            election.claimed(second(claimed));
            assert_eq!(election.deadline(), Some(second(deadline)));
            assert_eq!(election.step(second(claimed + 1), Some(&lease("me", 3))), Step::Claim);
        }
        assert_eq!(election.step(second(7), Some(&lease("other", 6))), Step::Wait(second(9)));
        assert_eq!(election.deadline(), None);
        election.claimed(second(30));
        election.step_down();
        assert_eq!(election.deadline(), None);
    }
}
