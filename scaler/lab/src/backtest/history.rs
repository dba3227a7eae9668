//! The recorded history of a period: the figures that were recorded and are plausible.

use super::answers::RecordedAnswers;
use super::load::RecordedLoad;
use super::outcome::RecordedOutcome;
use super::period::Period;
use super::samples::{PointMap, ReplicaCounts};
use crate::simulate::comparison::ComparisonRow;
use readings::snapshot::FigureFault;
use std::time::Duration;

/// The recorded history of a period.
#[derive(Debug)]
pub struct History {
    /// The period that the history covers.
    pub period: Period,
    /// The requests that arrived in each step.
    pub load: RecordedLoad,
    /// The number of requests that were refused.
    pub shed: f64,
    /// The number of different dispatchers in the period. They need not have run at the same time.
    pub dispatchers: usize,
    /// The number of restarts of all dispatchers.
    pub restarts: usize,
    /// The answers to the requests, or the reason why the recorded answers are not used.
    pub answers: Result<RecordedAnswers, ImplausibleAnswers>,
    /// The numbers of replicas at the points at which they are known.
    pub replicas: PointMap<ReplicaCounts>,
    /// The number of requests that a replica holds at once; `None` if it was not recorded.
    pub slots: Option<u32>,
    /// The median time of a replica from exec to ready; `None` if it was not recorded.
    pub startup: Option<Duration>,
    /// If two neighbouring points are more than this number of steps apart, there is a gap between them.
    pub max_gap: usize,
}

/// The reason why the recorded answers cannot be true. The message is part of the JSON that `--json` writes.
#[derive(Debug, thiserror::Error)]
#[error("{endpoint} at {at}: {fault}")]
pub struct ImplausibleAnswers {
    pub(super) endpoint: String,
    pub(super) at: String,
    pub(super) fault: FigureFault,
}

impl History {
    /// The row of what happened, for a comparison with the rows of laws.
    pub fn recorded(&self, objective: Duration) -> ComparisonRow {
        let unknown = RecordedAnswers::default();
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
