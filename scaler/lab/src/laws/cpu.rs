//! `cpu`: the Kubernetes HPA on processor use, with its `behavior` or without, which is not the same as with the defaults.
//!
//! Source: Kubernetes 1.36, pkg/controller/podautoscaler, horizontal.go and replica_calculator.go, with the defaults of
//! kube-controller-manager.

use super::behavior::Behavior;
use crate::pods::{Pod, Stage, Usage};
use law::cadence::Cadence;
use law::observation::Observation;
use law::table::Recommendation;
use law::window::Window;
use std::time::Duration;

const SYNC: Duration = Duration::from_secs(15);
const TOLERANCE: f64 = 0.1;
const DOWNSCALE_STABILISATION: Duration = Duration::from_secs(300);
const CPU_INITIALISATION: Duration = Duration::from_secs(300);
const INITIAL_READINESS_DELAY: Duration = Duration::from_secs(30);

/// The parameters of the law.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters {
    /// Utilisation to hold, percent of the request.
    pub percent: u32,
    /// Without one the HPA has other rules than with the defaults of one.
    pub behavior: Option<Behavior>,
}

/// Reads `cpu[:PERCENT[:BEHAVIOR]]`; `None` if the text names another law, or a parameter makes no sense.
pub fn parse(text: &str) -> Option<Parameters> {
    let parameters = match text.strip_prefix("cpu")? {
        "" => return Some(Parameters { percent: 70, behavior: None }),
        parameters => parameters.strip_prefix(':')?,
    };
    let (percent, behavior) = match parameters.split_once(':') {
        Some((percent, behavior)) => (percent, Some(behavior.parse().ok()?)),
        None => (parameters, None),
    };
    let percent = percent.parse().ok().filter(|percent| (1..=1000).contains(percent))?;
    Some(Parameters { percent, behavior })
}

/// The law with its memory.
#[derive(Debug)]
pub struct Cpu {
    /// Utilisation to hold, percent of the request.
    target: f64,
    min: usize,
    max: usize,
    behavior: Option<Behavior>,
    cadence: Cadence,
    /// What was recommended before stabilisation.
    recommendations: Window<usize>,
    /// What it added, or removed.
    changes: Window<isize>,
}

impl Cpu {
    /// Holds so many percent of what replicas request, between `min` and `max` of them.
    pub fn new(Parameters { percent, behavior }: Parameters, min: usize, max: usize) -> Self {
        let window = behavior.as_ref().map_or(DOWNSCALE_STABILISATION, Behavior::longest_window);
        let period = behavior.as_ref().map(Behavior::longest_period).unwrap_or_default();
        Self {
            target: f64::from(percent),
            min,
            max,
            behavior,
            cadence: Cadence::new(SYNC),
            recommendations: Window::new(window),
            changes: Window::new(period),
        }
    }

    /// Learns from an observation, and from the pods of that instant, and recommends a number of replicas.
    pub fn decide(&mut self, seen: &Observation, pods: &[Pod]) -> Recommendation {
        let Some(at) = self.cadence.due(seen.at) else { return Recommendation::waiting() };
        let current = seen.replicas.desired;
        if self.recommendations.newest().is_none() {
            self.recommendations.push(at, current);
        }
        let (wish, utilisation) = match current {
            0 => return Recommendation::no_data(),
            _ if current > self.max => (self.max, None),
            _ if current < self.min => (self.min, None),
            _ => match self.recommend(pods, current) {
                Some((wish, utilisation)) => (self.stabilise(at, wish, current), Some(utilisation)),
                None => return Recommendation::no_data(),
            },
        };
        self.changes.push(at, wish as isize - current as isize);
        let text = format!("{:.0} % of the processors in use", utilisation.unwrap_or_default());
        Recommendation::new(Some(wish), "processor", text)
    }

