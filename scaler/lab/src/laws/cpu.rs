//! `cpu`: the Kubernetes HPA on CPU utilisation, with or without a `behavior`. An HPA without a `behavior` has other
//! rules than one with the default `behavior`; see `Cpu::stabilise`.
//!
//! Source: Kubernetes 1.36, pkg/controller/podautoscaler, horizontal.go and replica_calculator.go, with the defaults of
//! kube-controller-manager.

use super::behavior::{Behavior, TOLERANCE};
use crate::pods::{CpuUsage, Pod, PodReadiness};
use law::cadence::Cadence;
use law::observation::Observation;
use law::table::Recommendation;
use law::window::Window;
use std::fmt;
use std::time::Duration;

/// The time between two decisions: `--horizontal-pod-autoscaler-sync-period`.
const SYNC_PERIOD: Duration = Duration::from_secs(15);
/// The stabilisation window without a `behavior`: `--horizontal-pod-autoscaler-downscale-stabilization`.
const DOWNSCALE_STABILISATION: Duration = Duration::from_secs(300);
/// In this time after a pod's start, only samples from after the pod became ready count:
/// `--horizontal-pod-autoscaler-cpu-initialization-period`.
const CPU_INITIALISATION_PERIOD: Duration = Duration::from_secs(300);
/// A pod that last became unready within this time after its start counts as never ready:
/// `--horizontal-pod-autoscaler-initial-readiness-delay`.
const INITIAL_READINESS_DELAY: Duration = Duration::from_secs(30);

/// The parameters of the law `cpu`.
#[derive(Debug, Clone, PartialEq)]
pub struct CpuParameters {
    /// The targets, at least one. The one that needs the most replicas counts.
    pub targets: Vec<CpuTarget>,
    /// The `behavior`; `None` if the HPA has none.
    pub behavior: Option<Behavior>,
}

/// A target of the HPA for the CPU usage of the pods.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CpuTarget {
    /// The usage in percent of the requested cores: Kubernetes' `averageUtilization`.
    Utilization(u32),
    /// The mean usage of a pod, in cores: Kubernetes' `averageValue`.
    AverageValue(f64),
}

/// Parses `cpu[:PERCENT[:BEHAVIOR]]`. `None` if the text names another law, or if a parameter cannot be parsed or is
/// out of range.
pub fn parse(text: &str) -> Option<CpuParameters> {
    let parameters = match text.strip_prefix("cpu")? {
        "" => return Some(CpuParameters { targets: vec![CpuTarget::Utilization(70)], behavior: None }),
        parameters => parameters.strip_prefix(':')?,
    };
    let (percent, behavior) = match parameters.split_once(':') {
        Some((percent, behavior)) => (percent, Some(behavior.parse().ok()?)),
        None => (parameters, None),
    };
    let percent = percent.parse().ok().filter(|percent| (1..=1000).contains(percent))?;
    Some(CpuParameters { targets: vec![CpuTarget::Utilization(percent)], behavior })
}

impl fmt::Display for CpuParameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let targets: Vec<String> = self.targets.iter().map(ToString::to_string).collect();
        write!(f, "{}", targets.join(" and "))?;
        self.behavior.as_ref().map_or(Ok(()), |behavior| write!(f, ", {behavior}"))
    }
}

impl fmt::Display for CpuTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Utilization(percent) => write!(f, "{percent} % of the requested cores"),
            Self::AverageValue(cores) => write!(f, "{cores} cores for each pod"),
        }
    }
}

impl CpuTarget {
    /// The usage of these pods ÷ this target.
    fn ratio(self, pods: PodGroup) -> f64 {
        match self {
            Self::Utilization(percent) => pods.utilisation() / f64::from(percent),
            Self::AverageValue(cores) => pods.mean_millicores() / (cores * 1e3),
        }
    }

    /// The cores that pods without a sample count as using in a scale-down.
    fn assumed_use(self, missing: PodGroup) -> f64 {
        match self {
            Self::Utilization(percent) => missing.requested * f64::from(percent.max(100)) / 100.0,
            Self::AverageValue(cores) => missing.pods as f64 * cores,
        }
    }
}

/// The law `cpu` with its state between decisions.
#[derive(Debug)]
pub struct Cpu {
    targets: Vec<CpuTarget>,
    min: usize,
    max: usize,
    behavior: Option<Behavior>,
    cadence: Cadence,
    /// The recommendations before stabilisation.
    recommendations: Window<usize>,
    /// The changes of the number of replicas. A change is positive if replicas were added.
    changes: Window<isize>,
}

