//! `rate:REQUESTS`: a replica for each REQUESTS requests per second, as an HPA scales by an external metric with
//! `averageValue`. It is for dispatchers, whose work grows with the number of requests, not with their service times.
//!
//! Source: Kubernetes 1.36, pkg/controller/podautoscaler, replica_calculator.go, GetExternalPerPodMetricReplicas, with
//! the defaults of kube-controller-manager.

use law::cadence::Cadence;
use law::observation::Observation;
use law::table::{Law, LawKind, Recommendation};
use law::window::Window;
use std::time::Duration;

/// The entry of the law `rate` in a table of laws.
pub const KIND: LawKind = LawKind {
    name: "rate",
    parameter: ":REQUESTS",
    wakes: false,
    scales_dispatchers: true,
    make: |_, parameter| {
        let per_replica = parameter?.parse().ok().filter(|rate| (0.001..1e9).contains(rate))?;
        Some(Box::new(Rate::new(per_replica)))
    },
};

const SYNC_PERIOD: Duration = Duration::from_secs(15);
const TOLERANCE: f64 = 0.1;
const DOWNSCALE_STABILISATION: Duration = Duration::from_secs(300);

/// The law `rate` with its state between decisions.
#[derive(Debug)]
pub struct Rate {
    /// Requests per second for each replica.
    per_replica: f64,
    cadence: Cadence,
    /// The time of the last decision, and the number of arrivals until then.
    last: (Duration, f64),
    /// Recommendations before stabilisation.
    recommended: Window<usize>,
}

impl Rate {
    /// A law that recommends a replica for each `per_replica` requests per second.
    pub fn new(per_replica: f64) -> Self {
        Self {
            per_replica,
            cadence: Cadence::new(SYNC_PERIOD),
            last: (Duration::ZERO, 0.0),
            recommended: Window::new(DOWNSCALE_STABILISATION),
        }
    }
}

impl Law for Rate {
    fn decide(&mut self, seen: &Observation) -> Recommendation {
        let current = seen.replicas.desired;
        if self.recommended.newest().is_none() {
            self.recommended.push(seen.at, current);
            self.last = (seen.at, seen.arrivals);
        }
        if !self.cadence.is_due(seen.at) {
            return Recommendation::waiting();
        }
        let (then, before) = std::mem::replace(&mut self.last, (seen.at, seen.arrivals));
        let per_second = (seen.arrivals - before) / (seen.at - then).as_secs_f64();
        let ratio = per_second / (self.per_replica * current as f64);
        let is_near = (ratio - 1.0).abs() <= TOLERANCE;
        let recommended = if is_near { current } else { (per_second / self.per_replica).ceil() as usize };
        self.recommended.push(seen.at, recommended);
        let highest = self.recommended.within(seen.at, DOWNSCALE_STABILISATION).copied().max();
        let share = 100.0 * ratio;
        let text = format!("{per_second:.1} requests/s, {share:.0} % of the rate for {current} replicas");
        Recommendation::new(highest, "rate", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use law::observation::Replicas;

    #[test]
    fn replicas_follow_the_rate_beyond_the_tolerance_and_fall_after_the_window() {
        let mut law = Rate::new(100.0);
        let (mut desired, mut arrivals) = (2, 0.0);
        let mut timeline = Vec::new();
        for tick in 0..26 {
            let seen = Observation {
                at: Duration::from_secs(15 * tick),
                arrivals,
                replicas: Replicas { desired, ready: desired, ..Replicas::default() },
                ..Observation::default()
            };
            desired = law.decide(&seen).replicas.unwrap_or(desired);
            timeline.push(desired);
            arrivals += 15.0 * [219.0, 221.0, 450.0].get(tick as usize).copied().unwrap_or(100.0);
        }
        // 219 requests/s are within 10 % of the rate for two replicas. The five recommended at 45 s stay until 345 s.
        assert_eq!(timeline[..5], [2, 2, 3, 5, 5]);
        assert_eq!((timeline[22], timeline[23]), (5, 1));
    }
}
