//! `cpu`: the Kubernetes HPA on processor use, without `behavior`.
//!
//! Source: Kubernetes 1.36, pkg/controller/podautoscaler, horizontal.go and replica_calculator.go, with the defaults of
//! kube-controller-manager.

use super::cadence::Cadence;
use super::window::Window;
use super::{Observation, Pod, Reason, Want};
use std::time::Duration;

const SYNC: Duration = Duration::from_secs(15);
const TOLERANCE: f64 = 0.1;
const DOWNSCALE_STABILISATION: Duration = Duration::from_secs(300);
const CPU_INITIALISATION: Duration = Duration::from_secs(300);
const INITIAL_READINESS_DELAY: Duration = Duration::from_secs(30);

/// The law and what it remembers.
#[derive(Debug)]
pub struct Cpu {
    /// Utilisation to hold, percent of the request.
    target: f64,
    /// Cores that a replica requests.
    request: f64,
    min: usize,
    max: usize,
    cadence: Cadence,
    /// What was recommended before stabilisation.
    recommendations: Window<usize>,
}

impl Cpu {
    /// Holds `target` percent of `request` cores between `min` and `max` replicas.
    pub fn new(target: f64, request: f64, min: usize, max: usize) -> Self {
        let recommendations = Window::new(DOWNSCALE_STABILISATION);
        Self { target, request, min, max, cadence: Cadence::new(SYNC), recommendations }
    }

    /// One tick.
    pub fn decide(&mut self, seen: &Observation) -> Want {
        if !self.cadence.is_due(seen.at) {
            return Want::waiting();
        }
        let current = seen.replicas.desired;
        if self.recommendations.newest().is_none() {
            self.recommendations.push(seen.at, current);
        }
        let (wish, utilisation) = match current {
            0 => return Want { replicas: None, reason: Reason::NoData },
            _ if current > self.max => (self.max, None),
            _ if current < self.min => (self.min, None),
            _ => match self.recommend(&seen.pods, current) {
                Some((wish, utilisation)) => (self.stabilise(seen.at, wish, current), Some(utilisation)),
                None => return Want { replicas: None, reason: Reason::NoData },
            },
        };
        Want { replicas: Some(wish), reason: Reason::Processor { utilisation: utilisation.unwrap_or_default() } }
    }

    /// Before stabilisation, and the utilisation in percent; nothing without any usable sample.
    fn recommend(&self, pods: &[Pod], current: usize) -> Option<(usize, f64)> {
        let (mut ready, mut missing, mut unready) = (Vec::new(), 0, 0);
        for pod in pods {
            match pod.usage {
                // A pending pod has no sample either, and counts as unready.
                None if pod.ready_for.is_none() => unready += 1,
                None => missing += 1,
                Some(_) if is_unready(pod) => unready += 1,
                Some(usage) => ready.push(usage.cores),
            }
        }
        let usage: f64 = ready.iter().sum();
        let share = |usage: f64, pods: usize| (100.0 * usage / (self.request * pods as f64)).trunc();
        let within = |ratio: f64| (1.0 - TOLERANCE..=1.0 + TOLERANCE).contains(&ratio);
        if ready.is_empty() {
            return None;
        }
        let utilisation = share(usage, ready.len());
        let ratio = utilisation / self.target;
        if missing == 0 && !(unready > 0 && ratio > 1.0) {
            let wish = if within(ratio) { current } else { (ratio * ready.len() as f64).ceil() as usize };
            return Some((wish, utilisation));
        }
        // What is not known counts against any change.
        let (mut usage, mut pods) = (usage, ready.len() + missing);
        if ratio < 1.0 {
            usage += missing as f64 * self.request * self.target.max(100.0) / 100.0;
        } else if ratio > 1.0 {
            pods += unready;
        }
        let careful = share(usage, pods) / self.target;
        let wish = if within(careful) || (ratio < 1.0) != (careful < 1.0) {
            current
        } else {
            let wish = (careful * pods as f64).ceil() as usize;
            let contradicts = (careful < 1.0 && wish > current) || (careful > 1.0 && wish < current);
            if contradicts { current } else { wish }
        };
        Some((wish, utilisation))
    }

