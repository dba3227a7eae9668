//! Limits between a recommendation and the target: bounds, rates, a stabilisation window before scaling down, never fewer
//! replicas than are at work, never more than the cluster can place. They apply after every law.

pub mod ceiling;

use crate::observation::Observation;
use crate::window::Window;
use ceiling::{Ceiling, Reached};
use serde::Serialize;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::time::Duration;

/// Changes within this time count for the rates.
const RATE_WINDOW: Duration = Duration::from_secs(60);

/// The limits.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Fewest replicas.
    pub min: usize,
    /// Most replicas.
    pub max: usize,
    /// Stabilisation window: scale down only to the highest recommendation of this time.
    pub down_window: Duration,
    /// A longer time without observations is an outage.
    pub outage: Duration,
    /// After the start, and after an outage, never scale down for this time.
    pub settle: Duration,
    /// Replicas that may be added in a minute.
    pub up_rate: usize,
    /// Replicas that may be removed in a minute.
    pub down_rate: usize,
    /// Whether limits look at more than the numbers of replicas.
    pub guard: Guard,
}

/// Whether limits look at more than the numbers of replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Limits look at the requests and at what can be placed: replicas that are at work stay, and replicas beyond the
    /// [`ceiling`] are not asked for.
    On,
    /// Limits look at the numbers only, as other autoscalers do.
    Off,
}

impl Limits {
    /// Bounds and nothing else, as other autoscalers have them: their laws have windows of their own.
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

/// The limits with their memory.
#[derive(Debug)]
pub struct Limiter {
    limits: Limits,
    ceiling: Ceiling,
    /// Time of the last observation, and the replicas that were desired then.
    seen: Option<(Duration, usize)>,
    /// No scaling down before this time.
    settled_at: Duration,
    /// Recommendations within the stabilisation window, after bounds.
    recommended: VecDeque<(Duration, usize)>,
    /// Replicas added (positive) or removed in the last minute, by any scaler: what was only desired may never have been
    /// done.
    changes: Window<isize>,
}

/// The limit that changed a recommendation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// No limit: the recommendation is granted.
    Granted,
    /// Held by `--min` or `--max`.
    Bounded,
    /// Kept up by an earlier, higher recommendation, or since too little was seen yet.
    Stabilised,
    /// Kept up by the requests that are there now.
    Occupied,
    /// Held down, as replicas cannot be placed or keep dying.
    Full,
    /// Held down, as the replicas that were added last brought no more throughput.
    #[serde(rename = "useless")]
    NoGain,
    /// Slowed down by a rate.
    Paced,
}

impl Limit {
    /// A note for people; `None` if the recommendation was granted.
    pub fn note(self) -> Option<&'static str> {
        Some(match self {
            Self::Granted => return None,
            Self::Bounded => "held by --min or --max",
            Self::Stabilised => "waiting before scaling down",
            Self::Occupied => "as many are at work",
            Self::Full => "no more can be placed, or they keep dying; trying again later",
            Self::NoGain => "the last ones that were added brought no more throughput; trying again later",
            Self::Paced => "held by --up-rate or --down-rate",
        })
    }
}

impl Limiter {
    /// Limits that remember nothing yet.
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

    /// The desired replicas, and the limit that decided. Without a recommendation nothing changes. Scaling up is granted at
    /// once, scaling down after the stabilisation window.
    pub fn apply(&mut self, seen: &Observation, recommended: Option<usize>) -> (usize, Limit) {
        let (at, current) = (seen.at, seen.replicas.desired);
        let before = self.seen.replace((at, current));
        // The first reading after a restart or an outage must not scale down.
        if before.is_none_or(|(then, _)| at.saturating_sub(then) > self.limits.outage) {
            self.settled_at = at + self.limits.settle;
        }
        if let Some((then, replicas)) = before.filter(|&(_, replicas)| replicas != current) {
            self.changes.push(then, current as isize - replicas as isize);
        }
        self.ceiling.watch(seen);
        let Some(recommended) = recommended else { return (current, Limit::Granted) };
        self.limit(seen, recommended)
    }

    /// Replicas that the cluster can hold, while that is known.
    pub fn ceiling(&self, at: Duration) -> Option<usize> {
        self.ceiling.at(at).map(|reached| reached.replicas)
    }

