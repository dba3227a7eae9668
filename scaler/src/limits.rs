//! PURE: what stands between a policy's wish and the target: bounds, rates, patience before scaling down, never fewer
//! than are at work, never more than the place holds.

pub mod ceiling;

use crate::policy::Observation;
use ceiling::Ceiling;
use serde::Serialize;
use std::collections::VecDeque;
use std::time::Duration;

/// Over this long changes are counted for the rates.
const RATE_WINDOW: Duration = Duration::from_secs(60);

/// The limits.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Never fewer.
    pub min: usize,
    /// Never more.
    pub max: usize,
    /// Scale down only to the highest wish of this long.
    pub down_window: Duration,
    /// Longer without figures is an outage.
    pub outage: Duration,
    /// After the start, and after an outage: never scale down for this long.
    pub settle: Duration,
    /// Replicas that may be added in a minute.
    pub up_rate: usize,
    /// Replicas that may be removed in a minute.
    pub down_rate: usize,
    /// Whether replicas that are at work, or about to be, stay; and whether what the place cannot hold is not asked for.
    pub is_careful: bool,
}

impl Limits {
    /// Bounds and nothing else, as other autoscalers have them; their laws bring their own patience.
    pub fn bounds(min: usize, max: usize) -> Self {
        let never = Duration::ZERO;
        let (up_rate, down_rate) = (usize::MAX, usize::MAX);
        let outage = Duration::MAX;
        Self { min, max, down_window: never, outage, settle: never, up_rate, down_rate, is_careful: false }
    }
}

/// The limits and what they remember.
#[derive(Debug)]
pub struct Limiter {
    limits: Limits,
    ceiling: Ceiling,
    /// When a policy last saw anything, whether or not it wished for something, and how many were desired then.
    seen: Option<(Duration, usize)>,
    settled_at: Duration,
    wishes: VecDeque<(Duration, usize)>,
    /// Replicas added (positive) or removed in the last minute, whoever did it: what was only wished for may never have
    /// been done.
    changes: VecDeque<(Duration, isize)>,
}

/// What a wish became.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limited {
    /// Granted as it was.
    Granted,
    /// Held up or down by a bound.
    Bounded,
    /// Kept up by an earlier, higher wish, or since too little was seen yet.
    Stabilised,
    /// Kept up by the requests that are there now.
    Occupied,
    /// Held down, as replicas cannot be placed or keep dying.
    Full,
    /// Held down, as the last ones that were added brought nothing.
    Useless,
    /// Slowed down.
    Paced,
}

impl Limited {
    /// For people; nothing where there is nothing to say.
    pub fn note(self) -> Option<&'static str> {
        Some(match self {
            Self::Granted => return None,
            Self::Bounded => "held by --min or --max",
            Self::Stabilised => "waiting before scaling down",
            Self::Occupied => "as many are at work",
            Self::Full => "no more can be placed, or they keep dying; trying again later",
            Self::Useless => "the last ones that were added brought no more throughput; trying again later",
            Self::Paced => "held by --up-rate or --down-rate",
        })
    }
}

