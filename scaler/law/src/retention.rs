//! How long replicas are kept after they were last needed. If the load comes back soon, each number of replicas is kept
//! a quarter longer than the load was away.

use std::time::Duration;

/// When one number of replicas was last needed, and how long it is kept.
#[derive(Debug, Clone, Copy)]
struct Level {
    needed: Option<Duration>,
    /// How long this number of replicas is kept after that time.
    hold: Duration,
}

/// The retention of the needed numbers of replicas.
#[derive(Debug)]
pub struct Retention {
    least: Duration,
    most: Duration,
    /// The entry at index `n` is for `n + 1` replicas.
    levels: Vec<Level>,
}

impl Retention {
    /// Keeps replicas for `least`, and for up to `most` after the load came back later than that.
    pub fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, levels: Vec::new() }
    }

    /// Notes that so many replicas are needed now.
    pub fn note(&mut self, at: Duration, replicas: usize) {
        if self.levels.len() < replicas {
            self.levels.resize(replicas, Level { needed: None, hold: self.least });
        }
        for level in &mut self.levels[..replicas] {
            if let Some(needed) = level.needed {
                let away = at - needed;
                if away > self.most {
                    level.hold = self.least;
                } else if away > level.hold {
                    // A quarter more, since the load does not come back after the same time each time.
                    level.hold = away.mul_f64(1.25).min(self.most);
                }
            }
            level.needed = Some(at);
        }
    }

    /// Replicas to keep.
    pub fn replicas(&self, at: Duration) -> usize {
        let is_kept = |level: &Level| level.needed.is_some_and(|needed| at < needed + level.hold);
        self.levels.iter().rposition(is_kept).map_or(0, |index| index + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_that_comes_back_is_waited_for_a_little_longer_than_it_was_away() {
        let second = Duration::from_secs;
        let mut retention = Retention::new(second(20), second(120));
        for (at, needed, kept) in [
            (0, 3, [(19, 3), (20, 0)]),
            (10, 1, [(19, 3), (29, 1)]),
            // Three were away for 40 s, one was not.
            (40, 3, [(89, 3), (90, 0)]),
            // Away for 110 s: kept for no longer than the limit. Away for 130 s: not waited for again.
            (150, 3, [(269, 3), (270, 0)]),
            (280, 3, [(299, 3), (300, 0)]),
        ] {
            retention.note(second(at), needed);
            assert_eq!(kept.map(|(at, _)| (at, retention.replicas(second(at)))), kept);
        }
    }
}
