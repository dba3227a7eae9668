//! PURE: how many replicas the place holds, found by trying: when some cannot be placed or keep dying, and when the last
//! ones that were added brought no more throughput, nothing is added for a while.

use super::Limited;
use crate::policy::Observation;
use crate::policy::window::Window;
use std::time::Duration;

/// Nothing is added for so long; twice as long each time that it was in vain, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LAST_PAUSE: Duration = Duration::from_secs(15 * 60);

/// Throughput is measured while requests wait, for so long with the same number of replicas.
const MEASURE: Duration = Duration::from_secs(8);

/// Part of what more replicas should bring that counts as something.
const WORTH: f64 = 0.25;

/// What was found.
#[derive(Debug)]
pub struct Ceiling {
    reached: Option<Reached>,
    pause: Duration,
    /// Answers ever, while requests waited and so many replicas served.
    saturated: Window<(usize, f64)>,
    /// Replicas, and answers per second that they gave while requests waited.
    best: Option<(usize, f64)>,
}

#[derive(Debug, Clone, Copy)]
struct Reached {
    replicas: usize,
    until: Duration,
    why: Limited,
}

impl Default for Ceiling {
    fn default() -> Self {
        Self { reached: None, pause: FIRST_PAUSE, saturated: Window::new(MEASURE), best: None }
    }
}

impl Ceiling {
    /// Learns from what is seen.
    pub fn watch(&mut self, seen: &Observation) {
        if seen.replicas.blocked > 0 {
            self.reach(seen, Limited::Full);
        }
        self.watch_throughput(seen);
    }

    /// The most that may be asked for, and why, if that is known.
    pub fn at(&self, at: Duration) -> Option<(usize, Limited)> {
        self.reached.filter(|reached| at < reached.until).map(|reached| (reached.replicas, reached.why))
    }

    fn reach(&mut self, seen: &Observation, why: Limited) {
        let is_new = self.reached.is_none_or(|reached| reached.until <= seen.at);
        if is_new {
            // Soon after the last one it was in vain to try again; long after, things may have changed.
            let was_in_vain = self.reached.is_some_and(|reached| reached.until + self.pause > seen.at);
            self.pause = if was_in_vain { (self.pause * 2).min(LAST_PAUSE) } else { FIRST_PAUSE };
        }
        // As long as it goes on, the first pause at least follows it.
        let until = seen.at + if is_new { self.pause } else { FIRST_PAUSE };
        let until = self.reached.map_or(until, |reached| until.max(reached.until));
        self.reached = Some(Reached { replicas: seen.replicas.desired, until, why });
    }

    fn watch_throughput(&mut self, seen: &Observation) {
        let ready = seen.replicas.ready;
        let is_same = self.saturated.newest().is_none_or(|(_, (replicas, _))| *replicas == ready);
        if seen.queue_length < 1.0 || !is_same || ready == 0 {
            self.saturated = Window::new(MEASURE);
        }
        if seen.queue_length < 1.0 {
            self.best = None;
            return;
        }
        let answers = seen.service.count();
        self.saturated.push(seen.at, (ready, answers));
        let then = seen.at.checked_sub(MEASURE).and_then(|then| self.saturated.at(then));
        let Some(&(then, (_, before))) = then else { return };
        let throughput = (answers - before) / (seen.at - then).as_secs_f64();
        match self.best {
            Some((fewer, least)) if fewer < ready => {
                let expected = least * ready as f64 / fewer as f64;
                if throughput < least + WORTH * (expected - least) {
                    self.reach(seen, Limited::Useless);
                } else {
                    self.best = Some((ready, throughput));
                }
            }
            Some((same, _)) if same == ready => {}
            _ => self.best = Some((ready, throughput)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Histogram, Replicas};

    /// An observation with `ready` replicas, requests waiting or not, and so many answers ever.
    fn seen(second: u64, ready: usize, queue_length: f64, answers: f64) -> Observation {
        Observation {
            at: Duration::from_secs(second),
            queue_length,
            service: Histogram { buckets: vec![(f64::INFINITY, answers)], sum: 0.0 },
            replicas: Replicas { desired: ready, ready, ..Replicas::default() },
            ..Observation::default()
        }
    }

    /// Ten saturated seconds with two replicas at 20/s, then ten with three at `rate`.
    fn try_a_third(rate: f64) -> Option<(usize, Limited)> {
        let mut ceiling = Ceiling::default();
        for second in 0..=10 {
            ceiling.watch(&seen(second, 2, 9.0, 20.0 * second as f64));
        }
        for second in 11..=21 {
            ceiling.watch(&seen(second, 3, 9.0, 200.0 + rate * (second - 10) as f64));
        }
        ceiling.at(Duration::from_secs(21))
    }

    #[test]
    fn a_replica_that_brings_nothing_is_the_last_for_a_while() {
        assert_eq!(try_a_third(30.0), None);
        assert_eq!(try_a_third(24.0), None, "two fifths of what it should bring");
        assert_eq!(try_a_third(21.0), Some((3, Limited::Useless)));
        assert_eq!(try_a_third(15.0), Some((3, Limited::Useless)));
    }

    #[test]
    fn without_a_queue_throughput_says_nothing() {
        let mut ceiling = Ceiling::default();
        for second in 0..60 {
            ceiling.watch(&seen(second, 1 + second as usize / 20, 0.0, 5.0 * second as f64));
        }
        assert_eq!(ceiling.at(Duration::from_secs(60)), None);
    }

    #[test]
    fn each_vain_attempt_makes_the_next_pause_longer() {
        let mut ceiling = Ceiling::default();
        let mut full = seen(0, 3, 0.0, 0.0);
        full.replicas.blocked = 1;
        let mut pauses = Vec::new();
        for _ in 0..6 {
            ceiling.watch(&full);
            let until = ceiling.reached.expect("it was just reached").until;
            pauses.push((until - full.at).as_secs());
            full.at = until + Duration::from_secs(1);
        }
        assert_eq!(pauses, [60, 120, 240, 480, 900, 900]);
        full.at += LAST_PAUSE * 2;
        ceiling.watch(&full);
        assert_eq!((ceiling.reached.expect("again").until - full.at).as_secs(), 60, "that was long ago");
    }
}
