//! `queue`: so many replicas that each has five waiting requests; down only after five minutes.
//!
//! Source: KEDA's usual trigger on a queue's length, polled every 30 s, on top of the HPA's stabilisation.

use super::cadence::Cadence;
use super::window::Window;
use super::{Observation, Reason, Want};
use std::time::Duration;

const PER_REPLICA: f64 = 5.0;
const COOLDOWN: Duration = Duration::from_secs(300);

/// The law and what it remembers.
#[derive(Debug)]
pub struct Queue {
    cadence: Cadence,
    wishes: Window<usize>,
}

impl Queue {
    /// Looks every `interval`.
    pub fn new(interval: Duration) -> Self {
        Self { cadence: Cadence::new(interval), wishes: Window::new(COOLDOWN) }
    }

    /// One tick.
    pub fn decide(&mut self, seen: &Observation) -> Want {
        if self.wishes.newest().is_none() {
            self.wishes.push(seen.at, seen.replicas.desired);
        }
        if !self.cadence.is_due(seen.at) {
            return Want::waiting();
        }
        self.wishes.push(seen.at, (seen.queue_length / PER_REPLICA).ceil() as usize);
        let highest = self.wishes.within(seen.at, COOLDOWN).copied().max();
        Want { replicas: highest, reason: Reason::Queue { queue_length: seen.queue_length } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Replicas;

    #[test]
    fn five_for_each_and_patience_before_going_down() {
        let mut law = Queue::new(Duration::from_secs(30));
        let mut desired = 2;
        let mut course = Vec::new();
        for tick in 0..14 {
            let seen = Observation {
                at: Duration::from_secs(30 * tick),
                queue_length: [0.0, 11.0, 21.0].get(tick as usize).copied().unwrap_or(0.0),
                replicas: Replicas { desired, ready: desired, ..Replicas::default() },
                ..Observation::default()
            };
            desired = law.decide(&seen).replicas.unwrap_or(desired);
            course.push(desired);
        }
        // ⌈11 ÷ 5⌉, ⌈21 ÷ 5⌉ at 60 s, which counts until 360 s.
        assert_eq!(course, [2, 3, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 0, 0]);
    }
}