    /// The highest of the last five minutes; at most twice what there is, or four.
    fn stabilise(&mut self, at: Duration, wish: usize, current: usize) -> usize {
        self.recommendations.push(at, wish);
        let highest = self.recommendations.within(at, DOWNSCALE_STABILISATION).copied().max().unwrap_or(wish);
        highest.clamp(self.min, self.max.min((2 * current).max(4)).max(self.min))
    }
}

/// Whether a pod with a sample is too young for it to count.
fn is_unready(pod: &Pod) -> bool {
    let Some(usage) = pod.usage else { return true };
    if pod.age < CPU_INITIALISATION {
        // The sample must begin after the pod became ready.
        pod.ready_for.is_none_or(|ready| usage.age + usage.window > ready)
    } else {
        // Not ready, and never was for longer than it takes to become so.
        pod.ready_for.is_none() && pod.age > INITIAL_READINESS_DELAY
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Replicas, Usage};

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn pod(cores: Option<f64>) -> Pod {
        let usage = cores.map(|cores| Usage { cores, age: S(5), window: S(15) });
        Pod { age: S(900), ready_for: Some(S(890)), usage }
    }

    fn starting() -> Pod {
        Pod { age: S(2), ready_for: None, usage: None }
    }

    #[test]
    fn hand_computed_cases() {
        let law = Cpu::new(50.0, 1.0, 1, 20);
        let rows = [
            // 90 ÷ 50 = 1.8 of two pods: ⌈3.6⌉.
            (vec![pod(Some(0.9)); 2], Some(4)),
            // 54.9 truncates to 54: 1.08 is within the tolerance.
            (vec![pod(Some(0.549)); 2], Some(2)),
            (vec![pod(Some(0.2)); 4], Some(2)),
            // One starting: 1.8 > 1, so it counts as idle: 90 ÷ 100 = 0.9 of 2, within the tolerance.
            (vec![pod(Some(0.9)), starting()], Some(2)),
            // Idle and one starting: it does not count.
            (vec![pod(Some(0.1)), starting()], Some(1)),
            // One without a sample counts as fully used when the others are idle: (20 + 100) ÷ 2 = 60: other side.
            (vec![pod(Some(0.2)), pod(None)], Some(2)),
            // And as idle when they are busy: 95 ÷ 2 = 47, other side.
            (vec![pod(Some(0.95)), pod(None)], Some(2)),
            (vec![pod(None)], None),
            (vec![], None),
        ];
        for (pods, expected) in rows {
            assert_eq!(law.recommend(&pods, pods.len()).map(|found| found.0), expected, "{pods:?}");
        }
    }

    #[test]
    fn a_sample_from_before_it_was_ready_does_not_count() {
        let young = Pod { age: S(40), ready_for: Some(S(18)), usage: pod(Some(0.9)).usage };
        assert!(is_unready(&young), "the sample began 20 s ago");
        assert!(!is_unready(&Pod { ready_for: Some(S(25)), ..young }));
    }

    #[test]
    fn up_to_four_at_once_and_down_after_five_minutes() {
        let mut law = Cpu::new(50.0, 1.0, 1, 20);
        let mut desired = 1;
        let mut course = Vec::new();
        for tick in 0..45 {
            let cores = if tick < 3 { 6.0 } else { 0.1 };
            let seen = Observation {
                at: S(15 * tick),
                replicas: Replicas { desired, ready: desired, ..Replicas::default() },
                pods: vec![pod(Some(cores)); desired],
                ..Observation::default()
            };
            desired = law.decide(&seen).replicas.unwrap_or(desired);
            course.push(desired);
        }
        // From 1 to 4 (12 wanted), to 8 (48 wanted), and in the next tick 48 again, so 16; idle since 45 s.
        assert_eq!(course[..5], [1, 4, 8, 16, 20]);
        assert_eq!(course[21], 20, "the wish of 30 s holds until 330 s");
        assert_eq!(course[44], 1, "⌈0.2 · 20⌉ = 4, then 1");
    }
}
