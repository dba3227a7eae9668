//! `cpu`: the Kubernetes HPA on CPU utilisation, with a `behavior` or without one. Without one its rules differ from
//! those of the default `behavior`: see `Cpu::stabilise`.
//!
//! Source: Kubernetes 1.36, pkg/controller/podautoscaler, horizontal.go and replica_calculator.go, with the defaults of
//! kube-controller-manager.

use super::behavior::Behavior;
use crate::pods::{CpuUsage, Pod, PodReadiness};
use law::cadence::Cadence;
use law::observation::Observation;
use law::table::Recommendation;
use law::window::Window;
use std::time::Duration;

const SYNC_PERIOD: Duration = Duration::from_secs(15);
const TOLERANCE: f64 = 0.1;
const DOWNSCALE_STABILISATION: Duration = Duration::from_secs(300);
const CPU_INITIALISATION_PERIOD: Duration = Duration::from_secs(300);
const INITIAL_READINESS_DELAY: Duration = Duration::from_secs(30);

/// The parameters of the law.
#[derive(Debug, Clone, PartialEq)]
pub struct CpuParameters {
    /// Target utilisation, percent of the requested cores.
    pub percent: u32,
    /// The `behavior`, if it is set.
    pub behavior: Option<Behavior>,
}

/// Reads `cpu[:PERCENT[:BEHAVIOR]]`; `None` if the text names another law, or a parameter makes no sense.
pub fn parse(text: &str) -> Option<CpuParameters> {
    let parameters = match text.strip_prefix("cpu")? {
        "" => return Some(CpuParameters { percent: 70, behavior: None }),
        parameters => parameters.strip_prefix(':')?,
    };
    let (percent, behavior) = match parameters.split_once(':') {
        Some((percent, behavior)) => (percent, Some(behavior.parse().ok()?)),
        None => (parameters, None),
    };
    let percent = percent.parse().ok().filter(|percent| (1..=1000).contains(percent))?;
    Some(CpuParameters { percent, behavior })
}

/// The law `cpu` with its state between decisions.
#[derive(Debug)]
pub struct Cpu {
    /// Target utilisation, percent of the requested cores.
    target: f64,
    min: usize,
    max: usize,
    behavior: Option<Behavior>,
    cadence: Cadence,
    /// Recommendations before stabilisation.
    recommendations: Window<usize>,
    /// Replicas that were added (positive) or removed.
    changes: Window<isize>,
}

impl Cpu {
    /// A law that holds the utilisation of `percent` with `min` to `max` replicas.
    pub fn new(CpuParameters { percent, behavior }: CpuParameters, min: usize, max: usize) -> Self {
        let window = behavior.as_ref().map_or(DOWNSCALE_STABILISATION, Behavior::longest_window);
        let period = behavior.as_ref().map(Behavior::longest_period).unwrap_or_default();
        Self {
            target: f64::from(percent),
            min,
            max,
            behavior,
            cadence: Cadence::new(SYNC_PERIOD),
            recommendations: Window::new(window),
            changes: Window::new(period),
        }
    }

    /// Learns from an observation, and from the pods at that time, and recommends a number of replicas.
    pub fn decide(&mut self, seen: &Observation, pods: &[Pod]) -> Recommendation {
        let Some(at) = self.cadence.due(seen.at) else { return Recommendation::waiting() };
        let current = seen.replicas.desired;
        if self.recommendations.newest().is_none() {
            self.recommendations.push(at, current);
        }
        let (recommended, utilisation) = match current {
            0 => return Recommendation::no_data(),
            _ if current > self.max => (self.max, None),
            _ if current < self.min => (self.min, None),
            _ => match self.recommend(pods, current) {
                Some((recommended, utilisation)) => (self.stabilise(at, recommended, current), Some(utilisation)),
                None => return Recommendation::no_data(),
            },
        };
        self.changes.push(at, recommended as isize - current as isize);
        let text = match utilisation {
            Some(utilisation) => format!("{utilisation:.0} % of the requested cores are in use"),
            None => "held by --min or --max".into(),
        };
        Recommendation::new(Some(recommended), "cpu", text)
    }

    /// The recommendation before stabilisation, and the utilisation in percent; `None` without any usable sample.
    fn recommend(&self, pods: &[Pod], current: usize) -> Option<(usize, f64)> {
        let PodGroups { ready, missing, unready } = PodGroups::of(pods);
        if ready.pods == 0 {
            return None;
        }
        let utilisation = ready.utilisation();
        let ratio = utilisation / self.target;
        if missing.pods == 0 && !(unready.pods > 0 && ratio > 1.0) {
            let recommended =
                if is_within_tolerance(ratio) { current } else { (ratio * ready.pods as f64).ceil() as usize };
            return Some((recommended, utilisation));
        }
        // Pods without a usable sample count against any change: as fully used when scaling down, as idle when scaling
        // up.
        let mut all = ready.and(missing);
        if ratio < 1.0 {
            all.used += missing.requested * self.target.max(100.0) / 100.0;
        } else if ratio > 1.0 {
            all = all.and(unready);
        }
        Some((self.conservative(all, ratio, current), utilisation))
    }

