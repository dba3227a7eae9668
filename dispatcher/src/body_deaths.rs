//! The bodies that were at a replica when it died, with the number of deaths. A body that has brought down
//! [`MAX_DEATHS`] replicas is refused for some time, from whichever client it comes. Pure: time is an argument, and a
//! body is known by its fingerprint. [`crate::poison`] makes the fingerprints.

use crate::retry::MAX_DEATHS;
use std::time::{Duration, Instant};

/// The time after its last death for which a body is remembered. A true killer then costs [`MAX_DEATHS`] replicas each
/// time it passes.
pub const REMEMBERED: Duration = Duration::from_secs(300);

/// The largest number of bodies that are remembered.
const MAX_BODIES: usize = 256;

/// The identity of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// The length of the body in bytes.
    pub length: usize,
    /// The hash of the body under a key of this process.
    pub hash: u64,
}

/// The bodies that were at a replica when it died.
#[derive(Debug, Default)]
pub struct BodyDeaths {
    bodies: Vec<BodyRecord>,
}

#[derive(Debug)]
struct BodyRecord {
    body: Fingerprint,
    deaths: u32,
    last: Instant,
}

impl BodyDeaths {
    /// Records that a replica died while it held `body`, which was sent to it at `sent`. Returns the deaths of this body.
    ///
    /// Deaths count one by one only if the body was sent after the last one. Many clients may send the same innocent
    /// body, so that it is at several replicas when these die together, of another cause.
    pub fn record(&mut self, body: Fingerprint, sent: Instant, now: Instant) -> u32 {
        self.forget_expired(now);
        if let Some(record) = self.bodies.iter_mut().find(|record| record.body == body) {
            if sent >= record.last {
                record.deaths += 1;
                record.last = now;
            }
            return record.deaths;
        }
        if self.bodies.len() == MAX_BODIES {
            // The body with the weakest evidence makes room, and of several the one whose death is the longest ago.
            let weakest = (0..MAX_BODIES).min_by_key(|&index| (self.bodies[index].deaths, self.bodies[index].last));
            self.bodies.swap_remove(weakest.expect("the list is full"));
        }
        self.bodies.push(BodyRecord { body, deaths: 1, last: now });
        1
    }

    /// Forgets `body`, because a replica has answered it and lives.
    pub fn acquit(&mut self, body: Fingerprint) {
        self.bodies.retain(|record| record.body != body);
    }

    /// The number of replicas that `body` has brought down.
    pub fn deaths(&self, body: Fingerprint) -> u32 {
        self.bodies.iter().find(|record| record.body == body).map_or(0, |record| record.deaths)
    }

    /// Whether a body of this length is remembered. If not, no hash is needed to tell that a body is unknown.
    pub fn has_length(&self, length: usize) -> bool {
        self.bodies.iter().any(|record| record.body.length == length)
    }

    /// Whether no body is remembered.
    pub fn is_empty(&self) -> bool {
        self.bodies.is_empty()
    }

    /// Forgets the bodies whose last death is [`REMEMBERED`] ago.
    pub fn forget_expired(&mut self, now: Instant) {
        self.bodies.retain(|record| now.saturating_duration_since(record.last) < REMEMBERED);
    }
}

/// Whether a body with this number of deaths is refused.
pub fn is_poison(deaths: u32) -> bool {
    deaths >= MAX_DEATHS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(number: usize) -> Fingerprint {
        Fingerprint { length: number, hash: 7 }
    }

    #[test]
    fn deaths_of_the_same_body_count_together_if_it_was_sent_after_the_one_before() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut deaths = BodyDeaths::default();
        // (the time at which the body was sent, the time of the death, deaths of the body)
        for (sent, died, expected) in [(0, 10, 1), (5, 11, 1), (9, 12, 1), (10, 13, 2), (14, 15, 3)] {
            assert_eq!(deaths.record(body(1), at(sent), at(died)), expected, "sent at {sent} s");
        }
        assert_eq!(deaths.record(body(2), at(20), at(21)), 1, "another length");
        let other_hash = Fingerprint { hash: 8, ..body(1) };
        assert_eq!(deaths.record(other_hash, at(20), at(21)), 1, "another hash");
        assert!(is_poison(deaths.deaths(body(1))) && !is_poison(deaths.deaths(other_hash)));
        assert_eq!(deaths.deaths(body(3)), 0);
    }

    #[test]
    fn a_body_that_is_answered_is_acquitted() {
        let start = Instant::now();
        let mut deaths = BodyDeaths::default();
        deaths.record(body(1), start, start);
        deaths.record(body(2), start, start);
        deaths.acquit(body(1));
        assert_eq!((deaths.deaths(body(1)), deaths.deaths(body(2))), (0, 1));
        assert!(!deaths.has_length(1) && deaths.has_length(2));
        assert_eq!(deaths.record(body(1), start, start), 1, "counting starts anew");
    }

    #[test]
    fn a_body_is_forgotten_some_time_after_its_last_death() {
        let start = Instant::now();
        let mut deaths = BodyDeaths::default();
        deaths.record(body(1), start, start);
        deaths.record(body(1), start, start + REMEMBERED / 2);
        deaths.forget_expired(start + REMEMBERED);
        assert_eq!(deaths.deaths(body(1)), 2);
        deaths.forget_expired(start + REMEMBERED * 3 / 2);
        assert!(deaths.is_empty());
    }

    #[test]
    fn the_number_of_bodies_is_bounded_and_poison_stays_longest() {
        let start = Instant::now();
        let mut deaths = BodyDeaths::default();
        deaths.record(body(0), start, start);
        deaths.record(body(0), start, start);
        for number in 1..=2 * MAX_BODIES {
            deaths.record(body(number), start, start + Duration::from_millis(number as u64));
            assert!(deaths.bodies.len() <= MAX_BODIES);
        }
        assert_eq!(deaths.deaths(body(0)), 2);
        assert_eq!(deaths.deaths(body(2 * MAX_BODIES)), 1, "the newest is kept");
        assert_eq!(deaths.deaths(body(1)), 0, "the oldest has made room");
    }
}
