//! PURE: an HPA's `behavior`: how long it hesitates, and how far it goes at once, up and down.
//!
//! Source: Kubernetes 1.36, pkg/controller/podautoscaler, horizontal.go, normalizeDesiredReplicasWithBehaviors; defaults
//! and bounds from pkg/apis/autoscaling.
//!
//! Written `up=RULES:down=RULES`, with as many rules of each kind as differ from the defaults, in any order and separated
//! by slashes: a stabilisation window (`60s`), policies (`4@15s` replicas or `100%@15s` of them in a period), and which of
//! the policies counts (`max`, `min`, or `disabled` for none). `behavior` alone means the defaults.

use law::window::Window;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Longest stabilisation window.
const LONGEST_WINDOW: Duration = Duration::from_secs(3600);

/// Longest period of a policy.
const LONGEST_PERIOD: Duration = Duration::from_secs(1800);

/// More policies than that in one direction are a mistake.
const MOST_POLICIES: usize = 8;

/// In both directions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behavior {
    /// `scaleUp`
    pub up: Rules,
    /// `scaleDown`
    pub down: Rules,
}

/// In one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Not further than the most careful recommendation of this long.
    pub window: Duration,
    /// Which of the policies counts.
    pub select: Select,
    /// At least one, unless none counts.
    pub policies: Vec<Policy>,
}

/// `selectPolicy`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Select {
    /// The one that goes furthest.
    Max,
    /// The one that goes least far.
    Min,
    /// Nothing is changed in this direction.
    Disabled,
}

/// How far in what time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// At most so much.
    pub change: Change,
    /// Since then, earlier steps included.
    pub period: Duration,
}

/// How far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// So many replicas.
    Replicas(u32),
    /// This part of those at the beginning of the period.
    Percent(u32),
}

impl Default for Behavior {
    fn default() -> Self {
        let period = Duration::from_secs(15);
        let all = Policy { change: Change::Percent(100), period };
        let rules = |seconds, policies| Rules { window: Duration::from_secs(seconds), select: Select::Max, policies };
        Self { up: rules(0, vec![Policy { change: Change::Replicas(4), period }, all]), down: rules(300, vec![all]) }
    }
}

impl Behavior {
    /// The longest that earlier recommendations count.
    pub fn longest_window(&self) -> Duration {
        self.up.window.max(self.down.window)
    }

    /// The longest that earlier changes count.
    pub fn longest_period(&self) -> Duration {
        let policies = self.up.policies.iter().chain(&self.down.policies);
        policies.map(|policy| policy.period).max().unwrap_or_default()
    }

    /// What becomes of a recommendation, from the recommendations and the changes (added ones positive) before it.
    pub fn limit(
        &self,
        at: Duration,
        wish: usize,
        current: usize,
        recommendations: &Window<usize>,
        changes: &Window<isize>,
    ) -> usize {
        let since = |window| recommendations.within(at, window).copied();
        let up = since(self.up.window).chain([wish]).min().unwrap_or(wish);
        let down = since(self.down.window).chain([wish]).max().unwrap_or(wish);
        let stable = current.max(up).min(down);
        let start = |period| current as isize - changes.within(at, period).sum::<isize>();
        if stable > current {
            stable.min(self.up.most(current, start))
        } else {
            stable.max(self.down.least(current, start))
        }
    }
}

impl Rules {
    /// How far up, from what there was at the `start` of a period.
    fn most(&self, current: usize, start: impl Fn(Duration) -> isize) -> usize {
        let proposals = self.policies.iter().map(|policy| match (policy.change, start(policy.period)) {
            (Change::Replicas(more), start) => start + more as isize,
            // ceil, or a small share of a few replicas would be nothing for ever.
            (Change::Percent(more), start) => (start as f64 * (1.0 + f64::from(more) / 100.0)).ceil() as isize,
        });
        let most = match self.select {
            Select::Max => proposals.max(),
            Select::Min => proposals.min(),
            Select::Disabled => None,
        };
        most.and_then(|most| usize::try_from(most).ok()).unwrap_or(current).max(current)
    }

