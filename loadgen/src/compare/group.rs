//! The runs of one name, which are repetitions with different seeds, and their row in the table. Pure.

use crate::figure::{Estimate, Figure};
use crate::report::RunReport;

/// The runs of one name. Their figures are means over the runs.
#[derive(Debug, Clone, PartialEq)]
pub struct RunGroup {
    /// Name of the runs; unique in the comparison.
    pub name: String,
    /// The reports of the runs, at least one. Each has another seed.
    pub runs: Vec<RunReport>,
}

/// The header of the table.
pub(super) const COLUMNS: [&str; 9] = [
    "run",
    "within objective",
    "p95 of all offered",
    "p99 of all offered",
    "failed",
    "replica-seconds",
    "peak replicas",
    "changes",
    "replica-s per 1000 good",
];

impl RunGroup {
    /// Mean percentage of requests that were answered within the objective.
    pub(super) fn attainment(&self) -> f64 {
        self.estimate(Figure::Attainment).map_or(0.0, |estimate| estimate.mean)
    }

    /// Mean replica-seconds of a run; `None` if they are unknown for one of the runs.
    pub(super) fn replica_seconds(&self) -> Option<f64> {
        self.estimate(Figure::ReplicaSeconds).map(|estimate| estimate.mean)
    }

    /// The mean of a figure; `None` if it is unknown for one of the runs.
    pub(super) fn estimate(&self, figure: Figure) -> Option<Estimate> {
        figure.estimate(&self.runs)
    }

    /// Whether there are several runs, which show how much the figures vary.
    pub(super) fn is_repeated(&self) -> bool {
        self.runs.len() > 1
    }

    /// Whether all runs are complete and were sent on time. The figures of any other run belong to another load.
    pub(super) fn is_valid(&self) -> bool {
        self.runs.iter().all(|run| run.is_complete && !run.send_delays.is_bottleneck)
    }

    /// The name of one of the runs: with its seed, if there are several.
    pub fn run_name(&self, run: &RunReport) -> String {
        match self.runs.len() {
            1 => self.name.clone(),
            _ => format!("{}, seed {}", self.name, run.setup.seed),
        }
    }

    /// The row of the table.
    pub(super) fn cells(&self) -> [String; COLUMNS.len()] {
        let runs: Vec<&RunReport> = self.runs.iter().collect();
        let mean = |value: fn(&RunReport) -> Option<f64>| {
            let values: Option<Vec<f64>> = runs.iter().map(|run| value(run)).collect();
            let mean = values.map(|values| values.iter().sum::<f64>() / values.len() as f64);
            let decimals = if mean.is_some_and(|mean| mean.fract() != 0.0) { 1 } else { 0 };
            mean.map_or_else(|| "–".to_owned(), |mean| format!("{mean:.decimals$}"))
        };
        let name = match self.runs.len() {
            1 => self.name.clone(),
            count => format!("{}, {count} seeds", self.name),
        };
        [
            name,
            Figure::Attainment.estimate_text(&runs),
            Figure::P95.estimate_text(&runs),
            Figure::P99.estimate_text(&runs),
            mean(|run| Some(run.summary.failed as f64)),
            Figure::ReplicaSeconds.estimate_text(&runs),
            mean(|run| run.summary.usage.as_ref().map(|usage| usage.peak_replicas)),
            mean(|run| run.summary.usage.as_ref().map(|usage| usage.changes as f64)),
            Figure::Cost.estimate_text(&runs),
        ]
    }
}