    /// The recommendation for all pods together, if it points the same way as `ratio`; otherwise the current number.
    fn conservative(&self, all: PodGroup, ratio: f64, current: usize) -> usize {
        let conservative_ratio = all.utilisation() / self.target;
        if is_within_tolerance(conservative_ratio) || (ratio < 1.0) != (conservative_ratio < 1.0) {
            return current;
        }
        let recommended = (conservative_ratio * all.pods as f64).ceil() as usize;
        let contradicts_ratio =
            (conservative_ratio < 1.0 && recommended > current) || (conservative_ratio > 1.0 && recommended < current);
        if contradicts_ratio { current } else { recommended }
    }

    /// The recommendation after the rules of the `behavior`, if it is set. Otherwise: the highest recommendation of the
    /// last five minutes, and at most twice the current number, or four.
    fn stabilise(&mut self, at: Duration, recommended: usize, current: usize) -> usize {
        if let Some(behavior) = &self.behavior {
            let limited = behavior.limit(at, recommended, current, &self.recommendations, &self.changes);
            self.recommendations.push(at, recommended);
            return limited.clamp(self.min, self.max);
        }
        self.recommendations.push(at, recommended);
        let highest = self.recommendations.within(at, DOWNSCALE_STABILISATION).copied().max().unwrap_or(recommended);
        highest.clamp(self.min, self.max.min((2 * current).max(4)).max(self.min))
    }
}

fn is_within_tolerance(ratio: f64) -> bool {
    (1.0 - TOLERANCE..=1.0 + TOLERANCE).contains(&ratio)
}

/// The pods by the use that the HPA makes of their samples.
#[derive(Debug, Default)]
struct PodGroups {
    /// Pods whose samples count.
    ready: PodGroup,
    /// Running pods without a sample.
    missing: PodGroup,
    /// Pods that are pending, or too young for their samples to count.
    unready: PodGroup,
}

impl PodGroups {
    fn of(pods: &[Pod]) -> Self {
        let mut groups = Self::default();
        for pod in pods {
            let (group, used) = match (pod.usage, pod.readiness) {
                (None, PodReadiness::Pending) => (&mut groups.unready, 0.0),
                (None, _) => (&mut groups.missing, 0.0),
                (Some(usage), _) if is_unready(pod, usage) => (&mut groups.unready, 0.0),
                (Some(usage), _) => (&mut groups.ready, usage.cores),
            };
            *group = group.and(PodGroup { pods: 1, used, requested: pod.requested_cores });
        }
        groups
    }
}

/// A number of pods, with their cores.
#[derive(Debug, Clone, Copy, Default)]
struct PodGroup {
    pods: usize,
    /// Cores in use.
    used: f64,
    /// Requested cores.
    requested: f64,
}

impl PodGroup {
    fn and(self, other: Self) -> Self {
        Self { pods: self.pods + other.pods, used: self.used + other.used, requested: self.requested + other.requested }
    }

    /// Utilisation in whole percent.
    fn utilisation(self) -> f64 {
        // Kubernetes counts whole thousandths of a core: 0.29 of one is 29 %, not the 28.999… of binary fractions.
        (100.0 * self.used / self.requested + 1e-9).trunc()
    }
}