    /// Before stabilisation, and the utilisation in percent; nothing without any usable sample.
    fn recommend(&self, pods: &[Pod], current: usize) -> Option<(usize, f64)> {
        let (mut ready, mut missing, mut unready) = (Group::default(), Group::default(), Group::default());
        for pod in pods {
            let (group, cores) = match (pod.usage, pod.stage) {
                (None, Stage::Pending) => (&mut unready, 0.0),
                (None, _) => (&mut missing, 0.0),
                (Some(usage), _) if is_unready(pod, usage) => (&mut unready, 0.0),
                (Some(usage), _) => (&mut ready, usage.cores),
            };
            *group = Group { pods: group.pods + 1, used: group.used + cores, requested: group.requested + pod.request };
        }
        let within = |ratio: f64| (1.0 - TOLERANCE..=1.0 + TOLERANCE).contains(&ratio);
        if ready.pods == 0 {
            return None;
        }
        let utilisation = ready.utilisation();
        let ratio = utilisation / self.target;
        if missing.pods == 0 && !(unready.pods > 0 && ratio > 1.0) {
            let wish = if within(ratio) { current } else { (ratio * ready.pods as f64).ceil() as usize };
            return Some((wish, utilisation));
        }
        // What is not known counts against any change.
        let mut all = ready.and(missing);
        if ratio < 1.0 {
            all.used += missing.requested * self.target.max(100.0) / 100.0;
        } else if ratio > 1.0 {
            all = all.and(unready);
        }
        let careful = all.utilisation() / self.target;
        let wish = if within(careful) || (ratio < 1.0) != (careful < 1.0) {
            current
        } else {
            let wish = (careful * all.pods as f64).ceil() as usize;
            let contradicts = (careful < 1.0 && wish > current) || (careful > 1.0 && wish < current);
            if contradicts { current } else { wish }
        };
        Some((wish, utilisation))
    }

    /// As `behavior` says; without one the highest of the last five minutes, at most twice what there is, or four.
    fn stabilise(&mut self, at: Duration, wish: usize, current: usize) -> usize {
        if let Some(behavior) = &self.behavior {
            let limited = behavior.limit(at, wish, current, &self.recommendations, &self.changes);
            self.recommendations.push(at, wish);
            return limited.clamp(self.min, self.max);
        }
        self.recommendations.push(at, wish);
        let highest = self.recommendations.within(at, DOWNSCALE_STABILISATION).copied().max().unwrap_or(wish);
        highest.clamp(self.min, self.max.min((2 * current).max(4)).max(self.min))
    }
}

/// Some of the pods.
#[derive(Debug, Clone, Copy, Default)]
struct Group {
    pods: usize,
    /// Cores.
    used: f64,
    /// Cores.
    requested: f64,
}

impl Group {
    fn and(self, other: Self) -> Self {
        Self { pods: self.pods + other.pods, used: self.used + other.used, requested: self.requested + other.requested }
    }

    /// Whole percent.
    fn utilisation(self) -> f64 {
        // There these are whole thousandths of a core: 0.29 of one is 29 %, not the 28.999… of binary fractions.
        (100.0 * self.used / self.requested + 1e-9).trunc()
    }
}

