//! The `behavior` of a Kubernetes HPA: stabilisation windows and scaling policies for scaling up and scaling down.
//! Pure.
//!
//! Source: Kubernetes 1.36, pkg/controller/podautoscaler, horizontal.go, normalizeDesiredReplicasWithBehaviors;
//! defaults and bounds from pkg/apis/autoscaling.
//!
//! A behavior is written `up=RULES:down=RULES`. Slashes separate the rules, whose order does not matter. The rules are:
//!
//! - a stabilisation window, such as `60s`;
//! - scaling policies, such as `4@15s` (4 pods in 15 s) or `100%@15s` (100 % of the pods in 15 s);
//! - the choice among the policies: `max`, `min` or `disabled`;
//! - the tolerance, such as `tolerance=0.05`.
//!
//! A rule that is left out has its default. The word `behavior` alone stands for the defaults.

use law::window::Window;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The HPA changes nothing if utilisation ÷ target differs from 1 by this or less, unless its rules say otherwise:
/// `--horizontal-pod-autoscaler-tolerance`.
pub const TOLERANCE: f64 = 0.1;

/// The longest stabilisation window that Kubernetes accepts.
pub const MAX_WINDOW: Duration = Duration::from_secs(3600);

/// The longest period of a scaling policy that Kubernetes accepts.
pub const MAX_PERIOD: Duration = Duration::from_secs(1800);

/// The largest number of scaling policies in one direction that is accepted.
const MAX_POLICIES: usize = 8;

/// The scaling rules of an HPA, in both directions.
#[derive(Debug, Clone, PartialEq)]
pub struct Behavior {
    /// The rules for scaling up: Kubernetes' `scaleUp`.
    pub up: ScalingRules,
    /// The rules for scaling down: Kubernetes' `scaleDown`.
    pub down: ScalingRules,
}

/// The scaling rules in one direction: Kubernetes' `HPAScalingRules`.
#[derive(Debug, Clone, PartialEq)]
pub struct ScalingRules {
    /// The stabilisation window. The HPA scales up no further than to the lowest recommendation within this time, and
    /// down no further than to the highest.
    pub window: Duration,
    /// The choice of the scaling policy that applies.
    pub select: SelectPolicy,
    /// The scaling policies, at least one.
    pub policies: Vec<ScalingPolicy>,
    /// The HPA does not scale in this direction if utilisation ÷ target differs from 1 by this or less.
    pub tolerance: f64,
}

/// The choice of the scaling policy that applies: Kubernetes' `selectPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelectPolicy {
    /// The policy that allows the greatest change.
    Max,
    /// The policy that allows the smallest change.
    Min,
    /// No policy applies: the HPA does not scale in this direction.
    Disabled,
}

/// A limit on the changes within a period: Kubernetes' `HPAScalingPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScalingPolicy {
    /// The greatest sum of changes within the period.
    pub value: PolicyValue,
    /// The length of the period. The period ends now.
    pub period: Duration,
}

/// The greatest change that a scaling policy allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyValue {
    /// A number of pods.
    Pods(u32),
    /// A percentage of the number of pods at the beginning of the period.
    Percent(u32),
}

impl Default for Behavior {
    fn default() -> Self {
        let period = Duration::from_secs(15);
        let all = ScalingPolicy { value: PolicyValue::Percent(100), period };
        let four = ScalingPolicy { value: PolicyValue::Pods(4), period };
        let rules = |seconds, policies| {
            let window = Duration::from_secs(seconds);
            ScalingRules { window, select: SelectPolicy::Max, policies, tolerance: TOLERANCE }
        };
        Self { up: rules(0, vec![four, all]), down: rules(300, vec![all]) }
    }
}

impl Behavior {
    /// The longest stabilisation window of both directions.
    pub fn longest_window(&self) -> Duration {
        self.up.window.max(self.down.window)
    }

    /// The longest period of all scaling policies.
    pub fn longest_period(&self) -> Duration {
        let policies = self.up.policies.iter().chain(&self.down.policies);
        policies.map(|policy| policy.period).max().unwrap_or_default()
    }

