//! `rate`: so many requests a second for each, as an HPA holds an external metric at an average value. For dispatchers,
//! whose work grows with the requests and not with what they take.
//!
//! Source: Kubernetes 1.36, pkg/controller/podautoscaler, replica_calculator.go, GetExternalPerPodMetricReplicas, with
//! the defaults of kube-controller-manager.

use super::cadence::Cadence;
use super::window::Window;
use super::{Observation, Reason, Want};
use std::time::Duration;

const SYNC: Duration = Duration::from_secs(15);
const TOLERANCE: f64 = 0.1;
const DOWNSCALE_STABILISATION: Duration = Duration::from_secs(300);

/// The law and what it remembers.
#[derive(Debug)]
pub struct Rate {
    /// Requests per second for each.
    target: f64,
    cadence: Cadence,
    /// When it last decided, and how many had arrived by then.
    counted: (Duration, f64),
    recommendations: Window<usize>,
}

impl Rate {
    /// Holds `target` requests per second for each.
    pub fn new(target: f64) -> Self {
        Self {
            target,
            cadence: Cadence::new(SYNC),
            counted: (Duration::ZERO, 0.0),
            recommendations: Window::new(DOWNSCALE_STABILISATION),
        }
    }

    /// One tick.
    pub fn decide(&mut self, seen: &Observation) -> Want {
        let current = seen.replicas.desired;
        if self.recommendations.newest().is_none() {
            self.recommendations.push(seen.at, current);
            self.counted = (seen.at, seen.arrivals);
        }
        if !self.cadence.is_due(seen.at) {
            return Want::waiting();
        }
        let (then, before) = std::mem::replace(&mut self.counted, (seen.at, seen.arrivals));
        let arrivals_per_second = (seen.arrivals - before) / (seen.at - then).as_secs_f64();
        let ratio = arrivals_per_second / (self.target * current as f64);
        let wish = if (ratio - 1.0).abs() <= TOLERANCE {
            current
        } else {
            (arrivals_per_second / self.target).ceil() as usize
        };
        self.recommendations.push(seen.at, wish);
        let highest = self.recommendations.within(seen.at, DOWNSCALE_STABILISATION).copied().max();
        Want { replicas: highest, reason: Reason::Rate { arrivals_per_second, share: 100.0 * ratio } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Replicas;

    #[test]
    fn so_many_for_each_with_tolerance_and_patience() {
        let mut law = Rate::new(100.0);
        let (mut desired, mut arrivals) = (2, 0.0);
        let mut course = Vec::new();
        for tick in 0..26 {
            let seen = Observation {
                at: Duration::from_secs(15 * tick),
                arrivals,
                replicas: Replicas { desired, ready: desired, ..Replicas::default() },
                ..Observation::default()
            };
            desired = law.decide(&seen).replicas.unwrap_or(desired);
            course.push(desired);
            arrivals += 15.0 * [219.0, 221.0, 450.0].get(tick as usize).copied().unwrap_or(100.0);
        }
        // 219 ÷ 200 is within the tolerance, ⌈2.21⌉ and ⌈4.5⌉ are not; 5 of 45 s counts until 345 s.
        assert_eq!(course[..5], [2, 2, 3, 5, 5]);
        assert_eq!((course[22], course[23]), (5, 1));
    }
}