    fn limit(&mut self, seen: &Observation, recommended: usize) -> (usize, Limit) {
        let (at, current) = (seen.at, seen.replicas.desired);
        let bounded = self.limits.clamp(recommended);
        self.recommended.push_back((at, bounded));
        while self.recommended.front().is_some_and(|&(then, _)| then + self.limits.down_window < at) {
            self.recommended.pop_front();
        }
        let limit = if bounded == recommended { Limit::Granted } else { Limit::Bounded };
        let ceiling = self.ceiling.at(at).filter(|_| self.limits.guard == Guard::On);
        // Replicas that cannot be placed never served: withdrawing them needs no window.
        let placed = ceiling.filter(|it| it.is_final).map_or(current, |it| it.replicas.min(current));
        if placed < current && bounded >= placed {
            return (placed.max(self.limits.min), Limit::Full);
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
        let kept = [(highest, Limit::Stabilised), (occupied, Limit::Occupied), (paced, Limit::Paced)];
        let (kept, why) = kept.into_iter().max_by_key(|&(replicas, _)| replicas).unwrap_or((bounded, limit));
        // No limit keeps replicas beyond --max or beyond those that are placed.
        let kept = kept.min(placed).min(self.limits.max);
        if kept > bounded { (kept, why) } else { (bounded, limit) }
    }

    fn limit_up(&self, seen: &Observation, bounded: usize, limit: Limit, ceiling: Option<Reached>) -> (usize, Limit) {
        let current = seen.replicas.desired;
        let paced = current.saturating_add(self.limits.up_rate.saturating_sub(self.changed(seen.at, 1)));
        let ceiling = ceiling.map(|reached| (reached.replicas.max(current), reached.why));
        let most = ceiling.into_iter().chain([(paced, Limit::Paced)]);
        let (most, why) = most.min_by_key(|&(replicas, _)| replicas).unwrap_or((bounded, limit));
        let most = most.max(self.limits.min);
        if most < bounded { (most, why) } else { (bounded, limit) }
    }

    /// Replicas that were added (`sign` 1) or removed (`sign` -1) in the last minute.
    fn changed(&self, at: Duration, sign: isize) -> usize {
        self.changes.within(at, RATE_WINDOW).map(|change| (change * sign).max(0).unsigned_abs()).sum()
    }
}

/// Replicas that would hold all the requests that are there now.
fn occupied(seen: &Observation) -> usize {
    ((seen.queue_length + seen.in_flight) / seen.slots()).ceil() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::Replicas;
    use Limit::{Bounded, Full, Granted, Occupied, Paced, Stabilised};

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn seen(second: u64, current: usize) -> Observation {
        let replicas = Replicas { desired: current, ready: current, ..Replicas::default() };
        Observation { at: S(second), replicas, capacity: current as f64, ..Observation::default() }
    }

    fn guarded(min: usize, max: usize) -> Limits {
        Limits { guard: Guard::On, ..Limits::bounds(min, max) }
    }

    /// Limits with a window, a settling time and an outage of ten seconds.
    fn stabilised() -> Limits {
        Limits { down_window: S(10), outage: S(10), settle: S(10), ..guarded(1, 5) }
    }

    /// Applies the limits to rows of (second, present replicas, recommended replicas, desired replicas, limit).
    fn check(limits: Limits, rows: impl IntoIterator<Item = (u64, usize, usize, usize, Limit)>) {
        let mut limiter = Limiter::new(limits);
        for (second, current, recommended, desired, limit) in rows {
            let found = limiter.apply(&seen(second, current), Some(recommended));
            assert_eq!(found, (desired, limit), "at {second} s");
        }
    }

    #[test]
    fn up_at_once_down_when_the_window_agrees() {
        let up = [(0, 1, 4, 4, Granted), (2, 4, 9, 5, Bounded), (4, 5, 2, 5, Stabilised), (12, 5, 2, 5, Stabilised)];
        let down = [(13, 5, 3, 3, Granted), (20, 3, 0, 3, Stabilised), (24, 3, 0, 1, Bounded)];
        check(stabilised(), up.into_iter().chain(down));
    }

    #[test]
    fn neither_a_fresh_start_nor_the_first_reading_after_an_outage_scales_down() {
        check(stabilised(), (0..10).map(|second| (second, 4, 1, 4, Stabilised)).chain([(10, 4, 1, 1, Granted)]));
        check(stabilised(), [(0, 4, 4, 4, Granted), (60, 4, 1, 4, Stabilised)]);
        // The outage that ended at 38 s was shorter than the 20 s that follow it.
        let settling = [0, 19, 38, 39].into_iter().chain(40..58).map(|second| (second, 4, 1, 4, Stabilised));
        let limits = Limits { outage: S(2), settle: S(20), ..Limits::bounds(1, 5) };
        check(limits, settling.chain([(58, 4, 1, 1, Granted), (59, 4, 1, 1, Granted)]));
    }

    #[test]
    fn no_opinion_is_no_recommendation() {
        let mut limiter = Limiter::new(stabilised());
        for second in 0..30 {
            assert_eq!(limiter.apply(&seen(second, 4), None), (4, Granted));
        }
        assert_eq!(limiter.apply(&seen(30, 4), Some(3)), (3, Granted));
    }

    #[test]
    fn bounds_hold_at_once_despite_the_window() {
        check(stabilised(), [(0, 9, 7, 5, Bounded), (1, 0, 0, 1, Bounded)]);
    }

    #[test]
    fn replicas_at_work_stay() {
        let mut limiter = Limiter::new(guarded(1, 9));
        let busy = Observation { in_flight: 3.0, queue_length: 1.0, ..seen(5, 6) };
        assert_eq!(limiter.apply(&busy, Some(2)), (4, Occupied));
        let batching = Observation { at: S(6), capacity: 24.0, ..busy };
        assert_eq!(limiter.apply(&batching, Some(1)), (1, Granted), "four of 24 slots");
    }

    #[test]
    fn rates_are_per_minute() {
        let limits = Limits { up_rate: 3, down_rate: 2, ..Limits::bounds(1, 20) };
        let up = [(0, 1, 9, 4, Paced), (30, 4, 9, 4, Paced), (60, 4, 9, 7, Paced)];
        check(limits, up.into_iter().chain([(61, 7, 1, 5, Paced), (62, 5, 1, 5, Paced), (121, 5, 1, 3, Paced)]));
        // What another scaler, which leads, did not make of it does not count.
        check(limits, (0..30).map(|second| (second, 1, 9, 4, Paced)).chain([(30, 4, 9, 4, Paced)]));
    }

    #[test]
    fn nothing_is_added_while_replicas_cannot_be_placed() {
        let mut limiter = Limiter::new(guarded(1, 9));
        let replicas = Replicas { desired: 4, ready: 3, starting: 0, blocked: 1 };
        assert_eq!(limiter.apply(&Observation { replicas, ..seen(5, 4) }, Some(6)), (4, Full));
        assert_eq!(limiter.apply(&seen(10, 4), Some(6)), (4, Full), "room may have come for a moment only");
        assert_eq!(limiter.apply(&seen(30, 4), Some(6)), (6, Granted));
    }

    #[test]
    fn replicas_that_cannot_be_placed_are_withdrawn() {
        let mut limiter = Limiter::new(guarded(1, 9));
        // All ready replicas are busy, and requests wait: blocked replicas do not work on them.
        let replicas = Replicas { desired: 6, ready: 2, starting: 0, blocked: 4 };
        let busy = Observation { replicas, in_flight: 2.0, queue_length: 20.0, capacity: 2.0, ..seen(0, 6) };
        let full = |second| Observation { at: S(second), ..busy.clone() };
        for second in 0..10 {
            assert_eq!(limiter.apply(&full(second), Some(7)), (6, Full), "at {second} s");
        }
        assert_eq!(limiter.apply(&full(10), Some(7)), (2, Full));
        assert_eq!(limiter.ceiling(S(10)), Some(2));
        assert_eq!(limiter.apply(&full(11), Some(1)), (2, Occupied), "as many as there are");
        assert_eq!(limiter.apply(&seen(12, 2), Some(7)), (2, Full));
        assert_eq!(limiter.apply(&seen(26, 2), Some(7)), (7, Granted), "tried again");
        assert_eq!(limiter.ceiling(S(26)), None);
        let mut least = Limiter::new(guarded(5, 9));
        least.apply(&full(0), Some(7));
        assert_eq!(least.apply(&full(10), Some(7)), (5, Full), "never below --min");
    }
}