    /// The number of replicas after the rules, when a law recommends `recommended` replicas at the time `at` and there
    /// are `current` replicas. `recommendations` has the earlier recommendations, and `changes` the earlier changes;
    /// a change is positive if replicas were added.
    pub fn limit(
        &self,
        at: Duration,
        recommended: usize,
        current: usize,
        recommendations: &Window<usize>,
        changes: &Window<isize>,
    ) -> usize {
        let since = |window| recommendations.within(at, window).copied().chain([recommended]);
        let up = since(self.up.window).min().unwrap_or(recommended);
        let down = since(self.down.window).max().unwrap_or(recommended);
        let stable = current.max(up).min(down);
        let at_period_start = |period| current as isize - changes.within(at, period).sum::<isize>();
        if stable > current {
            stable.min(self.up.highest(current, at_period_start))
        } else {
            stable.max(self.down.lowest(current, at_period_start))
        }
    }
}

impl ScalingRules {
    /// The highest number of replicas that these rules for scaling up allow. `at_period_start` returns the number of
    /// replicas at the beginning of a period of the given length that ends now.
    fn highest(&self, current: usize, at_period_start: impl Fn(Duration) -> isize) -> usize {
        let allowed = self.policies.iter().map(|policy| match (policy.value, at_period_start(policy.period)) {
            (PolicyValue::Pods(pods), start) => start + pods as isize,
            // ceil, as otherwise a small percentage of a few replicas would never add a replica.
            (PolicyValue::Percent(percent), start) => {
                (start as f64 * (1.0 + f64::from(percent) / 100.0)).ceil() as isize
            }
        });
        let highest = match self.select {
            SelectPolicy::Max => allowed.max(),
            SelectPolicy::Min => allowed.min(),
            SelectPolicy::Disabled => None,
        };
        highest.and_then(|highest| usize::try_from(highest).ok()).unwrap_or(current).max(current)
    }

    /// The lowest number of replicas that these rules for scaling down allow. `at_period_start` returns the number of
    /// replicas at the beginning of a period of the given length that ends now.
    fn lowest(&self, current: usize, at_period_start: impl Fn(Duration) -> isize) -> usize {
        let allowed = self.policies.iter().map(|policy| match (policy.value, at_period_start(policy.period)) {
            (PolicyValue::Pods(pods), start) => start - pods as isize,
            (PolicyValue::Percent(percent), start) => (start as f64 * (1.0 - f64::from(percent) / 100.0)) as isize,
        });
        let lowest = match self.select {
            SelectPolicy::Max => allowed.min(),
            SelectPolicy::Min => allowed.max(),
            SelectPolicy::Disabled => return current,
        };
        usize::try_from(lowest.unwrap_or(current as isize).max(0)).unwrap_or_default().min(current)
    }

    /// These rules, where the rules in `text` replace the ones of the same type. `None` if a part of the text is no
    /// rule or out of range, if there are more than [`MAX_POLICIES`] policies, or if a window, a choice or a
    /// tolerance is given twice.
    fn with(self, text: &str) -> Option<Self> {
        let (mut window, mut select, mut tolerance, mut policies) = (None, None, None, Vec::new());
        for part in text.split('/') {
            if let Some(given) = part.strip_prefix("tolerance=") {
                let given = given.parse().ok().filter(|tolerance: &f64| (0.0..=100.0).contains(tolerance))?;
                if tolerance.replace(given).is_some() {
                    return None;
                }
                continue;
            }
            let is_new = match (SelectPolicy::parse(part), part.split_once('@')) {
                (Some(policy), _) => select.replace(policy).is_none(),
                (None, Some((value, period))) => {
                    policies.push(ScalingPolicy::parse(value, period)?);
                    policies.len() <= MAX_POLICIES
                }
                (None, None) => {
                    let given = humantime::parse_duration(part).ok().filter(|&window| window <= MAX_WINDOW)?;
                    window.replace(given).is_none()
                }
            };
            if !is_new {
                return None;
            }
        }
        Some(Self {
            window: window.unwrap_or(self.window),
            select: select.unwrap_or(self.select),
            policies: if policies.is_empty() { self.policies } else { policies },
            tolerance: tolerance.unwrap_or(self.tolerance),
        })
    }

    /// The rules that differ from `default`, in the format that [`Self::with`] parses.
    fn differences(&self, default: &Self) -> String {
        let mut parts = Vec::new();
        if self.window != default.window {
            parts.push(humantime::format_duration(self.window).to_string());
        }
        if self.policies != default.policies {
            parts.extend(self.policies.iter().map(ToString::to_string));
        }
        if self.select != default.select {
            parts.push(self.select.to_string());
        }
        if self.tolerance != default.tolerance {
            parts.push(format!("tolerance={}", self.tolerance));
        }
        parts.join("/")
    }
}

impl SelectPolicy {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "max" => Some(Self::Max),
            "min" => Some(Self::Min),
            "disabled" => Some(Self::Disabled),
            _ => None,
        }
    }
}