/// Whether a pod is too young for its sample to count.
fn is_unready(pod: &Pod, usage: CpuUsage) -> bool {
    let is_young = pod.age < CPU_INITIALISATION_PERIOD;
    match pod.readiness {
        PodReadiness::Pending => true,
        // The sample must begin after the pod became ready.
        PodReadiness::Ready(since) => is_young && usage.age + usage.window > since,
        // A pod that has been unready for nearly its whole life was never ready.
        PodReadiness::Unready(since) => is_young || since + INITIAL_READINESS_DELAY > pod.age,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use law::observation::Replicas;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn pod(cores: Option<f64>) -> Pod {
        let usage = cores.map(|cores| CpuUsage { cores, age: S(5), window: S(15) });
        Pod { age: S(900), readiness: PodReadiness::Ready(S(890)), requested_cores: 1.0, usage }
    }

    fn starting() -> Pod {
        Pod { age: S(2), readiness: PodReadiness::Pending, usage: None, ..pod(None) }
    }

    fn unready(age: u64, since: u64, cores: Option<f64>) -> Pod {
        Pod { age: S(age), readiness: PodReadiness::Unready(S(since)), ..pod(cores) }
    }

    #[test]
    fn hand_computed_cases() {
        let law = law(None);
        let rows = [
            // 90 ÷ 50 = 1.8 of two pods: ⌈3.6⌉.
            (vec![pod(Some(0.9)); 2], Some(4)),
            // 54.9 truncates to 54: 1.08 is within the tolerance.
            (vec![pod(Some(0.549)); 2], Some(2)),
            (vec![pod(Some(0.2)); 4], Some(2)),
            (vec![pod(Some(0.29)); 50], Some(29)),
            // One is starting. 1.8 > 1, so it counts as idle: 90 ÷ 100 = 0.9 of 2, within the tolerance.
            (vec![pod(Some(0.9)), starting()], Some(2)),
            // The ready one is nearly idle, so the starting one does not count.
            (vec![pod(Some(0.1)), starting()], Some(1)),
            // A pod without a sample counts as fully used when the others are idle: (20 + 100) ÷ 2 = 60, on the other
            // side of 50.
            (vec![pod(Some(0.2)), pod(None)], Some(2)),
            // It counts as idle when the others are busy: 95 ÷ 2 = 47, on the other side of 50.
            (vec![pod(Some(0.95)), pod(None)], Some(2)),
            // A running pod that is not ready counts as missing too, until there is a sample of it.
            (vec![pod(Some(0.2)), unready(20, 20, None)], Some(2)),
            (vec![pod(Some(0.2)), unready(20, 20, Some(0.9))], Some(1)),
            // The second pod was ready for ten minutes, so its sample counts. (20 + 90) ÷ 2 = 55 is within the
            // tolerance of 50.
            (vec![pod(Some(0.2)), unready(900, 300, Some(0.9))], Some(2)),
            // The second pod was never ready.
            (vec![pod(Some(0.2)), unready(900, 890, Some(0.9))], Some(1)),
            // Pods that request half a core: 90 of 100. Then one and a half cores in all: 90 of 150 is 60.
            (vec![Pod { requested_cores: 0.5, ..pod(Some(0.45)) }; 2], Some(4)),
            (vec![pod(Some(0.45)), Pod { requested_cores: 0.5, ..pod(Some(0.45)) }], Some(3)),
            (vec![pod(None)], None),
            (vec![], None),
        ];
        for (pods, expected) in rows {
            assert_eq!(law.recommend(&pods, pods.len()).map(|found| found.0), expected, "{pods:?}");
        }
    }

    #[test]
    fn a_sample_from_before_the_pod_was_ready_does_not_count() {
        let usage = CpuUsage { cores: 0.9, age: S(5), window: S(15) };
        let young = |since| Pod { age: S(40), readiness: PodReadiness::Ready(S(since)), ..pod(None) };
        assert!(is_unready(&young(18), usage), "the sample began 20 s ago");
        assert!(!is_unready(&young(25), usage));
    }

    fn law(behavior: Option<&str>) -> Cpu {
        let behavior = behavior.map(|text| text.parse().expect("a behavior"));
        Cpu::new(CpuParameters { percent: 50, behavior }, 1, 20)
    }

    #[test]
    fn bounds_need_no_figures() {
        let mut law = law(None);
        let seen = |second, desired| Observation {
            at: S(second),
            replicas: Replicas { desired, ..Replicas::default() },
            ..Observation::default()
        };
        for (second, desired, replicas) in [(0, 2, None), (20, 2, None), (60, 30, Some(20))] {
            assert_eq!(law.decide(&seen(second, desired), &[]).replicas, replicas, "at {second} s");
        }
    }

    /// The desired replicas at each tick, from one replica on, while each uses 6 cores for 45 s and hardly any after
    /// that.
    fn timeline(behavior: Option<&str>) -> Vec<usize> {
        let mut law = law(behavior);
        let mut desired = 1;
        let mut timeline = Vec::new();
        for tick in 0..45 {
            let cores = if tick < 4 { 6.0 } else { 0.1 };
            let seen = Observation {
                // Real ticks are a little late.
                at: S(15 * tick) + Duration::from_millis([0, 400, 0, 450][tick as usize % 4]),
                replicas: Replicas { desired, ready: desired, ..Replicas::default() },
                ..Observation::default()
            };
            desired = law.decide(&seen, &vec![pod(Some(cores)); desired]).replicas.unwrap_or(desired);
            timeline.push(desired);
        }
        timeline
    }

    #[test]
    fn up_to_four_at_once_and_down_after_five_minutes() {
        let timeline = timeline(None);
        // From 1 to 4 (12 recommended), to 8 (48 recommended), to 16 (96 recommended); idle since 60 s.
        assert_eq!(timeline[..5], [1, 4, 8, 16, 20]);
        assert_eq!(timeline[22], 20, "the recommendation of 45 s holds until 345 s");
        assert_eq!(timeline[44], 1, "⌈0.2 · 20⌉ = 4, then 1");
    }

    #[test]
    fn with_behavior_up_to_five_at_once_and_down_as_it_says() {
        let default = timeline(Some("behavior"));
        assert_eq!(default[..5], [1, 5, 10, 20, 20]);
        assert_eq!((default[22], default[44]), (20, 1));
        // At 75 s half of the three replicas of a minute ago may be removed. At 105 s one would do, but of the seven of
        // a minute ago three may be left: there are two already.
        let slow = timeline(Some("up=0s/2@15s:down=30s/50%@60s"));
        assert_eq!(slow[..12], [1, 3, 5, 7, 7, 2, 2, 2, 2, 1, 1, 1]);
        // A stabilisation window of a minute is longer than the work lasts.
        assert_eq!(timeline(Some("up=60s"))[..12], [1; 12]);
    }
}