impl Cpu {
    /// A law that keeps the usage at its targets with `min` to `max` replicas.
    pub fn new(CpuParameters { targets, behavior }: CpuParameters, min: usize, max: usize) -> Self {
        let window = behavior.as_ref().map_or(DOWNSCALE_STABILISATION, Behavior::longest_window);
        let period = behavior.as_ref().map(Behavior::longest_period).unwrap_or_default();
        Self {
            targets,
            min,
            max,
            behavior,
            cadence: Cadence::new(SYNC_PERIOD),
            recommendations: Window::new(window),
            changes: Window::new(period),
        }
    }

    /// Records an observation and the pods at the same time, and recommends a number of replicas.
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
            None => "the number of replicas is outside --min and --max".into(),
        };
        Recommendation::new(Some(recommended), "cpu", text)
    }

    /// The recommended replicas before stabilisation, and the utilisation of the requested cores in percent. `None` if
    /// no pod has a sample that counts.
    fn recommend(&self, pods: &[Pod], current: usize) -> Option<(usize, f64)> {
        let groups = PodGroups::of(pods);
        if groups.ready.pods == 0 {
            return None;
        }
        let recommended = self.targets.iter().map(|&target| self.recommend_for(target, &groups, current)).max()?;
        Some((recommended, groups.ready.utilisation()))
    }

    /// The replicas that one target needs. At least one pod is ready.
    fn recommend_for(&self, target: CpuTarget, groups: &PodGroups, current: usize) -> usize {
        let &PodGroups { ready, missing, unready } = groups;
        let ratio = target.ratio(ready);
        if missing.pods == 0 && !(unready.pods > 0 && ratio > 1.0) {
            return if self.is_within_tolerance(ratio) { current } else { (ratio * ready.pods as f64).ceil() as usize };
        }
        // Pods whose samples do not count dampen the change. In a scale-down, running pods without a sample count as
        // fully used. In a scale-up, they and the unready pods count as idle.
        let mut all = ready.and(missing);
        if ratio < 1.0 {
            all.used += target.assumed_use(missing);
        } else if ratio > 1.0 {
            all = all.and(unready);
        }
        self.conservative(all, target, ratio, current)
    }

    /// The recommended replicas, computed from all pods together. If they would change the number in another direction
    /// than `ratio`, or not beyond the tolerance, the result is the current number.
    fn conservative(&self, all: PodGroup, target: CpuTarget, ratio: f64, current: usize) -> usize {
        let conservative_ratio = target.ratio(all);
        if self.is_within_tolerance(conservative_ratio) || (ratio < 1.0) != (conservative_ratio < 1.0) {
            return current;
        }
        let recommended = (conservative_ratio * all.pods as f64).ceil() as usize;
        let contradicts_ratio =
            (conservative_ratio < 1.0 && recommended > current) || (conservative_ratio > 1.0 && recommended < current);
        if contradicts_ratio { current } else { recommended }
    }

    /// Whether usage ÷ target is so near to 1 that the HPA changes nothing.
    fn is_within_tolerance(&self, ratio: f64) -> bool {
        let tolerances = self.behavior.as_ref().map(|behavior| (behavior.down.tolerance, behavior.up.tolerance));
        let (down, up) = tolerances.unwrap_or((TOLERANCE, TOLERANCE));
        (1.0 - down..=1.0 + up).contains(&ratio)
    }

    /// The recommended replicas after stabilisation. With a `behavior`, its rules apply. Without one, the result is the
    /// highest recommendation of the last five minutes, but at most the higher of four and twice the current number.
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

/// The pods, grouped by how the HPA counts their samples.
#[derive(Debug, Default)]
struct PodGroups {
    /// The pods whose samples count.
    ready: PodGroup,
    /// The running pods without a sample.
    missing: PodGroup,
    /// The pods that are pending, and those whose samples do not count yet.
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

/// A number of pods and the cores of all of them.
#[derive(Debug, Clone, Copy, Default)]
struct PodGroup {
    pods: usize,
    /// The number of cores in use.
    used: f64,
    /// The number of requested cores.
    requested: f64,
}

impl PodGroup {
    fn and(self, other: Self) -> Self {
        Self { pods: self.pods + other.pods, used: self.used + other.used, requested: self.requested + other.requested }
    }

    /// The utilisation of the requested cores, in percent, rounded down.
    fn utilisation(self) -> f64 {
        // Kubernetes computes with whole millicores. Without the added billionth, 0.29 cores would be 28.999… %, and
        // would be rounded down to 28 %.
        (100.0 * self.used / self.requested + 1e-9).trunc()
    }