    /// How far down.
    fn least(&self, current: usize, start: impl Fn(Duration) -> isize) -> usize {
        let proposals = self.policies.iter().map(|policy| match (policy.change, start(policy.period)) {
            (Change::Replicas(fewer), start) => start - fewer as isize,
            (Change::Percent(fewer), start) => (start as f64 * (1.0 - f64::from(fewer) / 100.0)) as isize,
        });
        let least = match self.select {
            Select::Max => proposals.min(),
            Select::Min => proposals.max(),
            Select::Disabled => return current,
        };
        usize::try_from(least.unwrap_or(current as isize).max(0)).unwrap_or_default().min(current)
    }

    /// These, where `text` says otherwise; nothing if it says anything that there is not.
    fn but(self, text: &str) -> Option<Self> {
        let (mut window, mut select, mut policies) = (None, None, Vec::new());
        for part in text.split('/') {
            let word = match part {
                "max" => Some(Select::Max),
                "min" => Some(Select::Min),
                "disabled" => Some(Select::Disabled),
                _ => None,
            };
            let is_new = match (word, part.split_once('@')) {
                (Some(word), _) => select.replace(word).is_none(),
                (None, Some((change, period))) => {
                    policies.push(policy(change, period)?);
                    policies.len() <= MOST_POLICIES
                }
                (None, None) => {
                    let found = humantime::parse_duration(part).ok().filter(|&window| window <= LONGEST_WINDOW)?;
                    window.replace(found).is_none()
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
        })
    }

    /// What is not as by default, as it is read.
    fn over(&self, default: &Self) -> String {
        let mut parts = Vec::new();
        if self.window != default.window {
            parts.push(humantime::format_duration(self.window).to_string());
        }
        if self.policies != default.policies {
            parts.extend(self.policies.iter().map(|Policy { change, period }| {
                let period = humantime::format_duration(*period);
                match change {
                    Change::Replicas(replicas) => format!("{replicas}@{period}"),
                    Change::Percent(percent) => format!("{percent}%@{period}"),
                }
            }));
        }
        match self.select {
            select if select == default.select => {}
            Select::Max => parts.push("max".into()),
            Select::Min => parts.push("min".into()),
            Select::Disabled => parts.push("disabled".into()),
        }
        parts.join("/")
    }
}

fn policy(change: &str, period: &str) -> Option<Policy> {
    let period = humantime::parse_duration(period).ok()?;
    if period < Duration::from_secs(1) || period > LONGEST_PERIOD {
        return None;
    }
    let number = |text: &str| text.parse().ok().filter(|number| (1..=100_000).contains(number));
    let change = match change.strip_suffix('%') {
        Some(percent) => Change::Percent(number(percent)?),
        None => Change::Replicas(number(change)?),
    };
    Some(Policy { change, period })
}

/// No such behavior.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unknown;

impl FromStr for Behavior {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        let default = Self::default();
        if text == "behavior" {
            return Ok(default);
        }
        let (up, down) = match text.split_once(':') {
            Some((up, down)) => (Some(up.strip_prefix("up=").ok_or(Unknown)?), down.strip_prefix("down=")),
            None => (text.strip_prefix("up="), text.strip_prefix("down=")),
        };
        if up.is_none() && down.is_none() || text.contains(':') && down.is_none() {
            return Err(Unknown);
        }
        let read = |default: Rules, text: Option<&str>| match text {
            Some(text) => default.but(text).ok_or(Unknown),
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
            written.map(|(name, rules, default)| format!("{name}={}", rules.over(default))).collect();
        if written.is_empty() { write!(f, "behavior") } else { write!(f, "{}", written.join(":")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn window<T: Copy>(entries: &[(u64, T)]) -> Window<T> {
        let mut window = Window::new(LONGEST_WINDOW);
        entries.iter().for_each(|&(second, value)| window.push(S(second), value));
        window
    }

    fn behavior(text: &str) -> Behavior {
        text.parse().unwrap_or_else(|Unknown| panic!("{text:?}"))
    }

    /// Behavior, wish, present number, earlier changes (second, by how many), what becomes of the wish.
    type Step<'a> = (&'a str, usize, usize, &'a [(u64, isize)], usize);

    /// Behavior, earlier recommendations (second, how many), wish, what becomes of it.
    type Patience<'a> = (&'a str, &'a [(u64, usize)], usize, usize);

    #[test]
    fn hand_computed_steps() {
        // At second 100: the behavior, what is wanted, what there is, what was added or removed when, what becomes of it.
        let rows: [Step; 22] = [
            // 1 + 4 > 2 · 1; from five on twice as many is more.
            ("behavior", 20, 1, &[], 5),
            ("behavior", 20, 5, &[], 10),
            ("behavior", 3, 1, &[], 3),
            ("behavior", 20, 20, &[], 20),
            // The four of 10 s ago were the period's; 15 s ago is the last period. 5 - 4 = 1, so 5.
            ("behavior", 20, 5, &[(90, 4)], 5),
            ("behavior", 20, 5, &[(85, 4)], 10),
            // One was taken away again meanwhile: 4 - 4 + 1 = 1, so 5.
            ("behavior", 20, 4, &[(90, 4), (95, -1)], 5),
            // All may go at once, by default.
            ("behavior", 1, 20, &[], 1),
            ("up=0s/2@60s", 20, 3, &[], 5),
            ("up=0s/2@60s", 20, 5, &[(50, 2)], 5),
            ("up=0s/2@60s", 20, 5, &[(30, 2)], 7),
            // ⌈5 · 1.5⌉ = 8 or 5 + 1.
            ("up=0s/50%@15s/1@15s", 20, 5, &[], 8),
            ("up=0s/50%@15s/1@15s/min", 20, 5, &[], 6),
            ("up=disabled", 20, 5, &[], 5),
            ("down=0s/1@60s", 1, 5, &[], 4),
            ("down=0s/1@60s", 1, 4, &[(70, -1)], 4),
            // ⌊5 · 0.7⌋ = 3 or 5 - 1.
            ("down=0s/30%@15s/1@15s", 1, 5, &[], 3),
            ("down=0s/30%@15s/1@15s/min", 1, 5, &[], 4),
            ("down=0s/300%@15s", 0, 5, &[], 0),
            ("down=disabled", 1, 5, &[], 5),
            // Four came 10 s ago, so only one was there, and all of them may go.
            ("down=0s/1@60s", 1, 5, &[(90, 4)], 1),
            // Nine might be left of ten, but there are two: down is never up.
            ("down=0s/1@60s", 1, 2, &[(90, -8)], 2),
        ];
        for (text, wish, current, changes, expected) in rows {
            let found = behavior(text).limit(S(100), wish, current, &window(&[(0, wish)]), &window(changes));
            assert_eq!(found, expected, "{text}: {wish} of {current} after {changes:?}");
        }
    }

    #[test]
    fn hand_computed_hesitation() {
        // At second 600, with nine there: what was recommended when, what is now, what becomes of it.
        let rows: [Patience; 9] = [
            ("behavior", &[(590, 2)], 12, 12),
            ("behavior", &[(290, 9), (400, 6)], 4, 6),
            ("behavior", &[(290, 9), (300, 8)], 4, 4),
            // Between the most careful of either window nothing changes.
            ("up=60s:down=60s", &[(550, 7), (580, 12)], 10, 9),
            ("up=60s", &[(550, 10), (580, 14)], 12, 10),
            ("up=60s", &[(540, 10), (580, 14)], 12, 12),
            ("down=60s", &[(545, 5), (580, 3)], 2, 5),
            ("down=0s", &[(590, 9)], 2, 2),
            ("up=3600s", &[(0, 1)], 12, 9),
        ];
        for (text, recommendations, wish, expected) in rows {
            let found = behavior(text).limit(S(600), wish, 9, &window(recommendations), &window(&[]));
            assert_eq!(found, expected, "{text}: {wish} after {recommendations:?}");
        }
    }

    #[test]
    fn behavior_is_read_and_written() {
        for text in ["behavior", "up=1m", "down=1m", "up=2@1m/min:down=1m/10%@1m/1@15s", "up=disabled:down=0s"] {
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
            "up=4@15s@15s",
            "up=99999999999@15s",
            &many,
        ] {
            assert_eq!(text.parse::<Behavior>(), Err(Unknown), "{text:?}");
        }
    }
}
