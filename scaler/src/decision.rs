//! A decision with its reason and the figures behind it, as people and other programs read it. The names of its fields in
//! JSON are part of the HTTP interface.

use law::limits::Limit;
use law::observation::{Observation, Replicas};
use law::slo::Plan;
use serde::Serialize;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

/// Reason of a tick without newer figures than those of the last decision.
pub const NO_NEWS: &str = "no_news";

/// Decisions that a journal remembers.
const REMEMBERED: usize = 1000;

/// Longest reason to hold, bytes: it may quote what other programs say.
const LONGEST: usize = 1000;

/// The direction of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// More replicas.
    Up,
    /// Fewer replicas.
    Down,
    /// As many replicas.
    Hold,
}

impl Action {
    /// The direction from the present replicas to the desired ones.
    pub fn of(current: usize, desired: usize) -> Self {
        match desired.cmp(&current) {
            Ordering::Greater => Self::Up,
            Ordering::Less => Self::Down,
            Ordering::Equal => Self::Hold,
        }
    }

    /// The name in metrics and logs.
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
    /// Requests that wait.
    pub queue_length: f64,
    /// Requests that were sent to replicas and are not answered yet.
    pub in_flight: f64,
    /// Requests that were ever offered.
    pub arrivals: f64,
    /// Answers so far.
    pub answers: f64,
    /// Requests that all replicas hold at once.
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
    /// The figures; `None` without an observation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Inputs>,
    /// Replicas that the law recommends, if it has an opinion.
    #[serde(rename = "wanted", skip_serializing_if = "Option::is_none")]
    pub recommended: Option<usize>,
    /// The figures behind the recommendation.
    #[serde(rename = "workings", skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// The limit that changed the recommendation.
    #[serde(rename = "limited")]
    pub limit: Limit,
    /// Replicas that are asked for now.
    pub desired: usize,
    /// The direction.
    pub action: Action,
    /// Why the decision was not carried out, such as `--dry-run`, if it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withheld: Option<String>,
    /// The reason's name, a label of metrics.
    pub reason: &'static str,
    /// The reason with its figures, for people.
    pub explanation: String,
}

impl Decision {
    /// The decision to change nothing, since nothing can be known or done.
    pub fn hold(at_seconds: f64, replicas: Replicas, reason: &'static str, mut explanation: String) -> Self {
        if explanation.len() > LONGEST {
            explanation.truncate(explanation.floor_char_boundary(LONGEST));
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

/// The latest decisions, newest last. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Journal(Arc<Mutex<VecDeque<Decision>>>);

impl Journal {
    /// Adds a decision and forgets the oldest.
    pub fn add(&self, decision: Decision) {
        let mut decisions = self.lock();
        if decisions.len() == REMEMBERED {
            decisions.pop_front();
        }
        decisions.push_back(decision);
    }

    /// All decisions.
    pub fn all(&self) -> Vec<Decision> {
        self.lock().iter().cloned().collect()
    }

    /// The newest decision.
    pub fn latest(&self) -> Option<Decision> {
        self.lock().back().cloned()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Decision>> {
        self.0.lock().expect("no method panics while it holds the lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_decisions_with_long_reasons_are_not_much() {
        let hold = |why: String| Decision::hold(0.0, Replicas::default(), "no_observation", why).explanation;
        assert_eq!(hold("short".into()), "short");
        let long = hold("ä".repeat(1 << 20));
        assert!((999..1010).contains(&long.len()) && long.ends_with("ä…"), "{}", long.len());
    }
}
