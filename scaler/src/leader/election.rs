//! Decides whether to claim a Lease, by its content and the time since its last change. Pure.
//!
//! Only this process's clock judges expiry: a Lease has expired if it did not change while it was watched for its
//! duration. The clocks of other machines, and the times in the Lease, do not matter.

use k8s_openapi::api::coordination::v1::LeaseSpec;
use std::time::Duration;

/// Duration of a Lease after its last renewal, as in client-go.
pub const LEASE: Duration = Duration::from_secs(15);
/// The longest duration that is believed of a Lease. A user may have set a day, and its holder may be dead.
const MAX_LEASE: Duration = Duration::from_secs(60);
/// Time without a renewal after which a leader steps down, as in client-go. It is shorter than the Lease, so that no
/// two candidates lead at once.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Time between two attempts to claim or renew a Lease, as in client-go.
pub const RETRY: Duration = Duration::from_secs(2);

/// One candidate's view of the Lease. Times are since an arbitrary start.
#[derive(Debug)]
pub struct Election {
    identity: String,
    /// The content of the Lease, and the time at which it was first seen.
    seen: Option<(LeaseSpec, Duration)>,
    /// The time at which the last accepted claim was sent; `None` if this candidate does not lead.
    claimed: Option<Duration>,
}

/// The next step of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElectionStep {
    /// Claim the Lease: it is free, has expired, or is the candidate's own. The write must fail if it has changed.
    Claim,
    /// Read the Lease again at this time: the time of the next attempt, or of the Lease's expiry if that is sooner.
    Wait(Duration),
}

impl Election {
    /// A candidate that does not lead yet.
    pub fn new(identity: String) -> Self {
        Self { identity, seen: None, claimed: None }
    }

    /// The next step. `lease` is the content of the Lease; `None` if the Lease does not exist.
    pub fn step(&mut self, at: Duration, lease: Option<&LeaseSpec>) -> ElectionStep {
        let Some(lease) = lease else { return ElectionStep::Claim };
        let seen = self.seen.take().filter(|(seen, _)| seen == lease);
        let (_, since) = *self.seen.insert(seen.unwrap_or_else(|| (lease.clone(), at)));
        let holder = lease.holder_identity.as_deref().unwrap_or_default();
        if holder.is_empty() || holder == self.identity {
            return ElectionStep::Claim;
        }
        self.claimed = None;
        let seconds = lease.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let expires = since + seconds.map_or(LEASE, Duration::from_secs).min(MAX_LEASE);
        if expires <= at { ElectionStep::Claim } else { ElectionStep::Wait(expires.min(at + RETRY)) }
    }

    /// Notes that the claim sent at `sent` was accepted. The time of the answer would be too late, since other
    /// candidates may have watched the Lease from an earlier time on.
    pub fn claimed(&mut self, sent: Duration) {
        self.claimed = Some(sent);
    }

    /// The time at which this candidate stops leading unless it renews the Lease; `None` if it does not lead.
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

    /// A Lease that `holder` renewed at second `renewed` of its own clock.
    fn lease(holder: &str, renewed: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(15),
            renew_time: Some(MicroTime(Timestamp::from_second(renewed).expect("a time"))),
            ..LeaseSpec::default()
        }
    }

    /// Checks rows of the second, the Lease, and the second until which the candidate waits; `None` if it claims.
    fn check(rows: &[(u64, Option<LeaseSpec>, Option<u64>)]) {
        let mut election = Election::new("me".into());
        for (second, lease, wait) in rows {
            let step = election.step(Duration::from_secs(*second), lease.as_ref());
            let expected = wait.map_or(ElectionStep::Claim, |wait| ElectionStep::Wait(Duration::from_secs(wait)));
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
    fn a_lease_expires_if_it_does_not_change_for_its_duration() {
        let other = |renewed| Some(lease("other", renewed));
        let lasting = |seconds| Some(LeaseSpec { lease_duration_seconds: seconds, ..lease("other", 0) });
        check(&[(0, other(0), Some(2)), (14, other(0), Some(15)), (15, other(0), None)]);
        // A renewal counts, even if the holder's clock is years off or goes back.
        let years = other(9_999_999);
        check(&[(0, years, Some(2)), (14, other(0), Some(16)), (28, other(0), Some(29)), (29, other(0), None)]);
        check(&[(0, other(5), Some(2)), (14, other(4), Some(16)), (28, other(3), Some(30))]);
        check(&[(0, lasting(Some(3)), Some(2)), (2, lasting(Some(3)), Some(3)), (3, lasting(Some(3)), None)]);
        check(&[(0, lasting(None), Some(2)), (15, lasting(None), None)]);
        check(&[(0, lasting(Some(86_400)), Some(2)), (59, lasting(Some(86_400)), Some(60))]);
        check(&[(0, lasting(Some(86_400)), Some(2)), (60, lasting(Some(86_400)), None)]);
        // A third candidate has claimed the Lease.
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
            assert_eq!(election.step(second(claimed + 1), Some(&lease("me", 3))), ElectionStep::Claim);
        }
        assert_eq!(election.step(second(7), Some(&lease("other", 6))), ElectionStep::Wait(second(9)));
        assert_eq!(election.deadline(), None);
        election.claimed(second(30));
        election.step_down();
        assert_eq!(election.deadline(), None);
    }
}
