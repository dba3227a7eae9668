//! How many replicas the cluster can hold, found by trying. If replicas cannot be placed or keep dying, or if the last
//! ones brought no more throughput, none are added for a while. Replicas that cannot be placed are withdrawn.

use super::Limit;
use crate::observation::{Observation, Replicas};
use crate::window::Window;
use std::time::Duration;

/// Pauses after replicas that brought no more throughput. They are long, because each new attempt costs money.
const NO_GAIN: Pauses = Pauses { first: Duration::from_secs(60), last: Duration::from_secs(15 * 60) };

/// Pauses after replicas that could not be placed. They are short, because a new attempt costs little, and there may be
/// room at any time.
const FULL: Pauses = Pauses { first: Duration::from_secs(15), last: Duration::from_secs(2 * 60) };

/// The time after which replicas that cannot be placed are withdrawn. cluster-autoscaler looks for unschedulable pods
/// every ten seconds (its flag --scan-interval). Replicas that are withdrawn earlier would never get a node.
const WITHDRAW_AFTER: Duration = Duration::from_secs(10);

/// The time over which throughput is measured. Requests must wait all that time, and the number of ready replicas must
/// stay the same.
const MEASURE: Duration = Duration::from_secs(8);

/// New replicas are a gain if they bring at least this share of the throughput that they should bring.
const GAIN: f64 = 0.25;

/// The ceiling, and the observations from which it follows.
#[derive(Debug)]
pub struct Ceiling {
    reached: Option<Reached>,
    /// The time since which some replicas cannot be placed; `None` if all can be placed.
    blocked: Option<Duration>,
    /// Ready replicas and cumulative answers, since requests wait and the number of ready replicas has not changed.
    saturated: Window<(usize, f64)>,
    /// The measurement that the next one is compared with: ready replicas, and their answers per second while requests
    /// waited.
    best: Option<(usize, f64)>,
}

/// A ceiling that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// The number of replicas that the cluster can hold.
    pub replicas: usize,
    /// The limit that the ceiling sets: [`Limit::Full`] or [`Limit::NoGain`].
    pub limit: Limit,
    /// Whether desired replicas beyond the ceiling are withdrawn.
    pub is_final: bool,
    until: Duration,
    pause: Duration,
}

/// How long no replicas are added. The pause doubles from `first` to `last` as long as new attempts fail.
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
            // At least one replica stays desired. Without it, no replica would be tried again.
            self.reach(seen.at, (ready + starting).max(1), Limit::Full, seen.at >= since + WITHDRAW_AFTER);
        } else {
            self.blocked = None;
        }
        self.watch_throughput(seen);
    }

    /// The ceiling that holds at `at`; `None` if none does.
    pub fn at(&self, at: Duration) -> Option<Reached> {
        self.reached.filter(|reached| at < reached.until)
    }

    fn reach(&mut self, at: Duration, replicas: usize, limit: Limit, is_final: bool) {
        let Pauses { first, last } = if limit == Limit::Full { FULL } else { NO_GAIN };
        let before = self.reached.filter(|reached| reached.limit == limit);
        let pause = match before {
            // The ceiling still holds, so its pause does not grow.
            Some(reached) if at < reached.until => reached.pause,
            // The attempt to exceed the ceiling failed, so the next pause is twice as long.
            Some(reached) if at < reached.until + reached.pause => (reached.pause * 2).min(last),
            _ => first,
        };
        self.reached = Some(Reached { replicas, limit, is_final, until: at + pause, pause });
    }

    fn watch_throughput(&mut self, seen: &Observation) {
        let ready = seen.replicas.ready;
        let is_same = self.saturated.newest().is_none_or(|(_, (replicas, _))| *replicas == ready);
        // Until a partial observation, the answers to some dispatchers are missing.
        if seen.queue_length < 1.0 || !is_same || ready == 0 || seen.is_partial {
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