    /// The mean usage of a pod, in millicores, rounded down.
    fn mean_millicores(self) -> f64 {
        (1e3 * self.used / self.pods as f64 + 1e-6).trunc()
    }
}

/// Whether the sample of a pod does not count: the pod is young and was not ready during the whole sample, or the pod
/// was never ready.
fn is_unready(pod: &Pod, usage: CpuUsage) -> bool {
    let is_young = pod.age < CPU_INITIALISATION_PERIOD;
    match pod.readiness {
        PodReadiness::Pending => true,
        // The sample of a young pod counts only if it began after the pod became ready: before, the pod used cores to
        // start.
        PodReadiness::Ready(since) => is_young && usage.age + usage.window > since,
        // A pod that became unready soon after its start was never ready, so its sample shows its start only.
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
    fn recommendations_before_stabilisation_agree_with_values_computed_by_hand() {
        let law = law(None);
        let rows = [
            // The target is 50 %. 90 ÷ 50 = 1.8, and 1.8 · 2 pods = 3.6, rounded up to 4.
            (vec![pod(Some(0.9)); 2], Some(4)),
            // 54.9 % is rounded down to 54 %. 54 ÷ 50 = 1.08 is within the tolerance.
            (vec![pod(Some(0.549)); 2], Some(2)),
            (vec![pod(Some(0.2)); 4], Some(2)),
            (vec![pod(Some(0.29)); 50], Some(29)),
            // The second pod is starting. The first would need a scale-up, so the second counts as idle: (90 + 0) ÷ 2 =
            // 45 %, and 45 ÷ 50 = 0.9 is within the tolerance.
            (vec![pod(Some(0.9)), starting()], Some(2)),
            // The ready pod allows a scale-down, so the starting pod does not count.
            (vec![pod(Some(0.1)), starting()], Some(1)),
            // A pod without a sample counts as fully used when the others allow a scale-down: (20 + 100) ÷ 2 = 60 %
            // would need a scale-up, so nothing changes.
            (vec![pod(Some(0.2)), pod(None)], Some(2)),
            // A pod without a sample counts as idle when the others need a scale-up: ⌊95 ÷ 2⌋ = 47 % is within the
            // tolerance, so nothing changes.
            (vec![pod(Some(0.95)), pod(None)], Some(2)),
            // A running pod that is unready counts as fully used while it has no sample. Once it has a sample, it does
            // not count in a scale-down.
            (vec![pod(Some(0.2)), unready(20, 20, None)], Some(2)),
            (vec![pod(Some(0.2)), unready(20, 20, Some(0.9))], Some(1)),
            // The second pod was ready for ten minutes, so its sample counts. (20 + 90) ÷ 2 = 55 %, and 55 ÷ 50 = 1.1
            // is within the tolerance.
            (vec![pod(Some(0.2)), unready(900, 300, Some(0.9))], Some(2)),
            // The second pod was never ready, so its sample does not count.
            (vec![pod(Some(0.2)), unready(900, 890, Some(0.9))], Some(1)),
            // Two pods request 0.5 cores each and use 0.9 of 1.0 cores: 90 %. In the next row, the pods request 1.5
            // cores and use 0.9 of them: 60 %.
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
        assert!(is_unready(&young(18), usage), "the sample began 20 s ago, and the pod became ready 18 s ago");
        assert!(!is_unready(&young(25), usage));
    }

    fn law(behavior: Option<&str>) -> Cpu {
        let behavior = behavior.map(|text| text.parse().expect("a behavior"));
        Cpu::new(CpuParameters { targets: vec![CpuTarget::Utilization(50)], behavior }, 1, 20)
    }

    #[test]
    fn tolerances_apply_in_their_direction() {
        let rows = [
            // The target is 50 %, and there are ten pods. 54 ÷ 50 = 1.08, and 46 ÷ 50 = 0.92.
            (None, 0.54, 10),
            (None, 0.46, 10),
            (Some("behavior"), 0.54, 10),
            (Some("up=tolerance=0.05"), 0.54, 11),
            (Some("up=tolerance=0.05"), 0.46, 10),
            (Some("down=tolerance=0.05"), 0.54, 10),
            (Some("down=tolerance=0.05"), 0.46, 10),
            // 0.92 · 10 = 9.2, rounded up to 10; 0.9 · 10 = 9 is a change only without a tolerance.
            (Some("down=tolerance=0"), 0.45, 9),
            (None, 0.45, 10),
            (Some("up=tolerance=0"), 0.51, 11),
            (Some("up=tolerance=0.5"), 0.74, 10),
            (Some("up=tolerance=0.5"), 0.76, 16),
        ];
        for (behavior, cores, expected) in rows {
            let found = law(behavior).recommend(&vec![pod(Some(cores)); 10], 10);
            assert_eq!(found.map(|found| found.0), Some(expected), "{behavior:?} at {cores} cores");
        }
    }

    #[test]
    fn the_target_that_needs_the_most_replicas_counts() {
        let law = |targets: &[CpuTarget]| Cpu::new(CpuParameters { targets: targets.to_vec(), behavior: None }, 1, 20);
        let (half, value) = (CpuTarget::Utilization(50), CpuTarget::AverageValue);
        let rows = [
            // The mean is 0.9 cores. 0.9 ÷ 0.3 = 3, for two pods 6.
            (vec![value(0.3)], vec![pod(Some(0.9)); 2], 6),
            // The request does not matter: 0.45 ÷ 0.3 = 1.5, for two pods 3.
            (vec![value(0.3)], vec![Pod { requested_cores: 0.5, ..pod(Some(0.45)) }; 2], 3),
            // The mean of 329.5 millicores is rounded down to 329, and 329 ÷ 300 is within the tolerance.
            (vec![value(0.3)], vec![pod(Some(0.3295)); 2], 2),
            // A pod without a sample counts as using its target in a scale-down: (100 + 300) ÷ 2 = 200, and
            // 200 ÷ 300 · 2 = 1.3, rounded up to 2.
            (vec![value(0.3)], vec![pod(Some(0.1)), pod(None)], 2),
            // It counts as idle in a scale-up: (900 + 0) ÷ 2 = 450, and 450 ÷ 300 · 2 = 3.
            (vec![value(0.3)], vec![pod(Some(0.9)), pod(None)], 3),
            (vec![half, value(0.3)], vec![pod(Some(0.9)); 2], 6),
            (vec![value(2.0), half], vec![pod(Some(0.9)); 2], 4),
        ];
        for (targets, pods, expected) in rows {
            let found = law(&targets).recommend(&pods, pods.len()).map(|found| found.0);
            assert_eq!(found, Some(expected), "{targets:?}: {pods:?}");
        }
    }

    #[test]
    fn bounds_apply_without_any_sample() {
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

    /// The desired replicas after each tick, beginning with one replica. Each replica uses 6 cores during the first
    /// four ticks, and 0.1 cores after that.
    fn timeline(behavior: Option<&str>) -> Vec<usize> {
        let mut law = law(behavior);
        let mut desired = 1;
        let mut timeline = Vec::new();
        for tick in 0..45 {
            let cores = if tick < 4 { 6.0 } else { 0.1 };
            let seen = Observation {
                // Some ticks are late, as those of a real HPA are.
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
    fn without_behavior_it_first_scales_to_four_and_scales_down_after_five_minutes() {
        let timeline = timeline(None);
        // The law recommends 12, 48 and 96 replicas, and the limits allow 4, 8 and 16. From 60 s on, the
        // replicas are idle. The recommendation of 96 replicas still counts and raises their number to 20.
        assert_eq!(timeline[..5], [1, 4, 8, 16, 20]);
        assert_eq!(timeline[22], 20, "the recommendation of 45 s holds until 345 s");
        assert_eq!(timeline[44], 1, "first ⌈0.2 · 20⌉ = 4, then ⌈0.2 · 4⌉ = 1");
    }

    #[test]
    fn with_behavior_it_first_scales_to_five_and_follows_the_policies() {
        let default = timeline(Some("behavior"));
        assert_eq!(default[..5], [1, 5, 10, 20, 20]);
        assert_eq!((default[22], default[44]), (20, 1));
        // At 75 s, two replicas are recommended. The period of 60 s began with three replicas, of which half may be
        // removed, so two are allowed. At 105 s, one replica is recommended. The period began with seven replicas, of
        // which half must stay, so the number does not change.
        let slow = timeline(Some("up=0s/2@15s:down=30s/50%@60s"));
        assert_eq!(slow[..12], [1, 3, 5, 7, 7, 2, 2, 2, 2, 1, 1, 1]);
        // The stabilisation window of a minute is longer than the load lasts, so the law never scales up.
        assert_eq!(timeline(Some("up=60s"))[..12], [1; 12]);
    }
}