/// Whether a pod with a sample is too young for it to count.
fn is_unready(pod: &Pod, usage: Usage) -> bool {
    let is_young = pod.age < CPU_INITIALISATION;
    match pod.stage {
        Stage::Pending => true,
        // The sample must begin after the pod became ready.
        Stage::Ready(since) => is_young && usage.age + usage.window > since,
        // Or it never was ready for longer than it takes to become so.
        Stage::Unready(since) => is_young || since + INITIAL_READINESS_DELAY > pod.age,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use law::observation::Replicas;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn pod(cores: Option<f64>) -> Pod {
        let usage = cores.map(|cores| Usage { cores, age: S(5), window: S(15) });
        Pod { age: S(900), stage: Stage::Ready(S(890)), request: 1.0, usage }
    }

    fn starting() -> Pod {
        Pod { age: S(2), stage: Stage::Pending, usage: None, ..pod(None) }
    }

    fn unready(age: u64, since: u64, cores: Option<f64>) -> Pod {
        Pod { age: S(age), stage: Stage::Unready(S(since)), ..pod(cores) }
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
            // One starting: 1.8 > 1, so it counts as idle: 90 ÷ 100 = 0.9 of 2, within the tolerance.
            (vec![pod(Some(0.9)), starting()], Some(2)),
            // Idle and one starting: it does not count.
            (vec![pod(Some(0.1)), starting()], Some(1)),
            // One without a sample counts as fully used when the others are idle: (20 + 100) ÷ 2 = 60: other side.
            (vec![pod(Some(0.2)), pod(None)], Some(2)),
            // And as idle when they are busy: 95 ÷ 2 = 47, other side.
            (vec![pod(Some(0.95)), pod(None)], Some(2)),
            // Running and not ready yet is missing too, until there is a sample of it.
            (vec![pod(Some(0.2)), unready(20, 20, None)], Some(2)),
            (vec![pod(Some(0.2)), unready(20, 20, Some(0.9))], Some(1)),
            // It was ready for ten minutes: its sample counts. (20 + 90) ÷ 2 = 55 is within the tolerance of 50.
            (vec![pod(Some(0.2)), unready(900, 300, Some(0.9))], Some(2)),
            // It never was.
            (vec![pod(Some(0.2)), unready(900, 890, Some(0.9))], Some(1)),
            // Of half a core each, and of one and a half in all: 90 of 150 is 60.
            (vec![Pod { request: 0.5, ..pod(Some(0.45)) }; 2], Some(4)),
            (vec![pod(Some(0.45)), Pod { request: 0.5, ..pod(Some(0.45)) }], Some(3)),
            (vec![pod(None)], None),
            (vec![], None),
        ];
        for (pods, expected) in rows {
            assert_eq!(law.recommend(&pods, pods.len()).map(|found| found.0), expected, "{pods:?}");
        }
    }

    #[test]
    fn a_sample_from_before_it_was_ready_does_not_count() {
        let usage = Usage { cores: 0.9, age: S(5), window: S(15) };
        let young = |since| Pod { age: S(40), stage: Stage::Ready(S(since)), ..pod(None) };
        assert!(is_unready(&young(18), usage), "the sample began 20 s ago");
        assert!(!is_unready(&young(25), usage));
    }

    fn law(behavior: Option<&str>) -> Cpu {
        let behavior = behavior.map(|text| text.parse().expect("a behavior"));
        Cpu::new(Parameters { percent: 50, behavior }, 1, 20)
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

    /// What becomes of one replica while each has 6 cores of work for 45 s, and hardly any after that.
    fn timeline(behavior: Option<&str>) -> Vec<usize> {
        let mut law = law(behavior);
        let mut desired = 1;
        let mut timeline = Vec::new();
        for tick in 0..45 {
            let cores = if tick < 4 { 6.0 } else { 0.1 };
            let seen = Observation {
                // A little early or late, as ticks are.
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
        // From 1 to 4 (12 wanted), to 8 (48 wanted), and in the next tick 96, so 16; idle since 60 s.
        assert_eq!(timeline[..5], [1, 4, 8, 16, 20]);
        assert_eq!(timeline[22], 20, "the wish of 45 s holds until 345 s");
        assert_eq!(timeline[44], 1, "⌈0.2 · 20⌉ = 4, then 1");
    }

    #[test]
    fn with_behavior_up_to_five_at_once_and_down_as_it_says() {
        let default = timeline(Some("behavior"));
        assert_eq!(default[..5], [1, 5, 10, 20, 20]);
        assert_eq!((default[22], default[44]), (20, 1));
        // At 75 s three are left of a minute ago, and half of them may go; at 105 s one would do, but a minute ago there
        // were seven, so that only three may be left: there are two already.
        let slow = timeline(Some("up=0s/2@15s:down=30s/50%@60s"));
        assert_eq!(slow[..12], [1, 3, 5, 7, 7, 2, 2, 2, 2, 1, 1, 1]);
        // A minute of hesitation from one on is longer than the work lasts.
        assert_eq!(timeline(Some("up=60s"))[..12], [1; 12]);
    }
}
