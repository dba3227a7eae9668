//! One decision: what was seen, what the law had in mind, what a limit made of it. What people and other programs read.

use law::limits::Limit;
use law::observation::{Observation, Replicas};
use law::slo::Plan;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// Decisions that are remembered.
const REMEMBERED: usize = 1000;

/// Longest reason to hold, in bytes: it may quote what others say.
const LONGEST: usize = 1000;

/// Up, down or neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// More replicas.
    Up,
    /// Fewer.
    Down,
    /// As many.
    Hold,
}

impl Action {
    /// From so many to so many.
    pub fn of(current: usize, desired: usize) -> Self {
        match desired.cmp(&current) {
            std::cmp::Ordering::Greater => Self::Up,
            std::cmp::Ordering::Less => Self::Down,
            std::cmp::Ordering::Equal => Self::Hold,
        }
    }

    /// Its name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Hold => "hold",
        }
    }
}

/// What a decision was made from, in short.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Inputs {
    /// Requests waiting.
    pub queue_length: f64,
    /// Requests sent, unanswered.
    pub in_flight: f64,
    /// Requests ever offered.
    pub arrivals: f64,
    /// Answers ever.
    pub answers: f64,
    /// Requests that all replicas take at once.
    pub capacity: f64,
}

impl From<&Observation> for Inputs {
    fn from(seen: &Observation) -> Self {
        Self {
            queue_length: seen.queue_length,
            in_flight: seen.in_flight,
            arrivals: seen.arrivals,
            answers: seen.service.count(),
            capacity: seen.capacity,
        }
    }
}

/// One tick's decision with its reason.
#[derive(Debug, Clone, Serialize)]
pub struct Decision {
    /// Seconds since the scaler started.
    pub at_seconds: f64,
    /// What was there before.
    pub replicas: Replicas,
    /// What was seen; nothing if nothing could be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Inputs>,
    /// Replicas that the law recommends, if it has an opinion.
    #[serde(rename = "wanted", skip_serializing_if = "Option::is_none")]
    pub recommended: Option<usize>,
    /// The figures behind the law's recommendation.
    #[serde(rename = "workings", skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// The limit that changed the recommendation.
    #[serde(rename = "limited")]
    pub limit: Limit,
    /// What is asked for now.
    pub desired: usize,
    /// Up, down or hold.
    pub action: Action,
    /// Why nothing was done about it all the same, such as `--dry-run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withheld: Option<String>,
    /// The reason's name.
    pub reason: &'static str,
    /// The reason with its figures.
    pub explanation: String,
}

impl Decision {
    /// Nothing changes, since nothing can be known.
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

/// The latest decisions, newest last; shared by who makes them and who tells of them.
#[derive(Debug, Clone, Default)]
pub struct Journal(Arc<Mutex<VecDeque<Decision>>>);

impl Journal {
    /// Adds one and forgets the oldest.
    pub fn add(&self, decision: Decision) {
        let mut decisions = self.0.lock().expect("nobody panics while holding the journal");
        if decisions.len() == REMEMBERED {
            decisions.pop_front();
        }
        decisions.push_back(decision);
    }

    /// All of them.
    pub fn all(&self) -> Vec<Decision> {
        self.0.lock().expect("nobody panics while holding the journal").iter().cloned().collect()
    }

    /// The newest.
    pub fn latest(&self) -> Option<Decision> {
        self.0.lock().expect("nobody panics while holding the journal").back().cloned()
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
