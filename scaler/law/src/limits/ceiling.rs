//! How many replicas the cluster can hold, found by trying: when some cannot be placed or keep dying, and when the last ones
//! that were added brought no more throughput, none are added for a while. Replicas that cannot be placed are withdrawn.

use super::Limit;
use crate::observation::{Observation, Replicas};
use crate::window::Window;
use std::time::Duration;

/// Pauses after replicas that brought no more throughput: adding more again costs what they cost.
const NO_GAIN: Pauses = Pauses { first: Duration::from_secs(60), last: Duration::from_secs(15 * 60) };

/// Pauses after replicas that could not be placed: trying again costs little, and room may come at any time.
const FULL: Pauses = Pauses { first: Duration::from_secs(15), last: Duration::from_secs(2 * 60) };

/// How long replicas that cannot be placed stay asked for. A cluster autoscaler looks for such pods every ten seconds
/// (cluster-autoscaler's --scan-interval); withdrawn earlier, they would never get a node.
const WITHDRAW_AFTER: Duration = Duration::from_secs(10);

/// Time over which throughput is measured, while requests wait and the number of replicas stays.
const MEASURE: Duration = Duration::from_secs(8);

/// Share of the throughput that more replicas should add which counts as a gain.
const GAIN: f64 = 0.25;

/// The ceiling with what led to it.
#[derive(Debug)]
pub struct Ceiling {
    reached: Option<Reached>,
    /// Time since which some replicas cannot be placed, while that is so.
    blocked: Option<Duration>,
    /// Ready replicas and all answers, since requests have waited and the replicas are these.
    saturated: Window<(usize, f64)>,
    /// Ready replicas, and the answers per second that they gave while requests waited.
    best: Option<(usize, f64)>,
}

/// A ceiling that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// Replicas that the cluster can hold.
    pub replicas: usize,
    /// [`Limit::Full`] or [`Limit::NoGain`].
    pub why: Limit,
    /// Whether the replicas beyond the ceiling are to be withdrawn.
    pub is_final: bool,
    until: Duration,
    pause: Duration,
}

/// Time in which no replicas are added; it doubles from `first` to `last` while trying again is in vain.
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
    /// Learns from an observation.
    pub fn watch(&mut self, seen: &Observation) {
        let Replicas { ready, starting, blocked, .. } = seen.replicas;
        if blocked > 0 {
            let since = *self.blocked.get_or_insert(seen.at);
            // One replica stays asked for, or no replica would ever be tried again.
            self.reach(seen.at, (ready + starting).max(1), Limit::Full, seen.at >= since + WITHDRAW_AFTER);
        } else {
            self.blocked = None;
        }
        self.watch_throughput(seen);
    }

    /// The ceiling, while it holds.
    pub fn at(&self, at: Duration) -> Option<Reached> {
        self.reached.filter(|reached| at < reached.until)
    }

    fn reach(&mut self, at: Duration, replicas: usize, why: Limit, is_final: bool) {
        let Pauses { first, last } = if why == Limit::Full { FULL } else { NO_GAIN };
        let before = self.reached.filter(|reached| reached.why == why);
        let pause = match before {
            // It still holds.
            Some(reached) if at < reached.until => reached.pause,
            // It was in vain to try again.
            Some(reached) if at < reached.until + reached.pause => (reached.pause * 2).min(last),
            _ => first,
        };
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
                if throughput < least + GAIN * (expected - least) {
                    self.reach(seen.at, seen.replicas.desired, Limit::NoGain, false);
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
    use crate::histogram::Histogram;

    /// An observation with `ready` replicas, and `answers` so far.
    fn seen(second: u64, ready: usize, queue_length: f64, answers: f64) -> Observation {
        Observation {
            at: Duration::from_secs(second),
            queue_length,
            service: Histogram { buckets: vec![(f64::INFINITY, answers)], sum: 0.0 },
            replicas: Replicas { desired: ready, ready, ..Replicas::default() },
            ..Observation::default()
        }
    }

    /// The ceiling after ten saturated seconds with two replicas at 20/s and ten with three at `rate`.
    fn try_a_third(rate: f64) -> Option<(usize, Limit)> {
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
    fn after_a_replica_without_gain_none_is_added_for_a_while() {
        assert_eq!(try_a_third(30.0), None);
        assert_eq!(try_a_third(24.0), None, "two fifths of what it should bring");
        assert_eq!(try_a_third(21.0), Some((3, Limit::NoGain)));
        assert_eq!(try_a_third(15.0), Some((3, Limit::NoGain)));
    }

    #[test]
    fn without_a_queue_throughput_says_nothing() {
        let mut ceiling = Ceiling::default();
        for second in 0..60 {
            ceiling.watch(&seen(second, 1 + second as usize / 20, 0.0, 5.0 * second as f64));
        }
        assert_eq!(ceiling.at(Duration::from_secs(60)), None);
    }

    /// Three ready replicas and one that cannot be placed.
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
            let until = ceiling.reached.expect("reached").until;
            pauses.push((until - full.at).as_secs());
            full.at = until + Duration::from_secs(1);
        }
        assert_eq!(pauses, [15, 30, 60, 120, 120, 120]);
        full.at += FULL.last * 2;
        ceiling.watch(&full);
        assert_eq!((ceiling.reached.expect("again").until - full.at).as_secs(), 15, "that was long ago");
    }

    #[test]
    fn unplaced_replicas_stay_asked_for_until_a_cluster_autoscaler_has_looked() {
        let mut ceiling = Ceiling::default();
        let mut finals = Vec::new();
        for second in 0..=11 {
            ceiling.watch(&full(second));
            let reached = ceiling.at(Duration::from_secs(second)).expect("it is full");
            assert_eq!((reached.replicas, reached.why), (3, Limit::Full));
            finals.push(reached.is_final);
        }
        assert_eq!(finals, [vec![false; 10], vec![true; 2]].concat());
        // Withdrawn at 12 s, and tried again 15 s after that.
        for second in 12..26 {
            ceiling.watch(&seen(second, 3, 0.0, 0.0));
            assert!(ceiling.at(Duration::from_secs(second)).is_some(), "at {second} s");
        }
        assert_eq!(ceiling.at(Duration::from_secs(26)), None);
    }

    #[test]
    fn at_least_one_replica_is_tried() {
        let mut ceiling = Ceiling::default();
        let mut none = seen(0, 0, 1.0, 0.0);
        none.replicas = Replicas { desired: 1, ready: 0, starting: 0, blocked: 1 };
        ceiling.watch(&none);
        assert_eq!(ceiling.at(Duration::ZERO).map(|reached| reached.replicas), Some(1));
    }
}
