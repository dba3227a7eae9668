//! `rate:REQUESTS`: so many requests per second for each replica, as an HPA holds an external metric at an average value. It
//! is for dispatchers, whose work grows with the number of requests and not with their service times.
//!
//! Source: Kubernetes 1.36, pkg/controller/podautoscaler, replica_calculator.go, GetExternalPerPodMetricReplicas, with
//! the defaults of kube-controller-manager.

use law::cadence::Cadence;
use law::observation::Observation;
use law::table::{Law, LawKind, Recommendation};
use law::window::Window;
use std::time::Duration;

/// The line for a table of laws.
pub const KIND: LawKind = LawKind {
    name: "rate",
    parameter: ":REQUESTS",
    wakes: false,
    scales_dispatchers: true,
    make: |_, parameter| {
        let target = parameter?.parse().ok().filter(|target| (0.001..1e9).contains(target))?;
        Some(Box::new(Rate::new(target)))
    },
};

const SYNC: Duration = Duration::from_secs(15);
const TOLERANCE: f64 = 0.1;
const DOWNSCALE_STABILISATION: Duration = Duration::from_secs(300);

/// The law `rate` with its state between decisions.
#[derive(Debug)]
pub struct Rate {
    /// Requests per second for each replica.
    target: f64,
    cadence: Cadence,
    /// Time of the last decision, and the arrivals until then.
    counted: (Duration, f64),
    /// Recommendations before stabilisation.
    recommended: Window<usize>,
}

impl Rate {
    /// Holds `target` requests per second for each replica.
    pub fn new(target: f64) -> Self {
        Self {
            target,
            cadence: Cadence::new(SYNC),
            counted: (Duration::ZERO, 0.0),
            recommended: Window::new(DOWNSCALE_STABILISATION),
        }
    }
}

impl Law for Rate {
    fn decide(&mut self, seen: &Observation) -> Recommendation {
        let current = seen.replicas.desired;
        if self.recommended.newest().is_none() {
            self.recommended.push(seen.at, current);
            self.counted = (seen.at, seen.arrivals);
        }
        if !self.cadence.is_due(seen.at) {
            return Recommendation::waiting();
        }
        let (then, before) = std::mem::replace(&mut self.counted, (seen.at, seen.arrivals));
        let per_second = (seen.arrivals - before) / (seen.at - then).as_secs_f64();
        let ratio = per_second / (self.target * current as f64);
        let is_near = (ratio - 1.0).abs() <= TOLERANCE;
        let recommended = if is_near { current } else { (per_second / self.target).ceil() as usize };
        self.recommended.push(seen.at, recommended);
        let highest = self.recommended.within(seen.at, DOWNSCALE_STABILISATION).copied().max();
        let share = 100.0 * ratio;
        let text = format!("{per_second:.1} requests/s, {share:.0} % of what the present ones are meant for");
        Recommendation::new(highest, "rate", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use law::observation::Replicas;

    #[test]
    fn so_many_requests_for_each_with_tolerance_and_stabilisation() {
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
        // 219 ÷ 200 is within the tolerance, ⌈2.21⌉ and ⌈4.5⌉ are not; 5 of 45 s counts until 345 s.
        assert_eq!(timeline[..5], [2, 2, 3, 5, 5]);
        assert_eq!((timeline[22], timeline[23]), (5, 1));
    }
}