impl fmt::Display for SelectPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Max => "max",
            Self::Min => "min",
            Self::Disabled => "disabled",
        })
    }
}

impl ScalingPolicy {
    fn parse(value: &str, period: &str) -> Option<Self> {
        let period = humantime::parse_duration(period).ok()?;
        if period < Duration::from_secs(1) || period > MAX_PERIOD {
            return None;
        }
        let number = |text: &str| text.parse().ok().filter(|number| (1..=100_000).contains(number));
        let value = match value.strip_suffix('%') {
            Some(percent) => PolicyValue::Percent(number(percent)?),
            None => PolicyValue::Pods(number(value)?),
        };
        Some(Self { value, period })
    }
}

impl fmt::Display for ScalingPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let period = humantime::format_duration(self.period);
        match self.value {
            PolicyValue::Pods(pods) => write!(f, "{pods}@{period}"),
            PolicyValue::Percent(percent) => write!(f, "{percent}%@{period}"),
        }
    }
}

/// The error for a text that is no behavior.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidBehavior;

impl FromStr for Behavior {
    type Err = InvalidBehavior;

    fn from_str(text: &str) -> Result<Self, InvalidBehavior> {
        let default = Self::default();
        if text == "behavior" {
            return Ok(default);
        }
        let (up, down) = match text.split_once(':') {
            Some((up, down)) => (Some(up.strip_prefix("up=").ok_or(InvalidBehavior)?), down.strip_prefix("down=")),
            None => (text.strip_prefix("up="), text.strip_prefix("down=")),
        };
        if up.is_none() && down.is_none() || text.contains(':') && down.is_none() {
            return Err(InvalidBehavior);
        }
        let read = |default: ScalingRules, text: Option<&str>| match text {
            Some(text) => default.with(text).ok_or(InvalidBehavior),
            None => Ok(default),
        };
        Ok(Self { up: read(default.up, up)?, down: read(default.down, down)? })
    }
}

