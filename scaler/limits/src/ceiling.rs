//! How many replicas the cluster can hold, found by trying. If replicas cannot be placed or keep dying, or if the last
//! ones brought no more throughput, none are added for a while. Replicas that cannot be placed are withdrawn.

mod throughput;

use super::Limit;
use law::observation::{Observation, Replicas};
use std::time::Duration;
use throughput::{Saturation, Throughput};

/// Pauses after replicas that brought no more throughput. They are long, because each new attempt costs money. Within
/// five minutes after a pause, new replicas have started, and their throughput is measured.
const NO_GAIN: Pauses =
    Pauses { first: Duration::from_secs(60), last: Duration::from_secs(15 * 60), attempt: Duration::from_secs(5 * 60) };

/// Pauses after replicas that could not be placed. They are short, because a new attempt costs little, and there may be
/// room at any time. An attempt fails at once.
const FULL: Pauses =
    Pauses { first: Duration::from_secs(15), last: Duration::from_secs(2 * 60), attempt: Duration::ZERO };

/// The time after which blocked replicas are withdrawn if none of them waits for a node, such as those that keep dying
/// or exceed a quota.
const WITHDRAW_AFTER: Duration = Duration::from_secs(10);

/// The ceiling, and the observations from which it follows.
#[derive(Debug, Default)]
pub struct Ceiling {
    reached: Option<Reached>,
    /// The blocked replicas; `None` if there are none.
    blocked: Option<Blocked>,
    saturation: Saturation,
    /// The throughput that the next one is compared with.
    base: Option<Throughput>,
}

/// A ceiling that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// The number of replicas that the cluster can hold.
    pub replicas: usize,
    /// The limit that the ceiling sets: [`Limit::Full`] or [`Limit::NoGain`].
    pub limit: Limit,
    until: Duration,
    pause: Duration,
}

/// Replicas that cannot be placed, or keep dying.
#[derive(Debug)]
struct Blocked {
    replicas: usize,
    /// The time at which their number last rose.
    since: Duration,
    /// Those for which there is no more hope. Only the rise above them is timed and sets a ceiling.
    hopeless: usize,
}

/// How long no replicas are added. The pause doubles from `first` to `last` as long as new attempts fail.
#[derive(Debug, Clone, Copy)]
struct Pauses {
    first: Duration,
    last: Duration,
    /// The time that a new attempt may take. The pause also doubles if the attempt fails within the last pause.
    attempt: Duration,
}

impl Ceiling {
    /// Learns from an observation.
    pub fn watch(&mut self, seen: &Observation) {
        self.watch_blocked(seen);
        self.watch_throughput(seen);
    }

    /// The ceiling that holds at `at`; `None` if none does.
    pub fn at(&self, at: Duration) -> Option<Reached> {
        self.reached.filter(|reached| at < reached.until)
    }

    /// The blocked replicas that should be withdrawn, because there is no more hope for them. None while there is hope
    /// for others: the cluster might remove those instead.
    pub fn hopeless(&self) -> usize {
        self.blocked
            .as_ref()
            .filter(|blocked| blocked.hopeless == blocked.replicas)
            .map_or(0, |blocked| blocked.hopeless)
    }

    /// Reaches a ceiling while replicas are blocked and there is hope for them. Hopeless replicas do not prolong the
    /// ceiling: if such a replica stays, because of `--min` or because the cluster removes another one instead, the
    /// ceiling would never end.
    fn watch_blocked(&mut self, seen: &Observation) {
        let Replicas { ready, starting, blocked: replicas, lost, .. } = seen.replicas;
        if replicas == 0 {
            self.blocked = None;
            return;
        }
        let before = self.blocked.as_ref();
        let since = before.filter(|before| replicas <= before.replicas).map_or(seen.at, |before| before.since);
        let were_hopeless = before.map_or(0, |before| before.hopeless.min(replicas));
        let is_hopeless = seen.at >= since + seen.placement.unwrap_or(WITHDRAW_AFTER);
        self.blocked = Some(Blocked { replicas, since, hopeless: if is_hopeless { replicas } else { were_hopeless } });
        if replicas > were_hopeless {
            // At least one replica stays desired. Without it, no replica would be tried again.
            self.reach(seen.at, (ready + starting + lost).max(1), Limit::Full);
        }
    }

    fn reach(&mut self, at: Duration, replicas: usize, limit: Limit) {
        let Pauses { first, last, attempt } = if limit == Limit::Full { FULL } else { NO_GAIN };
        let before = self.reached.filter(|reached| reached.limit == limit);
        let pause = match before {
            // The ceiling still holds, so its pause does not grow.
            Some(reached) if at < reached.until => reached.pause,
            // The attempt to exceed the ceiling failed, so the next pause is twice as long.
            Some(reached) if at < reached.until + reached.pause.max(attempt) => (reached.pause * 2).min(last),
            _ => first,
        };
        self.reached = Some(Reached { replicas, limit, until: at + pause, pause });
    }

    /// Compares the throughput of more ready replicas with that of fewer. Each number of replicas is judged once, so
    /// that the pause ends although requests still wait.
    fn watch_throughput(&mut self, seen: &Observation) {
        let throughput = self.saturation.measure(seen);
        if seen.queue_length < 1.0 {
            self.base = None;
        }
        let Some(throughput) = throughput else { return };
        if let Some(base) = self.base.filter(|base| base.replicas < throughput.replicas) {
            match throughput.is_gain(&base) {
                // An old throughput says little, since other images come. So the comparison ends when the measurement does.
                None if !throughput.is_complete() => return,
                // Replicas that were desired before the ceiling was reached are no further attempt.
                Some(false) if self.at(seen.at).is_none() => {
                    self.reach(seen.at, seen.replicas.desired, Limit::NoGain);
                }
                _ => {}
            }
        }
        self.base = Some(throughput);
    }
}
