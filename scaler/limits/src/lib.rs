//! Limits between a recommendation and the target: bounds, rates, and a stabilisation window before scaling down.
//! Limits also keep the replicas that are at work, and respect what the cluster can place. They apply after every law.
//! All code here is pure: nothing reads a clock, a socket or the environment.

pub mod ceiling;
pub mod placement;

use ceiling::{Ceiling, Reached};
use law::observation::Observation;
use law::window::Window;
use serde::Serialize;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::time::Duration;

/// The time over which added and removed replicas count towards the rates.
const RATE_WINDOW: Duration = Duration::from_secs(60);

/// The settings of the limits.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The fewest replicas that may be desired.
    pub min: usize,
    /// The most replicas that may be desired.
    pub max: usize,
    /// The stabilisation window. Replicas are removed only down to the highest recommendation within this time.
    pub down_window: Duration,
    /// A time without observations that is longer than this is an outage.
    pub outage: Duration,
    /// The time after the start, an outage and a partial observation in which no replica that serves or is starting is
    /// removed, unless there are more than `max`. Blocked replicas are withdrawn in that time, too.
    pub settle: Duration,
    /// The most replicas that may be added in a minute.
    pub up_rate: usize,
    /// The most replicas that may be removed in a minute.
    pub down_rate: usize,
    /// Whether the limits also consider requests and placement.
    pub guard: Guard,
}

/// Whether the limits also consider requests and placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Replicas that the present requests occupy stay, lost replicas are replaced, and no replicas are added beyond the
    /// [`ceiling`].
    On,
    /// Only the numbers of replicas count, as in other autoscalers.
    Off,
}

impl Limits {
    /// Only bounds, as for the laws of other autoscalers, which have stabilisation windows of their own.
    pub fn bounds(min: usize, max: usize) -> Self {
        Self {
            min,
            max,
            down_window: Duration::ZERO,
            outage: Duration::MAX,
            settle: Duration::ZERO,
            up_rate: usize::MAX,
            down_rate: usize::MAX,
            guard: Guard::Off,
        }
    }

    fn clamp(&self, replicas: usize) -> usize {
        replicas.clamp(self.min, self.max)
    }
}

/// The limits with their state between decisions.
#[derive(Debug)]
pub struct Limiter {
    limits: Limits,
    ceiling: Ceiling,
    /// The time of the last observation, and its number of desired replicas.
    seen: Option<(Duration, usize)>,
    /// The end of [`Limits::settle`].
    settled_at: Duration,
    /// The recommendations within the stabilisation window, limited to the bounds.
    recommended: VecDeque<(Duration, usize)>,
    /// Replicas that were added (positive) or removed (negative) in the last minute, by any scaler. Observed changes
    /// count, since a decision may not have been carried out.
    changes: Window<isize>,
}

/// The limit that changed a recommendation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// No limit: the recommendation is granted.
    Granted,
    /// `--min` or `--max` limits the number.
    Bounded,
    /// Replicas stay because of a higher recommendation within the stabilisation window, or of a recent start, outage or
    /// partial observation.
    Stabilised,
    /// Replicas stay because the observation is partial: some dispatchers gave no figures.
    Partial,
    /// Replicas stay because the present requests occupy them.
    Occupied,
    /// No replicas are added, because replicas cannot be placed or keep dying.
    Full,
    /// No replicas are added, because those that were added last brought no more throughput.
    #[serde(rename = "useless")]
    NoGain,
    /// `--up-rate` or `--down-rate` limits the change.
    Paced,
}

impl Limit {
    /// The limit as the end of a sentence such as "9 recommended, but …"; `None` if the recommendation was granted.
    pub fn note(self) -> Option<&'static str> {
        Some(match self {
            Self::Granted => return None,
            Self::Bounded => "but --min or --max limits the number",
            Self::Stabilised => "but scaling down waits for --down-window, or for the pause after a start or an outage",
            Self::Partial => "but some dispatchers are silent, and their requests may need the other replicas",
            Self::Occupied => "but the present requests occupy more replicas",
            Self::Full => "but some replicas cannot be placed or keep dying; the scaler tries again later",
            Self::NoGain => "but the replicas added last brought no more throughput; the scaler tries again later",
            Self::Paced => "but --up-rate or --down-rate limits the change",
        })
    }
}

