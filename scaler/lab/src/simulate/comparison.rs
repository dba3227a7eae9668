//! A comparison: several laws on several workloads, each with several seeds, beside the cost of an oracle.

use super::flags::Config;
use super::oracle;
use super::timeline::TimelineSample;
use super::trial::{Trial, TrialOutcome};
use crate::laws::LawChoice;
use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use law::limits::Limits;
use law::slo;
use serde::Serialize;
use workload::Workload;

/// Workloads with more requests or seconds get no oracle, which tries hundreds of plans and one more for every change
/// in them.
const MAX_ORACLE_REQUESTS: f64 = 2e6;
const MAX_ORACLE_SECONDS: usize = 7200;

/// The results of all laws on all workloads. Field names here and below are part of the JSON that `--json` writes.
#[derive(Debug, Serialize)]
pub struct LawComparison {
    /// Results by workload.
    pub workloads: Vec<WorkloadComparison>,
}

/// The results of all laws on one workload.
#[derive(Debug, Serialize)]
pub struct WorkloadComparison {
    /// The workload's name.
    pub workload: String,
    /// Further facts about the workload, a line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The oracle's row.
    pub oracle: Option<ComparisonRow>,
    /// What happened, in a backtest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recorded: Option<ComparisonRow>,
    /// A row for each law.
    pub laws: Vec<ComparisonRow>,
}

/// The results of one law on one workload: means over the seeds. `None` where a figure was not recorded.
#[derive(Debug, Serialize)]
pub struct ComparisonRow {
    /// The law.
    pub law: String,
    /// Share of all offered requests that were answered within the objective.
    pub attainment: Option<f64>,
    /// The attainment of the worst seed.
    pub worst_attainment: Option<f64>,
    /// Median latency of answers, seconds.
    pub p50_seconds: Option<f64>,
    /// 95th percentile of the latency of answers, seconds.
    pub p95_seconds: Option<f64>,
    /// 99th percentile of the latency of answers, seconds.
    pub p99_seconds: Option<f64>,
    /// Replicas × seconds, starting ones included.
    pub replica_seconds: Option<f64>,
    /// Replica-seconds ÷ the oracle's replica-seconds.
    pub times_oracle: Option<f64>,
    /// Most replicas at once.
    pub peak: Option<usize>,
    /// Number of changes of the desired replicas.
    pub changes: Option<f64>,
    /// Share of all offered requests that were refused at admission.
    pub shed: Option<f64>,
    /// Share of all offered requests that expired.
    pub expired: Option<f64>,
    /// The timeline of the first seed.
    #[serde(rename = "course")]
    pub timeline: Vec<TimelineSample>,
}

impl WorkloadComparison {
    /// All rows in the order of the report.
    pub fn rows(&self) -> impl Iterator<Item = &ComparisonRow> {
        self.oracle.iter().chain(&self.recorded).chain(&self.laws)
    }
}

impl LawComparison {
    /// Runs all trials, with a progress bar on standard error.
    ///
    /// # Errors
    /// When the bar cannot be drawn.
    pub fn run(config: &Config) -> Result<Self> {
        let seeds = config.seeds.end - config.seeds.start;
        let trials = config.workloads.len() as u64 * (config.laws.len() as u64 + 1) * seeds;
        let bar = ProgressBar::with_draw_target(Some(trials), ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}")?);
        let compare = |(name, workload): &(String, Workload)| {
            bar.set_message(name.clone());
            compare_laws(config, name, workload, &bar)
        };
        let workloads = config.workloads.iter().map(compare).collect();
        bar.finish_and_clear();
        Ok(Self { workloads })
    }
}

/// The results of all laws on one workload. `bar` advances by one for each trial.
fn compare_laws(config: &Config, name: &str, workload: &Workload, bar: &ProgressBar) -> WorkloadComparison {
    let outcomes = |run: &dyn Fn(u64) -> TrialOutcome| -> Vec<TrialOutcome> {
        let run = |seed| {
            let outcome = run(seed);
            bar.inc(1);
            outcome
        };
        config.seeds.clone().map(run).collect()
    };
    let has_oracle = workload.total() <= MAX_ORACLE_REQUESTS && workload.per_second.len() <= MAX_ORACLE_SECONDS;
    let oracle = config.goal.filter(|_| has_oracle).map(|goal| {
        // The oracle runs plans of its own: of this law it uses the limits only.
        let slo = LawChoice::Live(slo::KIND.name.into());
        ComparisonRow::of("oracle", &outcomes(&|seed| oracle::run(&trial(config, workload, &slo, seed), goal)), None)
    });
    let oracle_cost = oracle.as_ref().and_then(|oracle| oracle.replica_seconds);
    let row = |law: &LawChoice| {
        let outcomes = outcomes(&|seed| trial(config, workload, law, seed).run());
        ComparisonRow::of(&law.to_string(), &outcomes, oracle_cost)
    };
    let laws = config.laws.iter().map(row).collect();
    WorkloadComparison { workload: name.into(), notes: Vec::new(), oracle, recorded: None, laws }
}

fn trial<'a>(config: &Config, workload: &'a Workload, law: &LawChoice, seed: u64) -> Trial<'a> {
    // The laws of other autoscalers have stabilisation windows of their own.
    let limits = if law.is_slo() { config.limits } else { Limits::bounds(config.limits.min, config.limits.max) };
    Trial {
        law: law.clone(),
        law_settings: config.law_settings,
        limits,
        plant: config.plant.clone(),
        workload,
        process: config.process,
        staleness: config.staleness,
        seed,
    }
}

impl ComparisonRow {
    /// The means of at least one outcome. `oracle` is the oracle's replica-seconds.
    fn of(law: &str, outcomes: &[TrialOutcome], oracle: Option<f64>) -> Self {
        let mean =
            |figure: &dyn Fn(&TrialOutcome) -> f64| outcomes.iter().map(figure).sum::<f64>() / outcomes.len() as f64;
        let share = |count: fn(&TrialOutcome) -> u64| {
            mean(&|outcome| count(outcome) as f64 / outcome.totals.offered.max(1) as f64)
        };
        let replica_seconds = mean(&TrialOutcome::replica_seconds);
        Self {
            law: law.into(),
            attainment: Some(mean(&TrialOutcome::attainment)),
            worst_attainment: Some(outcomes.iter().map(TrialOutcome::attainment).fold(1.0, f64::min)),
            p50_seconds: Some(mean(&|outcome| outcome.percentiles[0])),
            p95_seconds: Some(mean(&|outcome| outcome.percentiles[1])),
            p99_seconds: Some(mean(&|outcome| outcome.percentiles[2])),
            replica_seconds: Some(replica_seconds),
            times_oracle: oracle.map(|oracle| replica_seconds / oracle),
            peak: outcomes.iter().map(|outcome| outcome.peak).max(),
            changes: Some(mean(&|outcome| outcome.changes as f64)),
            shed: Some(share(|outcome| outcome.totals.shed)),
            expired: Some(share(|outcome| outcome.totals.expired)),
            timeline: outcomes.first().map(|outcome| outcome.timeline.clone()).unwrap_or_default(),
        }
    }
}
