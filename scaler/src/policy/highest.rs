//! Several laws for one target: the one that wants most counts, as with an HPA of several metrics. While one of them cannot
//! tell, nothing goes down.
//!
//! Source: Kubernetes 1.36, pkg/controller/podautoscaler, horizontal.go, computeReplicasForMetrics.

use super::{Observation, Policy, Reason, Want};

/// The laws and what each wanted last.
#[derive(Debug)]
pub struct Highest {
    laws: Vec<(Policy, Want)>,
}

impl Highest {
    /// At least one law.
    pub fn new(laws: Vec<Policy>) -> Self {
        let unknown = Want { replicas: None, reason: Reason::NoData };
        Self { laws: laws.into_iter().map(|law| (law, unknown.clone())).collect() }
    }

    /// One tick.
    pub fn decide(&mut self, seen: &Observation) -> Want {
        let mut is_due = false;
        for (law, last) in &mut self.laws {
            let want = law.decide(seen);
            // Between two of its steps a law stands by its last one.
            if want.reason != Reason::Waiting {
                *last = want;
                is_due = true;
            }
        }
        let wants = || self.laws.iter().map(|(_, want)| want);
        let Some(highest) = wants().filter(|want| want.replicas.is_some()).max_by_key(|want| want.replicas) else {
            return wants().next().cloned().unwrap_or_else(Want::waiting);
        };
        if !is_due {
            return Want::waiting();
        }
        let would_go_down = highest.replicas.is_some_and(|replicas| replicas < seen.replicas.desired);
        match wants().find(|want| want.replicas.is_none()) {
            Some(ignorant) if would_go_down => ignorant.clone(),
            _ => highest.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::law::{Frame, Law};
    use crate::policy::slo::Objective;
    use crate::policy::{Pod, Replicas, Stage, Usage};
    use std::time::Duration;

    const S: fn(u64) -> Duration = Duration::from_secs;

    /// After two steps at 100 requests/s with four of which each uses so many cores.
    fn decide(laws: &[&str], cores: Option<f64>) -> Want {
        let objective = Objective { latency: S(1), quantile: 0.9 };
        let frame = Frame { objective, lower_latency: S(1), interval: S(1), min: 1, max: 50 };
        let laws: Vec<Law> = laws.iter().map(|law| law.parse().expect("a law")).collect();
        let mut policy = Policy::highest(&laws, &frame);
        let usage = cores.map(|cores| Usage { cores, age: S(0), window: S(15) });
        let mut want = Want::waiting();
        // Long enough for the laws' own patience.
        for tick in 0..25 {
            want = policy.decide(&Observation {
                at: S(15 * tick),
                arrivals: 1500.0 * tick as f64,
                replicas: Replicas { desired: 4, ready: 4, ..Replicas::default() },
                pods: vec![Pod { age: S(900), stage: Stage::Ready(S(890)), request: 1.0, usage }; 4],
                ..Observation::default()
            });
        }
        want
    }

    #[test]
    fn the_one_that_wants_most_counts_unless_another_cannot_tell() {
        for (laws, cores, replicas) in [
            (&["rate:10", "cpu:50"][..], Some(0.9), Some(10)),
            (&["rate:50", "cpu:50"], Some(0.9), Some(8)),
            (&["cpu:50", "rate:50"], Some(0.1), Some(2)),
            (&["rate:50", "cpu:50"], None, None),
            (&["rate:10", "cpu:50"], None, Some(10)),
            (&["cpu:50"], None, None),
        ] {
            assert_eq!(decide(laws, cores).replicas, replicas, "{laws:?} {cores:?}");
        }
    }
}
