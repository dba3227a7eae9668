//! `queue`: recommends one replica for every five waiting requests. It decides every 30 s, or at another interval, as
//! in `queue:5s`. It scales down only to the highest recommendation of the last five minutes.
//!
//! Source: KEDA 2, a trigger on the length of a queue with its defaults (pollingInterval 30 s, five messages for each
//! replica), and the Kubernetes HPA under it with its stabilisation window of 300 s.

use law::cadence::Cadence;
use law::observation::Observation;
use law::table::{Law, LawKind, Recommendation};
use law::window::Window;
use std::time::Duration;

/// The entry of the law `queue` in a table of laws.
pub const KIND: LawKind = LawKind {
    name: "queue",
    parameter: "[:INTERVAL]",
    wakes: false,
    scales_dispatchers: false,
    make: |_, parameter| {
        let interval = humantime::parse_duration(parameter.unwrap_or("30s")).ok()?;
        (!interval.is_zero()).then(|| Box::new(QueueLaw::new(interval)) as Box<dyn Law>)
    },
};

/// The number of waiting requests for each replica.
const TARGET_LENGTH: f64 = 5.0;

/// The law scales down only to the highest recommendation within this time.
const STABILISATION_WINDOW: Duration = Duration::from_secs(300);

/// The law `queue` with its state between decisions.
#[derive(Debug)]
pub struct QueueLaw {
    cadence: Cadence,
    /// The recommendations before stabilisation.
    recommended: Window<usize>,
}

impl QueueLaw {
    /// A law that decides every `interval`.
    pub fn new(interval: Duration) -> Self {
        Self { cadence: Cadence::new(interval), recommended: Window::new(STABILISATION_WINDOW) }
    }
}

impl Law for QueueLaw {
    fn decide(&mut self, seen: &Observation) -> Recommendation {
        if self.recommended.newest().is_none() {
            self.recommended.push(seen.at, seen.replicas.desired);
        }
        if !self.cadence.is_due(seen.at) {
            return Recommendation::waiting();
        }
        self.recommended.push(seen.at, (seen.queue_length / TARGET_LENGTH).ceil() as usize);
        let highest = self.recommended.within(seen.at, STABILISATION_WINDOW).copied().max();
        Recommendation::new(highest, "queue", format!("{:.0} requests wait", seen.queue_length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use law::observation::Replicas;

    #[test]
    fn five_waiting_requests_need_a_replica_and_scaling_down_waits_five_minutes() {
        let mut law = QueueLaw::new(Duration::from_secs(30));
        let mut desired = 2;
        let mut timeline = Vec::new();
        for tick in 0..14 {
            let seen = Observation {
                at: Duration::from_secs(30 * tick),
                queue_length: [0.0, 11.0, 21.0].get(tick as usize).copied().unwrap_or(0.0),
                replicas: Replicas { desired, ready: desired, ..Replicas::default() },
                ..Observation::default()
            };
            desired = law.decide(&seen).replicas.unwrap_or(desired);
            timeline.push(desired);
        }
        // ⌈11 ÷ 5⌉ = 3 replicas at 30 s, and ⌈21 ÷ 5⌉ = 5 replicas at 60 s. The five replicas count until 360 s.
        assert_eq!(timeline, [2, 3, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 0, 0]);
    }
}
