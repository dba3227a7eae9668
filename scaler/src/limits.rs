//! PURE: what stands between a policy's wish and the target: bounds, and patience before scaling down.

use std::collections::VecDeque;
use std::time::Duration;

/// The limits.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Never fewer.
    pub min: usize,
    /// Never more.
    pub max: usize,
    /// Scale down only to the highest wish of this long.
    pub down_window: Duration,
    /// After the start, and after so long without figures: never scale down for this long.
    pub settle: Duration,
}

/// The limits and the wishes that they remember.
#[derive(Debug)]
pub struct Limiter {
    limits: Limits,
    /// When a policy last saw anything, whether or not it wished for something.
    seen: Option<Duration>,
    settled_at: Duration,
    wishes: VecDeque<(Duration, usize)>,
}

/// What a wish became.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    /// Granted as it was.
    Granted,
    /// Held up or down by a bound.
    Bounded,
    /// Kept up by an earlier, higher wish.
    Stabilised,
}

impl Limiter {
    /// Remembers nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, seen: None, settled_at: Duration::ZERO, wishes: VecDeque::new() }
    }

    /// How many are desired, now that `wish` replicas are wanted `at` this time and `current` are desired. Without a
    /// wish nothing changes. Up is granted at once; down once nothing higher was wished for in the window.
    pub fn apply(&mut self, at: Duration, current: usize, wish: Option<usize>) -> (usize, Limited) {
        let within = |replicas: usize| replicas.clamp(self.limits.min, self.limits.max);
        // Neither a restart nor an outage of the metrics scales down at the first reading.
        if self.seen.is_none_or(|seen| seen + self.limits.settle < at) {
            self.settled_at = at + self.limits.settle;
        }
        self.seen = Some(at);
        let Some(wish) = wish else { return (current, Limited::Granted) };
        let bounded = within(wish);
        self.wishes.push_back((at, bounded));
        while self.wishes.front().is_some_and(|&(then, _)| then + self.limits.down_window < at) {
            self.wishes.pop_front();
        }
        let settling = (at < self.settled_at).then(|| within(current));
        let highest = self.wishes.iter().map(|&(_, wish)| wish).chain(settling).max().unwrap_or(bounded);
        if bounded < current && highest > bounded {
            (highest.min(current), Limited::Stabilised)
        } else if bounded != wish {
            (bounded, Limited::Bounded)
        } else {
            (bounded, Limited::Granted)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_at_once_down_when_the_window_agrees() {
        let mut limiter = Limiter::new(Limits {
            min: 1,
            max: 5,
            down_window: Duration::from_secs(10),
            settle: Duration::from_secs(10),
        });
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
            let applied = limiter.apply(Duration::from_secs(second), current, Some(wish));
            assert_eq!(applied, (desired, limited), "at {second} s");
            current = desired;
        }
    }

    #[test]
    fn a_fresh_start_does_not_scale_down() {
        let mut limiter = Limiter::new(Limits {
            min: 1,
            max: 5,
            down_window: Duration::from_secs(10),
            settle: Duration::from_secs(10),
        });
        assert_eq!(limiter.apply(Duration::ZERO, 4, Some(1)), (4, Limited::Stabilised));
        for second in 1..10 {
            assert_eq!(limiter.apply(Duration::from_secs(second), 4, Some(1)).0, 4);
        }
        assert_eq!(limiter.apply(Duration::from_secs(10), 4, Some(1)), (1, Limited::Granted));
    }

    #[test]
    fn the_first_reading_after_an_outage_does_not_scale_down() {
        let mut limiter = Limiter::new(Limits {
            min: 1,
            max: 5,
            down_window: Duration::from_secs(10),
            settle: Duration::from_secs(10),
        });
        assert_eq!(limiter.apply(Duration::ZERO, 4, Some(4)).0, 4);
        let back = Duration::from_secs(60);
        assert_eq!(limiter.apply(back, 4, Some(1)), (4, Limited::Stabilised));
    }

    #[test]
    fn no_opinion_is_no_wish() {
        let mut limiter = Limiter::new(Limits {
            min: 1,
            max: 5,
            down_window: Duration::from_secs(10),
            settle: Duration::from_secs(10),
        });
        for second in 0..30 {
            assert_eq!(limiter.apply(Duration::from_secs(second), 4, None), (4, Limited::Granted));
        }
        assert_eq!(limiter.apply(Duration::from_secs(30), 4, Some(3)), (3, Limited::Granted));
    }
}
