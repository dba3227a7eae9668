//! The recorded history of a period, as far as it is known and plausible.

use super::answers::Answers;
use super::load::Load;
use super::outcome::RecordedOutcome;
use super::period::Period;
use super::samples::{Points, ReplicaCounts};
use crate::simulate::comparison::Row;
use scaler::observe::snapshot::FigureFault;
use std::time::Duration;

/// A recorded history.
#[derive(Debug)]
pub struct History {
    /// The period.
    pub period: Period,
    /// Requests that arrived.
    pub load: Load,
    /// Number of requests that were refused.
    pub shed: f64,
    /// Number of dispatchers, at once or one after the other.
    pub dispatchers: usize,
    /// Number of restarts of dispatchers.
    pub restarts: usize,
    /// Answers to requests, or the reason why the recorded ones are not used.
    pub answers: Result<Answers, ImplausibleAnswers>,
    /// Replicas at the points where they are known.
    pub replicas: Points<ReplicaCounts>,
    /// Requests that a replica holds at once.
    pub slots: Option<u32>,
    /// Median time that a replica takes from exec to ready.
    pub startup: Option<Duration>,
    /// Points that lie more steps apart have a gap between them.
    pub max_gap: usize,
}

/// A reason why recorded answers cannot be true.
#[derive(Debug, thiserror::Error)]
#[error("{endpoint} at {at}: {fault}")]
pub struct ImplausibleAnswers {
    pub(super) endpoint: String,
    pub(super) at: String,
    pub(super) fault: FigureFault,
}

impl History {
    /// The row of what happened, beside those of the laws.
    pub fn recorded(&self, objective: Duration) -> Row {
        let unknown = Answers::default();
        let outcome = RecordedOutcome {
            period: &self.period,
            load: &self.load,
            shed: self.shed,
            answers: self.answers.as_ref().unwrap_or(&unknown),
            replicas: &self.replicas,
            max_gap: self.max_gap,
        };
        outcome.row(objective)
    }
}
