//! PURE: how many replicas the place holds, found by trying: when some cannot be placed or keep dying, and when the last
//! ones that were added brought no more throughput, nothing is added for a while. What cannot be placed is withdrawn.

use super::Limited;
use crate::policy::window::Window;
use crate::policy::{Observation, Replicas};
use std::time::Duration;

/// After replicas brought nothing, none are added for so long; twice as long each time that it was in vain, up to the
/// longest.
const USELESS: Pauses = Pauses { first: Duration::from_secs(60), last: Duration::from_secs(15 * 60) };

/// After some could not be placed: trying costs little then, and room may come at any time.
const FULL: Pauses = Pauses { first: Duration::from_secs(15), last: Duration::from_secs(2 * 60) };

/// How long they may stay asked for: whoever adds nodes to a cluster looks for pods that cannot be placed every ten seconds
/// (cluster-autoscaler's --scan-interval).
const PATIENCE: Duration = Duration::from_secs(10);

/// Throughput is measured while requests wait, for so long with the same number of replicas.
const MEASURE: Duration = Duration::from_secs(8);

/// Part of what more replicas should bring that counts as something.
const WORTH: f64 = 0.25;

/// What was found.
#[derive(Debug)]
pub struct Ceiling {
    reached: Option<Reached>,
    /// Since when some cannot be placed, while that is so.
    blocked: Option<Duration>,
    /// Answers ever, while requests waited and so many replicas served.
    saturated: Window<(usize, f64)>,
    /// Replicas, and answers per second that they gave while requests waited.
    best: Option<(usize, f64)>,
}

/// Where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// As many as the place holds.
    pub replicas: usize,
    /// How that showed.
    pub why: Limited,
    /// Whether those beyond it are no longer to be asked for.
    pub is_final: bool,
    until: Duration,
    pause: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Pauses {
    first: Duration,
    last: Duration,
}

impl Default for Ceiling {
    fn default() -> Self {
        Self { reached: None, blocked: None, saturated: Window::new(MEASURE), best: None }
    }
}

impl Ceiling {
    /// Learns from what is seen.
    pub fn watch(&mut self, seen: &Observation) {
        let Replicas { ready, starting, blocked, .. } = seen.replicas;
        if blocked > 0 {
            let since = *self.blocked.get_or_insert(seen.at);
            // One is always tried.
            self.reach(seen.at, (ready + starting).max(1), Limited::Full, seen.at >= since + PATIENCE);
        } else {
            self.blocked = None;
        }
        self.watch_throughput(seen);
    }

    /// Where it is, if that is known.
    pub fn at(&self, at: Duration) -> Option<Reached> {
        self.reached.filter(|reached| at < reached.until)
    }

    fn reach(&mut self, at: Duration, replicas: usize, why: Limited, is_final: bool) {
        let Pauses { first, last } = if why == Limited::Full { FULL } else { USELESS };
        let before = self.reached.filter(|reached| reached.why == why);
        let lasting = before.filter(|reached| at < reached.until);
        // Soon after the last one it was in vain to try again; long after, things may have changed.
        let pause = match before.filter(|reached| at < reached.until + reached.pause) {
            Some(reached) if lasting.is_some() => reached.pause,
            Some(reached) => (reached.pause * 2).min(last),
            None => first,
        };
        // As long as it goes on, a pause follows it.
        self.reached = Some(Reached { replicas, why, is_final, until: at + pause, pause });
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
                    self.reach(seen.at, seen.replicas.desired, Limited::Useless, false);
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
    use crate::policy::Histogram;

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
        ceiling.at(Duration::from_secs(21)).map(|reached| (reached.replicas, reached.why))
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

    /// Three that serve, and one that cannot be placed.
    fn full(second: u64) -> Observation {
        let mut full = seen(second, 3, 0.0, 0.0);
        full.replicas = Replicas { desired: 4, ready: 3, starting: 0, blocked: 1 };
        full
    }

    #[test]
    fn each_vain_attempt_makes_the_next_pause_longer() {
        let mut ceiling = Ceiling::default();
        let mut full = full(0);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            ceiling.watch(&full);
            let until = ceiling.reached.expect("it was just reached").until;
            pauses.push((until - full.at).as_secs());
            full.at = until + Duration::from_secs(1);
        }
        assert_eq!(pauses, [15, 30, 60, 120, 120, 120]);
        full.at += FULL.last * 2;
        ceiling.watch(&full);
        assert_eq!((ceiling.reached.expect("again").until - full.at).as_secs(), 15, "that was long ago");
    }

    #[test]
    fn what_cannot_be_placed_is_asked_for_as_long_as_somebody_may_add_a_node() {
        let mut ceiling = Ceiling::default();
        let mut course = Vec::new();
        for second in 0..=11 {
            ceiling.watch(&full(second));
            let reached = ceiling.at(Duration::from_secs(second)).expect("it is full");
            assert_eq!((reached.replicas, reached.why), (3, Limited::Full));
            course.push(reached.is_final);
        }
        assert_eq!(course, [vec![false; 10], vec![true; 2]].concat());
        // Withdrawn at 12 s, and tried again 15 s after that.
        for second in 12..26 {
            ceiling.watch(&seen(second, 3, 0.0, 0.0));
            assert!(ceiling.at(Duration::from_secs(second)).is_some(), "at {second} s");
        }
        assert_eq!(ceiling.at(Duration::from_secs(26)), None);
    }

    #[test]
    fn one_replica_is_tried_at_least() {
        let mut ceiling = Ceiling::default();
        let mut none = seen(0, 0, 1.0, 0.0);
        none.replicas = Replicas { desired: 1, ready: 0, starting: 0, blocked: 1 };
        ceiling.watch(&none);
        assert_eq!(ceiling.at(Duration::ZERO).map(|reached| reached.replicas), Some(1));
    }
}
