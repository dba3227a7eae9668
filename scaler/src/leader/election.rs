//! PURE: whether to claim a Lease, given what it holds and since when. Only this process's own clock judges expiry: a
//! lease has expired when it has not changed for its duration while it was watched, so what clocks elsewhere say, and
//! the times written in it, do not matter.

use k8s_openapi::api::coordination::v1::LeaseSpec;
use std::time::Duration;

/// A lease lasts this long after its last renewal (client-go's value, as are the next two).
pub const LEASE: Duration = Duration::from_secs(15);

/// A leader that could not renew for this long no longer leads. Less than the above: no two lead at once.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// Between two looks at the lease.
pub const RETRY: Duration = Duration::from_secs(2);

/// One candidate's view. Times are since an arbitrary start.
#[derive(Debug)]
pub struct Election {
    identity: String,
    /// What the lease last held, and when it was first seen to.
    seen: Option<(LeaseSpec, Duration)>,
    /// When the last claim that was accepted was sent, while leading.
    claimed: Option<Duration>,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Write the lease in one's own name, if it is still as it was seen: it is free, has expired, or is one's own.
    Claim,
    /// Look again then.
    Wait {
        /// At the next look, or sooner if the lease expires sooner.
        until: Duration,
    },
}

impl Election {
    /// Of someone who leads nothing yet.
    pub fn new(identity: String) -> Self {
        Self { identity, seen: None, claimed: None }
    }

    /// What to do about a lease that holds this now, or that is not there.
    pub fn look(&mut self, at: Duration, lease: Option<&LeaseSpec>) -> Step {
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
        if expires <= at { Step::Claim } else { Step::Wait { until: expires.min(at + RETRY) } }
    }

    /// A claim was accepted that was sent at this time. The answer's own time would be too late: others have watched
    /// the lease from some instant in between.
    pub fn claimed(&mut self, sent: Duration) {
        self.claimed = Some(sent);
    }

    /// When leading ends without another claim; nothing when not leading.
    pub fn deadline(&self) -> Option<Duration> {
        self.claimed.map(|sent| sent + RENEW_DEADLINE)
    }

    /// Leads no longer.
    pub fn step_down(&mut self) {
        self.claimed = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
    use k8s_openapi::jiff::Timestamp;

    /// Held by this one and renewed at that time of its holder's clock.
    fn lease(holder: &str, renewed: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(15),
            renew_time: Some(MicroTime(Timestamp::from_second(renewed).expect("a time"))),
            ..LeaseSpec::default()
        }
    }

    fn check(looks: &[(u64, Option<LeaseSpec>, Step)]) {
        let mut election = Election::new("me".into());
        for (second, lease, step) in looks {
            let taken = election.look(Duration::from_secs(*second), lease.as_ref());
            assert_eq!(taken, *step, "at {second} s of {looks:#?}");
        }
    }

    fn wait(second: u64) -> Step {
        Step::Wait { until: Duration::from_secs(second) }
    }

    #[test]
    fn free_leases_and_ones_own_are_claimed() {
        let released = LeaseSpec { holder_identity: None, ..lease("", 0) };
        for lease in [None, Some(LeaseSpec::default()), Some(released), Some(lease("", 0)), Some(lease("me", 0))] {
            check(&[(7, lease, Step::Claim)]);
        }
    }

    #[test]
    fn a_lease_expires_when_it_was_not_seen_to_change() {
        let other = |renewed| Some(lease("other", renewed));
        let short = Some(LeaseSpec { lease_duration_seconds: Some(3), ..lease("other", 0) });
        let silent = Some(LeaseSpec { lease_duration_seconds: None, ..lease("other", 0) });
        // Renewals count although the holder's clock stands still, is years off, or goes back.
        check(&[(0, other(0), wait(2)), (14, other(0), wait(15)), (15, other(0), Step::Claim)]);
        check(&[
            (0, other(9_999_999), wait(2)),
            (14, other(0), wait(16)),
            (28, other(0), wait(29)),
            (29, other(0), Step::Claim),
        ]);
        check(&[(0, other(5), wait(2)), (14, other(4), wait(16)), (28, other(3), wait(30))]);
        check(&[(0, short.clone(), wait(2)), (2, short.clone(), wait(3)), (3, short, Step::Claim)]);
        check(&[(0, silent.clone(), wait(2)), (15, silent, Step::Claim)]);
        // Taken by a third one just then.
        check(&[(0, other(0), wait(2)), (15, Some(lease("third", 15)), wait(17))]);
    }

    #[test]
    fn leading_ends_at_the_deadline_or_when_another_holds_the_lease() {
        let second = Duration::from_secs;
        let mut election = Election::new("me".into());
        assert_eq!(election.deadline(), None);
        election.claimed(second(3));
        assert_eq!(election.deadline(), Some(second(13)));
        assert_eq!(election.look(second(5), Some(&lease("me", 3))), Step::Claim);
        election.claimed(second(5));
        assert_eq!(election.deadline(), Some(second(15)));
        assert_eq!(election.look(second(7), Some(&lease("other", 6))), wait(9));
        assert_eq!(election.deadline(), None);
        election.claimed(second(30));
        election.step_down();
        assert_eq!(election.deadline(), None);
    }
}
