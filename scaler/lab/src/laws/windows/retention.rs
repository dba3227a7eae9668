//! How long replicas are kept after they were last needed. If the load comes back soon, replicas are kept a quarter
//! longer than the load was away.

use std::time::Duration;

/// One number of replicas.
#[derive(Debug, Clone, Copy)]
struct Level {
    /// The time at which this number was last needed.
    needed: Option<Duration>,
    /// How long this number is kept after it was last needed.
    hold: Duration,
}

/// The numbers of replicas that were needed, and how long each is kept.
#[derive(Debug)]
pub struct Retention {
    least: Duration,
    most: Duration,
    /// The entry at index `n` is for `n + 1` replicas.
    levels: Vec<Level>,
}

impl Retention {
    /// Keeps replicas for `least` at first, and for up to `most` if the load has come back after more than `least`.
    pub fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, levels: Vec::new() }
    }

    /// Notes that `replicas` replicas are needed at `at`.
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
                    // A quarter more, since the load may stay away a little longer the next time.
                    level.hold = away.mul_f64(1.25).min(self.most);
                }
            }
            level.needed = Some(at);
        }
    }

    /// The number of replicas to keep at `at`.
    pub fn replicas(&self, at: Duration) -> usize {
        let is_kept = |level: &Level| level.needed.is_some_and(|needed| at < needed + level.hold);
        self.levels.iter().rposition(is_kept).map_or(0, |index| index + 1)
    }
}