impl Limiter {
    /// Remembers nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ceiling: Ceiling::default(),
            seen: None,
            settled_at: Duration::ZERO,
            wishes: VecDeque::new(),
            changes: VecDeque::new(),
        }
    }

    /// How many are desired, now that `wish` replicas are wanted. Without a wish nothing changes. Up is granted at once;
    /// down once nothing higher was wished for in the window.
    pub fn apply(&mut self, seen: &Observation, wish: Option<usize>) -> (usize, Limited) {
        let (at, current) = (seen.at, seen.replicas.desired);
        // Neither a restart nor an outage of the metrics scales down at the first reading.
        let before = self.seen.replace((at, current));
        if before.is_none_or(|(then, _)| at.saturating_sub(then) > self.limits.outage) {
            self.settled_at = at + self.limits.settle;
        }
        if let Some((then, replicas)) = before.filter(|&(_, replicas)| replicas != current) {
            self.changes.push_back((then, current as isize - replicas as isize));
        }
        self.ceiling.watch(seen);
        let Some(wish) = wish else { return (current, Limited::Granted) };
        self.limit(seen, wish)
    }

    /// As many as the place holds, if that is known.
    pub fn ceiling(&self, at: Duration) -> Option<usize> {
        self.ceiling.at(at).map(|reached| reached.replicas)
    }

    fn limit(&mut self, seen: &Observation, wish: usize) -> (usize, Limited) {
        let (at, current) = (seen.at, seen.replicas.desired);
        let within = |replicas: usize| replicas.clamp(self.limits.min, self.limits.max);
        let bounded = within(wish);
        self.wishes.push_back((at, bounded));
        while self.wishes.front().is_some_and(|&(then, _)| then + self.limits.down_window < at) {
            self.wishes.pop_front();
        }
        while self.changes.front().is_some_and(|&(then, _)| then + RATE_WINDOW <= at) {
            self.changes.pop_front();
        }
        let changed = |sign: isize| -> usize {
            self.changes.iter().map(|&(_, change)| (change * sign).max(0).unsigned_abs()).sum()
        };
        let limited = if bounded == wish { Limited::Granted } else { Limited::Bounded };
        let full = if self.limits.is_careful { self.ceiling.at(at) } else { None };
        // What is withdrawn never served.
        let top = full.filter(|full| full.is_final).map_or(current, |full| full.replicas.min(current));
        if top < current && bounded >= top {
            return (top.max(self.limits.min), Limited::Full);
        }
        if bounded < current {
            let settling = (at < self.settled_at).then(|| within(current));
            let highest = self.wishes.iter().map(|&(_, wish)| wish).chain(settling).max().unwrap_or(bounded);
            let occupied = if self.limits.is_careful { occupied(seen) } else { 0 };
            let paced = current.saturating_sub(self.limits.down_rate.saturating_sub(changed(-1)));
            let kept = [(highest, Limited::Stabilised), (occupied, Limited::Occupied), (paced, Limited::Paced)];
            let (kept, why) = kept.into_iter().max_by_key(|&(replicas, _)| replicas).unwrap_or((bounded, limited));
            // No bound holds what is outside of it.
            let kept = kept.min(top).min(self.limits.max);
            return if kept > bounded { (kept, why) } else { (bounded, limited) };
        }
        if bounded > current {
            let paced = current.saturating_add(self.limits.up_rate.saturating_sub(changed(1)));
            let full = full.map(|full| (full.replicas.max(current), full.why));
            let most = full.into_iter().chain([(paced, Limited::Paced)]);
            let (most, why) = most.min_by_key(|&(replicas, _)| replicas).unwrap_or((bounded, limited));
            let least = self.limits.min;
            return if most.max(least) < bounded { (most.max(least), why) } else { (bounded, limited) };
        }
        (bounded, limited)
    }
}

