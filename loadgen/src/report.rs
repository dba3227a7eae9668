//! What a run found, and the ways to show it.

pub mod html;
pub mod terminal;

use crate::summary::{Row, Summary};
use crate::watch::Glimpse;
use serde::{Deserialize, Serialize};
use service::arrivals::Process;

/// Everything that one run found. This is the JSON that `--json` writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was done.
    pub setup: Setup,
    /// The figures of the whole run.
    pub summary: Summary,
    /// The figures second by second.
    pub seconds: Vec<Row>,
    /// The same in the wider rows that `--table` prints; empty without it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub table: Vec<Row>,
    /// What the dispatcher said meanwhile; empty if it was none.
    pub glimpses: Vec<Glimpse>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// Where pictures were posted.
    pub url: String,
    /// The workload in words.
    pub load: String,
    /// How arrivals were spread.
    pub arrivals: Process,
    /// Of arrivals and generated pictures.
    pub seed: u64,
    /// Different pictures.
    pub pictures: usize,
    /// Answers were to be there within this time.
    pub objective_ms: f64,
    /// Of the schedule.
    pub length_seconds: f64,
}

impl Report {
    /// What the dispatcher said last before the end of `second`.
    pub fn glimpse(&self, second: usize) -> Option<&Glimpse> {
        self.glimpses.iter().rev().find(|glimpse| glimpse.at_seconds < second as f64 + 1.0)
    }
}
