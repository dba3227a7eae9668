//! The lead: the time until a replica that is added now would serve. A platform adds replicas one after the other, so each
//! further one has a longer lead. A control plane of Kubernetes creates and binds about twenty pods per second.

use std::ops::RangeInclusive;

/// Replicas have the same lead if their leads differ by less than this share, or by less than [`SAME_SECONDS`]. So the
/// law plans for a few leads only, however many replicas there may be.
const SAME_SHARE: f64 = 0.1;

/// Replicas whose leads differ by fewer seconds have the same lead: the start-up times of replicas differ by as much.
const SAME_SECONDS: f64 = 0.25;

/// What the leads of all replicas depend on. Times are in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Leads {
    /// The time from the creation of a replica until it serves.
    pub startup: f64,
    /// The time until a decision is made and carried out.
    pub decision: f64,
    /// The most replicas that the platform adds per second; infinite if it adds all of them at once.
    pub starts_per_second: f64,
    /// The replicas that serve.
    pub ready: usize,
    /// The replicas that serve, start, or wait for their creation.
    pub desired: usize,
}

impl Leads {
    /// The lead of a replica that is created at once.
    pub fn shortest(&self) -> f64 {
        self.decision + self.startup
    }

    /// The replicas 1 to `most` in groups with the same lead, and the lead of each group, both ascending. A replica after
    /// `desired` waits for the replicas between. Those that have been added before and do not serve yet may also wait for
    /// their creation, but at most until as many could have been created.
    pub fn groups(self, most: usize) -> impl Iterator<Item = (RangeInclusive<usize>, f64)> {
        let (mut first, mut lead) = (1, self.shortest());
        std::iter::from_fn(move || {
            while first <= most {
                let group_lead = lead;
                lead = (lead * (1.0 + SAME_SHARE)).max(lead + SAME_SECONDS);
                let last = self.last_below(lead).min(most);
                if last >= first {
                    let group = first..=last;
                    first = last + 1;
                    return Some((group, group_lead));
                }
            }
            None
        })
    }

    /// The last replica whose lead is below `lead`, which is above the shortest one. The lead of replica n is the decision
    /// and the longer of: the start-up time and (n − desired) ÷ rate; (n − ready) ÷ rate.
    fn last_below(&self, lead: f64) -> usize {
        let created_in = |seconds: f64| (seconds * self.starts_per_second).ceil() as usize;
        let after_desired = self.desired.saturating_add(created_in(lead - self.shortest()));
        let after_ready = self.ready.saturating_add(created_in(lead - self.decision));
        // The lead of a replica that is exactly that many later is no longer below.
        after_desired.min(after_ready).saturating_sub(1)
    }
}