/// Replicas that would hold all the requests that are there now.
fn occupied(seen: &Observation) -> usize {
    ((seen.queue_length + seen.in_flight) / seen.slots()).ceil() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Replicas;

    fn seen(second: u64, current: usize) -> Observation {
        Observation {
            at: Duration::from_secs(second),
            replicas: Replicas { desired: current, ready: current, ..Replicas::default() },
            capacity: current as f64,
            ..Observation::default()
        }
    }

    fn limiter() -> Limiter {
        let window = Duration::from_secs(10);
        let limits =
            Limits { down_window: window, outage: window, settle: window, is_careful: true, ..Limits::bounds(1, 5) };
        Limiter::new(limits)
    }

    #[test]
    fn up_at_once_down_when_the_window_agrees() {
        let mut limiter = limiter();
        let mut current = 1;
        for (second, wish, desired, limited) in [
            (0, 4, 4, Limited::Granted),
            (2, 9, 5, Limited::Bounded),
            (4, 2, 5, Limited::Stabilised),
            (12, 2, 5, Limited::Stabilised),
            (13, 3, 3, Limited::Granted),
            (20, 0, 3, Limited::Stabilised),
            (24, 0, 1, Limited::Bounded),
        ] {
            assert_eq!(limiter.apply(&seen(second, current), Some(wish)), (desired, limited), "at {second} s");
            current = desired;
        }
    }

    #[test]
    fn a_fresh_start_does_not_scale_down() {
        let mut limiter = limiter();
        assert_eq!(limiter.apply(&seen(0, 4), Some(1)), (4, Limited::Stabilised));
        for second in 1..10 {
            assert_eq!(limiter.apply(&seen(second, 4), Some(1)).0, 4);
        }
        assert_eq!(limiter.apply(&seen(10, 4), Some(1)), (1, Limited::Granted));
    }

    #[test]
    fn the_first_reading_after_an_outage_does_not_scale_down() {
        let mut limiter = limiter();
        assert_eq!(limiter.apply(&seen(0, 4), Some(4)).0, 4);
        assert_eq!(limiter.apply(&seen(60, 4), Some(1)), (4, Limited::Stabilised));
    }

    #[test]
    fn an_outage_may_be_shorter_than_what_follows_it() {
        let limits = Limits { outage: Duration::from_secs(2), settle: Duration::from_secs(20), ..Limits::bounds(1, 5) };
        let mut limiter = Limiter::new(limits);
        for (second, desired, limited) in [
            (0, 4, Limited::Stabilised),
            (19, 4, Limited::Stabilised),
            (38, 4, Limited::Stabilised),
            (39, 4, Limited::Stabilised),
        ] {
            assert_eq!(limiter.apply(&seen(second, 4), Some(1)), (desired, limited), "{second} s");
        }
        let outcomes: Vec<usize> = (40..60).map(|second| limiter.apply(&seen(second, 4), Some(1)).0).collect();
        assert_eq!(outcomes, [vec![4; 18], vec![1; 2]].concat(), "20 s after the outage that ended at 38 s");
    }

    #[test]
    fn no_opinion_is_no_wish() {
        let mut limiter = limiter();
        for second in 0..30 {
            assert_eq!(limiter.apply(&seen(second, 4), None), (4, Limited::Granted));
        }
        assert_eq!(limiter.apply(&seen(30, 4), Some(3)), (3, Limited::Granted));
    }

    #[test]
    fn bounds_hold_at_once_whatever_the_window_says() {
        let mut limiter = limiter();
        assert_eq!(limiter.apply(&seen(0, 9), Some(7)), (5, Limited::Bounded));
        assert_eq!(limiter.apply(&seen(1, 0), Some(0)), (1, Limited::Bounded));
    }

    #[test]
    fn replicas_that_are_at_work_stay() {
        let mut limiter = Limiter::new(Limits { is_careful: true, ..Limits::bounds(1, 9) });
        let busy = Observation { in_flight: 3.0, queue_length: 1.0, ..seen(5, 6) };
        assert_eq!(limiter.apply(&busy, Some(2)), (4, Limited::Occupied));
        let batching = Observation { at: Duration::from_secs(6), capacity: 24.0, ..busy };
        assert_eq!(limiter.apply(&batching, Some(1)), (1, Limited::Granted), "four of 24 slots");
    }

    #[test]
    fn rates_are_per_minute() {
        let mut limiter = Limiter::new(Limits { up_rate: 3, down_rate: 2, ..Limits::bounds(1, 20) });
        let mut current = 1;
        for (second, wish, desired) in [(0, 9, 4), (30, 9, 4), (60, 9, 7), (61, 1, 5), (62, 1, 5), (121, 1, 3)] {
            let (granted, limited) = limiter.apply(&seen(second, current), Some(wish));
            assert_eq!((granted, limited), (desired, Limited::Paced), "at {second} s");
            current = granted;
        }
    }

    #[test]
    fn what_was_wished_for_in_vain_does_not_count_for_the_rates() {
        let mut limiter = Limiter::new(Limits { up_rate: 3, ..Limits::bounds(1, 20) });
        for second in 0..30 {
            assert_eq!(limiter.apply(&seen(second, 1), Some(9)), (4, Limited::Paced), "another scaler leads");
        }
        assert_eq!(limiter.apply(&seen(30, 4), Some(9)), (4, Limited::Paced), "and now it does");
    }

    #[test]
    fn nothing_is_added_while_replicas_cannot_be_placed() {
        let mut limiter = Limiter::new(Limits { is_careful: true, ..Limits::bounds(1, 9) });
        let full = |second| Observation {
            replicas: Replicas { desired: 4, ready: 3, starting: 0, blocked: 1 },
            ..seen(second, 4)
        };
        assert_eq!(limiter.apply(&full(5), Some(6)), (4, Limited::Full));
        assert_eq!(limiter.apply(&seen(10, 4), Some(6)), (4, Limited::Full), "it may only flicker");
        assert_eq!(limiter.apply(&seen(30, 4), Some(6)), (6, Limited::Granted));
    }

    #[test]
    fn what_cannot_be_placed_is_withdrawn() {
        let mut limiter = Limiter::new(Limits { is_careful: true, ..Limits::bounds(1, 9) });
        // All of them are busy, and more wait: what is not there does not work on it.
        let full = |second| Observation {
            replicas: Replicas { desired: 6, ready: 2, starting: 0, blocked: 4 },
            in_flight: 2.0,
            queue_length: 20.0,
            capacity: 2.0,
            ..seen(second, 6)
        };
        for second in 0..10 {
            assert_eq!(limiter.apply(&full(second), Some(7)), (6, Limited::Full), "at {second} s");
        }
        assert_eq!(limiter.apply(&full(10), Some(7)), (2, Limited::Full));
        assert_eq!(limiter.ceiling(Duration::from_secs(10)), Some(2));
        assert_eq!(limiter.apply(&full(11), Some(1)), (2, Limited::Occupied), "as many as there are");
        assert_eq!(limiter.apply(&seen(12, 2), Some(7)), (2, Limited::Full));
        assert_eq!(limiter.apply(&seen(26, 2), Some(7)), (7, Limited::Granted), "tried again");
        assert_eq!(limiter.ceiling(Duration::from_secs(26)), None);
        let mut least = Limiter::new(Limits { is_careful: true, ..Limits::bounds(5, 9) });
        least.apply(&full(0), Some(7));
        assert_eq!(least.apply(&full(10), Some(7)), (5, Limited::Full), "never below --min");
    }
}
