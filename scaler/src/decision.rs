//! A decision with its reason and its figures, as the log and the HTTP interface show it. The field names in JSON are
//! part of that interface.

use law::observation::{Observation, Replicas};
use law::slo::Plan;
use limits::Limit;
use serde::Serialize;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

/// The reason to hold when no figures are newer than those of the last decision.
pub const NO_NEWS: &str = "no_news";

/// Number of changes that a journal keeps, and of other decisions.
const JOURNAL_LENGTH: usize = 1000;

/// A change is a repetition if the same change was decided within this time before, in seconds.
const REPETITION_SECONDS: f64 = 60.0;

/// The most bytes that [`Decision::hold`] keeps of an explanation, which may quote a long message of another program.
const MAX_EXPLANATION: usize = 1000;

/// The direction of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// More replicas.
    Up,
    /// Fewer replicas.
    Down,
    /// The same number of replicas.
    Hold,
}

impl Action {
    /// The direction from `current` replicas to `desired` replicas.
    pub fn of(current: usize, desired: usize) -> Self {
        match desired.cmp(&current) {
            Ordering::Greater => Self::Up,
            Ordering::Less => Self::Down,
            Ordering::Equal => Self::Hold,
        }
    }

    /// The name of the direction in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Hold => "hold",
        }
    }
}

/// The most important figures of an observation.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Inputs {
    /// The number of requests that wait in the dispatchers.
    pub queue_length: f64,
    /// The number of requests that were sent to replicas and are not answered yet.
    pub in_flight: f64,
    /// The number of requests that were ever offered, refused requests included.
    pub arrivals: f64,
    /// The number of answers that replicas have ever given.
    pub answers: f64,
    /// Slots of all replicas in rotation: the number of requests that they can hold at once.
    pub capacity: f64,
}

impl From<&Observation> for Inputs {
    fn from(seen: &Observation) -> Self {
        let &Observation { queue_length, in_flight, arrivals, capacity, .. } = seen;
        Self { queue_length, in_flight, arrivals, answers: seen.service.count(), capacity }
    }
}

/// The decision of one tick.
#[derive(Debug, Clone, Serialize)]
pub struct Decision {
    /// Seconds since the scaler started.
    pub at_seconds: f64,
    /// Replicas before the decision.
    pub replicas: Replicas,
    /// The figures of the observation; `None` if there was no observation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Inputs>,
    /// The number of replicas that the law recommends; `None` if it recommends nothing at this tick.
    #[serde(rename = "wanted", skip_serializing_if = "Option::is_none")]
    pub recommended: Option<usize>,
    /// The figures behind the recommendation of the law `slo`; `None` for other laws.
    #[serde(rename = "workings", skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// The limit that changed the recommendation.
    #[serde(rename = "limited")]
    pub limit: Limit,
    /// The desired number of replicas, after the limits.
    pub desired: usize,
    /// The direction from the replicas before the decision to the desired replicas.
    pub action: Action,
    /// The reason why the decision was not carried out, such as `--dry-run`; `None` if it was carried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withheld: Option<String>,
    /// The name of the reason, which is also a label of metrics.
    pub reason: &'static str,
    /// The reason with its figures, as a sentence for users.
    pub explanation: String,
}

impl Decision {
    /// The decision to change nothing, because there is no observation or the target cannot be changed.
    pub fn hold(at_seconds: f64, replicas: Replicas, reason: &'static str, mut explanation: String) -> Self {
        if explanation.len() > MAX_EXPLANATION {
            explanation.truncate(explanation.floor_char_boundary(MAX_EXPLANATION));
            explanation.push('…');
        }
        Self {
            at_seconds,
            replicas,
            inputs: None,
            recommended: None,
            plan: None,
            limit: Limit::Granted,
            desired: replicas.desired,
            action: Action::Hold,
            withheld: None,
            reason,
            explanation,
        }
    }
}

/// The latest 1000 changes, and the latest 1000 other decisions: those to hold, and repetitions of a change that is not
/// made at once. So changes stay however many holds follow. All clones share one list.
#[derive(Debug, Clone, Default)]
pub struct Journal(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    /// Decisions in the order of their addition, each with whether it is a change and no repetition.
    decisions: VecDeque<(bool, Decision)>,
    /// The present and the desired replicas of the last change, and the time at which it was decided last.
    last: Option<((usize, usize), f64)>,
}

impl Journal {
    /// Adds a decision. Removes the oldest change if there are too many changes, and otherwise the oldest other decision
    /// if there are too many of those.
    pub fn add(&self, decision: Decision) {
        let mut entries = self.lock();
        let is_new = decision.action != Action::Hold && {
            let (change, at) = ((decision.replicas.desired, decision.desired), decision.at_seconds);
            let last = entries.last.replace((change, at));
            last.is_none_or(|(last, then)| last != change || at > then + REPETITION_SECONDS)
        };
        let decisions = &mut entries.decisions;
        decisions.push_back((is_new, decision));
        let mut of_kind = (0..decisions.len()).filter(|&index| decisions[index].0 == is_new);
        if let (Some(oldest), Some(_)) = (of_kind.next(), of_kind.nth(JOURNAL_LENGTH - 1)) {
            decisions.remove(oldest);
        }
    }

    /// All decisions in the journal, newest last.
    pub fn all(&self) -> Vec<Decision> {
        self.lock().decisions.iter().map(|(_, decision)| decision.clone()).collect()
    }

    /// The newest decision; `None` before the first tick.
    pub fn latest(&self) -> Option<Decision> {
        self.lock().decisions.back().map(|(_, decision)| decision.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().expect("no method panics while it holds the lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_survive_holds_and_repetitions() {
        let journal = Journal::default();
        let hold = |at| Decision::hold(at, Replicas::default(), "objective", String::new());
        let change = |at, desired| Decision { action: Action::of(0, desired), desired, ..hold(at) };
        // A change that is not made is decided at every tick, for example with --dry-run.
        let decisions = (0..5000_u32).map(|tick| match (f64::from(tick) / 2.0, tick) {
            (at, 10 | 20) => change(at, tick as usize),
            (at, 30..3000) => change(at, 30),
            (at, _) => hold(at),
        });
        decisions.for_each(|decision| journal.add(decision));
        let kept = journal.all();
        let changes: Vec<f64> =
            kept.iter().filter(|kept| kept.action == Action::Up).map(|kept| kept.at_seconds).collect();
        assert_eq!(changes, [5.0, 10.0, 15.0]);
        assert_eq!(kept.len(), 3 + 1000, "the latest holds are kept, too");
        assert!(kept.is_sorted_by_key(|kept| kept.at_seconds));
        assert_eq!(journal.latest().map(|latest| latest.at_seconds), Some(2499.5));
    }

    #[test]
    fn long_explanations_are_cut_to_a_thousand_bytes() {
        let hold = |text: String| Decision::hold(0.0, Replicas::default(), "no_observation", text).explanation;
        assert_eq!(hold("short".into()), "short");
        let long = hold("ä".repeat(1 << 20));
        assert!((999..1010).contains(&long.len()) && long.ends_with("ä…"), "{}", long.len());
    }
}