impl fmt::Display for Behavior {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = Self::default();
        let directions = [("up", &self.up, &default.up), ("down", &self.down, &default.down)];
        let written = directions.into_iter().filter(|(_, rules, default)| rules != default);
        let written: Vec<String> =
            written.map(|(name, rules, default)| format!("{name}={}", rules.differences(default))).collect();
        if written.is_empty() { write!(f, "behavior") } else { write!(f, "{}", written.join(":")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn window<T: Copy>(entries: &[(u64, T)]) -> Window<T> {
        let mut window = Window::new(MAX_WINDOW);
        entries.iter().for_each(|&(second, value)| window.push(S(second), value));
        window
    }

    fn behavior(text: &str) -> Behavior {
        text.parse().unwrap_or_else(|InvalidBehavior| panic!("{text:?} is a behavior"))
    }

    /// A behavior, the recommended replicas, the current replicas, the earlier changes as `(second, change)`, and the
    /// expected replicas.
    type LimitRow<'a> = (&'a str, usize, usize, &'a [(u64, isize)], usize);

    /// A behavior, the earlier recommendations as `(second, replicas)`, the recommended replicas now, and the expected
    /// replicas.
    type StabilisationRow<'a> = (&'a str, &'a [(u64, usize)], usize, usize);

    #[test]
    fn scaling_policies_limit_changes_as_computed_by_hand() {
        // The time of all rows is second 100.
        let rows: [LimitRow; 22] = [
            // By default, the HPA may add four replicas or double their number. Four is more for one replica, and
            // double is more for five.
            ("behavior", 20, 1, &[], 5),
            ("behavior", 20, 5, &[], 10),
            ("behavior", 3, 1, &[], 3),
            ("behavior", 20, 20, &[], 20),
            // The change at second 90 lies within the period of 15 s: it began with 5 - 4 = 1 replica, so at most 5 are
            // allowed. The change at second 85 does not lie within the period.
            ("behavior", 20, 5, &[(90, 4)], 5),
            ("behavior", 20, 5, &[(85, 4)], 10),
            // Four replicas were added and one was removed. The period began with 4 - 4 + 1 = 1 replica, so at most 5
            // are allowed.
            ("behavior", 20, 4, &[(90, 4), (95, -1)], 5),
            // By default, all replicas may be removed at once.
            ("behavior", 1, 20, &[], 1),
            ("up=0s/2@60s", 20, 3, &[], 5),
            ("up=0s/2@60s", 20, 5, &[(50, 2)], 5),
            ("up=0s/2@60s", 20, 5, &[(30, 2)], 7),
            // The policies allow ⌈5 · 1.5⌉ = 8 and 5 + 1 = 6 replicas.
            ("up=0s/50%@15s/1@15s", 20, 5, &[], 8),
            ("up=0s/50%@15s/1@15s/min", 20, 5, &[], 6),
            ("up=disabled", 20, 5, &[], 5),
            ("down=0s/1@60s", 1, 5, &[], 4),
            ("down=0s/1@60s", 1, 4, &[(70, -1)], 4),
            // The policies allow ⌊5 · 0.7⌋ = 3 and 5 - 1 = 4 replicas.
            ("down=0s/30%@15s/1@15s", 1, 5, &[], 3),
            ("down=0s/30%@15s/1@15s/min", 1, 5, &[], 4),
            ("down=0s/300%@15s", 0, 5, &[], 0),
            ("down=disabled", 1, 5, &[], 5),
            // The period began with one replica, so the policy allows 1 - 1 = 0 replicas. One replica is recommended.
            ("down=0s/1@60s", 1, 5, &[(90, 4)], 1),
            // The period began with ten replicas, so nine must stay. There are only two: limits on scaling down never
            // scale up.
            ("down=0s/1@60s", 1, 2, &[(90, -8)], 2),
        ];
        for (text, recommended, current, changes, expected) in rows {
            let found =
                behavior(text).limit(S(100), recommended, current, &window(&[(0, recommended)]), &window(changes));
            assert_eq!(found, expected, "{text}: {recommended} of {current} after {changes:?}");
        }
    }

    #[test]
    fn stabilisation_windows_limit_changes_as_computed_by_hand() {
        // The time of all rows is second 600, and there are nine replicas.
        let rows: [StabilisationRow; 9] = [
            ("behavior", &[(590, 2)], 12, 12),
            ("behavior", &[(290, 9), (400, 6)], 4, 6),
            ("behavior", &[(290, 9), (300, 8)], 4, 4),
            // Scaling up may reach 7 replicas at most, and scaling down 12 at least. So nothing changes.
            ("up=60s:down=60s", &[(550, 7), (580, 12)], 10, 9),
            ("up=60s", &[(550, 10), (580, 14)], 12, 10),
            ("up=60s", &[(540, 10), (580, 14)], 12, 12),
            ("down=60s", &[(545, 5), (580, 3)], 2, 5),
            ("down=0s", &[(590, 9)], 2, 2),
            ("up=3600s", &[(0, 1)], 12, 9),
        ];
        for (text, recommendations, recommended, expected) in rows {
            let found = behavior(text).limit(S(600), recommended, 9, &window(recommendations), &window(&[]));
            assert_eq!(found, expected, "{text}: {recommended} after {recommendations:?}");
        }
    }

    #[test]
    fn behaviors_are_parsed_and_printed() {
        for text in [
            "behavior",
            "up=1m",
            "down=1m",
            "up=2@1m/min:down=1m/10%@1m/1@15s",
            "up=disabled:down=0s",
            "up=tolerance=0:down=1m/tolerance=0.05",
        ] {
            assert_eq!(behavior(text).to_string(), text);
        }
        assert_eq!(behavior("up=0s:down=300s"), Behavior::default());
        assert_eq!(behavior("up=100%@15s/4@15s").up.policies.len(), 2);
        assert_eq!(behavior("down=60s").down.window, S(60));
        assert_eq!((behavior("up=30s").longest_window(), behavior("up=9@60s").longest_period()), (S(300), S(60)));
        let many = format!("up={}", ["1@1s"; 9].join("/"));
        for text in [
            "",
            "up",
            "up=",
            "down=",
            "up=0s:",
            "up=0s:up=0s",
            "down=0s:up=0s",
            "up=0s:down=0s:up=0s",
            "behavior:up=0s",
            "up=-1s",
            "up=61m",
            "up=5",
            "up=0s/0s",
            "up=max/min",
            "up=4@",
            "up=@15s",
            "up=0@15s",
            "up=-4@15s",
            "up=4@0s",
            "up=4@31m",
            "up=4%%@15s",
            "up=%@15s",
            "up=4.5@15s",
            "up=4@15s/",
            "up=often",
            "up=tolerance=",
            "up=tolerance=-0.1",
            "up=tolerance=NaN",
            "up=tolerance=0/tolerance=0",
            "up=4@15s@15s",
            "up=99999999999@15s",
            &many,
        ] {
            assert_eq!(text.parse::<Behavior>(), Err(InvalidBehavior), "{text:?}");
        }
    }
}
