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
}

/// The limits and the wishes that they remember.
#[derive(Debug)]
pub struct Limiter {
    limits: Limits,
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
        Self { limits, wishes: VecDeque::new() }
    }

    /// How many are desired, now that `wish` replicas are wanted `at` this time and `current` are desired.
    /// Up is granted at once; down once nothing higher was wished for in the window.
    pub fn apply(&mut self, at: Duration, current: usize, wish: usize) -> (usize, Limited) {
        let bounded = wish.clamp(self.limits.min, self.limits.max);
        // Before the window has been watched once, what runs counts as wished for: a restart never scales down.
        if self.wishes.is_empty() {
            self.wishes.push_back((at, current.clamp(self.limits.min, self.limits.max)));
        }
        self.wishes.push_back((at, bounded));
        while self.wishes.front().is_some_and(|&(then, _)| then + self.limits.down_window < at) {
            self.wishes.pop_front();
        }
        let highest = self.wishes.iter().map(|&(_, wish)| wish).max().unwrap_or(bounded);
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
        let mut limiter = Limiter::new(Limits { min: 1, max: 5, down_window: Duration::from_secs(10) });
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
            let applied = limiter.apply(Duration::from_secs(second), current, wish);
            assert_eq!(applied, (desired, limited), "at {second} s");
            current = desired;
        }
    }

    #[test]
    fn a_fresh_start_does_not_scale_down() {
        let mut limiter = Limiter::new(Limits { min: 1, max: 5, down_window: Duration::from_secs(10) });
        assert_eq!(limiter.apply(Duration::ZERO, 4, 1), (4, Limited::Stabilised));
        assert_eq!(limiter.apply(Duration::from_secs(11), 4, 1), (1, Limited::Granted));
    }
}
