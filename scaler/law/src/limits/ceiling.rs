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
            // The ceiling still holds, so its pause does not grow.
            Some(reached) if at < reached.until => reached.pause,
            // The attempt to exceed the ceiling failed, so the next pause is twice as long.
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

    const S: fn(u64) -> Duration = Duration::from_secs;

    /// An observation with `ready` replicas, and `answers` so far.
    fn seen(second: u64, ready: usize, queue_length: f64, answers: f64) -> Observation {
        let service = Histogram { buckets: vec![(f64::INFINITY, answers)], sum: 0.0 };
        let replicas = Replicas { desired: ready, ready, ..Replicas::default() };
        Observation { at: S(second), queue_length, service, replicas, ..Observation::default() }
    }

    #[test]
    fn after_a_replica_without_gain_none_is_added_for_a_while() {
        // A replica more should bring 10/s; two fifths of that are a gain, a tenth is not.
        for (rate, expected) in [(30.0, None), (24.0, None), (21.0, Some(3)), (15.0, Some(3))] {
            let mut ceiling = Ceiling::default();
            for second in 0..=10 {
                ceiling.watch(&seen(second, 2, 9.0, 20.0 * second as f64));
            }
            for second in 11..=21 {
                ceiling.watch(&seen(second, 3, 9.0, 200.0 + rate * (second - 10) as f64));
            }
            let found = ceiling.at(S(21)).map(|reached| (reached.replicas, reached.why));
            assert_eq!(found, expected.map(|replicas| (replicas, Limit::NoGain)), "{rate}/s");
        }
    }

    #[test]
    fn without_a_queue_throughput_says_nothing() {
        let mut ceiling = Ceiling::default();
        for second in 0..60 {
            ceiling.watch(&seen(second, 1 + second as usize / 20, 0.0, 5.0 * second as f64));
        }
        assert_eq!(ceiling.at(S(60)), None);
    }

    fn blocked(second: u64, ready: usize) -> Observation {
        let replicas = Replicas { desired: ready + 1, ready, starting: 0, blocked: 1 };
        Observation { replicas, ..seen(second, ready, 0.0, 0.0) }
    }

    #[test]
    fn each_vain_attempt_makes_the_next_pause_longer() {
        let mut ceiling = Ceiling::default();
        let mut at = Duration::ZERO;
        let mut pause = |rest: Duration| {
            at += rest;
            ceiling.watch(&Observation { at, ..blocked(0, 3) });
            let pause = ceiling.reached.expect("reached").until - at;
            at += pause + S(1);
            pause.as_secs()
        };
        assert_eq!([(); 6].map(|()| pause(Duration::ZERO)), [15, 30, 60, 120, 120, 120]);
        assert_eq!(pause(FULL.last * 2), 15, "that was long ago");
    }

    #[test]
    fn unplaced_replicas_stay_asked_for_until_a_cluster_autoscaler_has_looked() {
        let mut ceiling = Ceiling::default();
        for second in 0..=11 {
            ceiling.watch(&blocked(second, 3));
            let Reached { replicas, why, is_final, .. } = ceiling.at(S(second)).expect("it is full");
            assert_eq!((replicas, why, is_final), (3, Limit::Full, second >= 10), "at {second} s");
        }
        // Withdrawn at 12 s, and tried again 15 s after that.
        for second in 12..26 {
            ceiling.watch(&seen(second, 3, 0.0, 0.0));
            assert!(ceiling.at(S(second)).is_some(), "at {second} s");
        }
        assert_eq!(ceiling.at(S(26)), None);
    }

    #[test]
    fn at_least_one_replica_is_tried() {
        let mut ceiling = Ceiling::default();
        ceiling.watch(&blocked(0, 0));
        assert_eq!(ceiling.at(Duration::ZERO).map(|reached| reached.replicas), Some(1));
    }
}