impl Limiter {
    /// Limits that have observed nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ceiling: Ceiling::default(),
            seen: None,
            settled_at: Duration::ZERO,
            recommended: VecDeque::new(),
            changes: Window::new(RATE_WINDOW),
        }
    }

    /// The desired replicas, and the limit that decided. A recommendation is a number of replicas that serve. Lost
    /// replicas stay desired until the cluster removes them, so they are added to it, up to the maximum. Without a
    /// recommendation, nothing changes.
    pub fn apply(&mut self, seen: &Observation, recommended: Option<usize>) -> (usize, Limit) {
        let (at, current) = (seen.at, seen.replicas.desired);
        let before = self.seen.replace((at, current));
        // The law knows little after a start or an outage, so it must not scale down then. After a partial observation,
        // its rates are too low.
        if seen.is_partial || before.is_none_or(|(then, _)| at.saturating_sub(then) > self.limits.outage) {
            self.settled_at = at + self.limits.settle;
        }
        if let Some((then, replicas)) = before.filter(|&(_, replicas)| replicas != current) {
            self.changes.push(then, current as isize - replicas as isize);
        }
        self.ceiling.watch(seen);
        let Some(recommended) = recommended else { return (current, Limit::Granted) };
        self.limit(seen, recommended)
    }

    /// The number of replicas that the cluster can hold; `None` while it is not known.
    pub fn ceiling(&self, at: Duration) -> Option<usize> {
        self.ceiling.at(at).map(|reached| reached.replicas)
    }

    fn limit(&mut self, seen: &Observation, recommended: usize) -> (usize, Limit) {
        let (at, current) = (seen.at, seen.replicas.desired);
        let serving = self.limits.clamp(recommended);
        // Zero replicas need no replacement.
        let is_replaced = self.limits.guard == Guard::On && serving > 0;
        let total = if is_replaced { serving + seen.replicas.lost } else { serving };
        let bounded = total.min(self.limits.max);
        self.recommended.push_back((at, bounded));
        while self.recommended.front().is_some_and(|&(then, _)| then + self.limits.down_window < at) {
            self.recommended.pop_front();
        }
        let limit = if (serving, total) == (recommended, bounded) { Limit::Granted } else { Limit::Bounded };
        let ceiling = self.ceiling.at(at).filter(|_| self.limits.guard == Guard::On);
        // Blocked replicas do not serve, so they are withdrawn before the stabilisation window has passed. The ceiling
        // holds for longer, but replicas that are no longer blocked stay. While others start, none are withdrawn: a
        // ReplicaSet would delete a starting pod before a crashing one.
        let is_withdrawn = self.limits.guard == Guard::On && seen.replicas.starting == 0;
        let hopeless = if is_withdrawn { self.ceiling.hopeless() } else { 0 };
        let placed = current.saturating_sub(hopeless).max(self.limits.min.max(1)).min(current);
        if placed < current && bounded >= placed {
            return (placed, Limit::Full);
        }
        match bounded.cmp(&current) {
            Ordering::Less => self.limit_down(seen, bounded, limit, placed),
            Ordering::Greater => self.limit_up(seen, bounded, limit, ceiling),
            Ordering::Equal => (bounded, limit),
        }
    }

    fn limit_down(&self, seen: &Observation, bounded: usize, limit: Limit, placed: usize) -> (usize, Limit) {
        let current = seen.replicas.desired;
        let settling = (seen.at < self.settled_at).then(|| self.limits.clamp(current));
        let highest = self.recommended.iter().map(|&(_, replicas)| replicas).chain(settling).max().unwrap_or(bounded);
        let occupied = if self.limits.guard == Guard::On { occupied(seen) } else { 0 };
        let paced = current.saturating_sub(self.limits.down_rate.saturating_sub(self.changed(seen.at, -1)));
        let partial = if seen.is_partial { current } else { 0 };
        let kept = [
            (highest, Limit::Stabilised),
            (occupied, Limit::Occupied),
            (paced, Limit::Paced),
            (partial, Limit::Partial),
        ];
        let (kept, why) = kept.into_iter().max_by_key(|&(replicas, _)| replicas).unwrap_or((bounded, limit));
        // No limit keeps replicas beyond --max or beyond those that are placed.
        let kept = kept.min(placed).min(self.limits.max);
        if kept > bounded { (kept, why) } else { (bounded, limit) }
    }

    fn limit_up(&self, seen: &Observation, bounded: usize, limit: Limit, ceiling: Option<Reached>) -> (usize, Limit) {
        let current = seen.replicas.desired;
        let paced = current.saturating_add(self.limits.up_rate.saturating_sub(self.changed(seen.at, 1)));
        let ceiling = ceiling.map(|reached| (reached.replicas.max(current), reached.limit));
        let most = ceiling.into_iter().chain([(paced, Limit::Paced)]);
        let (most, why) = most.min_by_key(|&(replicas, _)| replicas).unwrap_or((bounded, limit));
        let most = most.max(self.limits.min);
        if most < bounded { (most, why) } else { (bounded, limit) }
    }

    /// The number of replicas that were added (`sign` 1) or removed (`sign` -1) in the last minute.
    fn changed(&self, at: Duration, sign: isize) -> usize {
        self.changes.within(at, RATE_WINDOW).map(|change| (change * sign).max(0).unsigned_abs()).sum()
    }
}

/// The fewest replicas that can hold all requests that wait or are in flight.
fn occupied(seen: &Observation) -> usize {
    ((seen.queue_length + seen.in_flight) / seen.slots()).ceil() as usize
}
