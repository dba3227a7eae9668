//! A comparison: the results of several laws on several workloads with several seeds, and of the oracle.

use super::flags::Config;
use super::mean::{self, MeanRow};
use super::oracle;
use super::timeline::TimelineSample;
use super::trial::{Trial, TrialOutcome};
use crate::laws::LawChoice;
use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use law::slo;
use law::table::Settings as LawSettings;
use limits::Limits;
use serde::Serialize;
use std::sync::{Mutex, PoisonError};
use std::thread;
use workload::Workload;

/// A workload with more requests gets no oracle. The oracle simulates a workload dozens of times, and again for each
/// step of the cheapest plan.
const MAX_ORACLE_REQUESTS: f64 = 2e6;

/// A workload with more seconds gets no oracle. The search of the oracle takes longer with each second.
const MAX_ORACLE_SECONDS: usize = 7200;

/// The results of all laws on all workloads. The field names of this type and of the types in its fields are part of
/// the JSON that `--json` writes.
#[derive(Debug, Serialize)]
pub struct LawComparison {
    /// The results on each workload, in the order of the flags.
    pub workloads: Vec<WorkloadComparison>,
    /// The means of each law over all workloads, in the order of `--policy`; empty if there is only one workload.
    #[serde(rename = "mean", skip_serializing_if = "Vec::is_empty")]
    pub means: Vec<MeanRow>,
}

/// The results of all laws on one workload.
#[derive(Debug, Serialize)]
pub struct WorkloadComparison {
    /// The name of the workload: the path of its file, its shape, or in a backtest the period.
    pub workload: String,
    /// Notes on the workload, each on a line of the report. Only a backtest has notes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The row of the oracle; `None` if the workload gets no oracle.
    pub oracle: Option<ComparisonRow>,
    /// The row of what happened in the recorded period; `None` unless this is a backtest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recorded: Option<ComparisonRow>,
    /// The row of each law, in the order of `--policy`.
    pub laws: Vec<ComparisonRow>,
}

/// A row of a comparison: the results of one law on one workload, as means over the seeds unless a field says
/// otherwise. A figure is `None` if it is not known, which happens in the row of what was recorded.
#[derive(Debug, Default, Serialize)]
pub struct ComparisonRow {
    /// The law as in `--policy`, or `oracle`, or `recorded`.
    pub law: String,
    /// The share of all offered requests that were answered within the objective.
    pub attainment: Option<f64>,
    /// The attainment with the seed for which it is lowest.
    pub worst_attainment: Option<f64>,
    /// The median latency of the answers, in seconds.
    pub p50_seconds: Option<f64>,
    /// The 95th percentile of the latency of the answers, in seconds.
    pub p95_seconds: Option<f64>,
    /// The 99th percentile of the latency of the answers, in seconds.
    pub p99_seconds: Option<f64>,
    /// The cost: replicas × seconds. Starting replicas count, except in the row of what was recorded.
    pub replica_seconds: Option<f64>,
    /// The replica-seconds ÷ the replica-seconds of the oracle; `None` without an oracle.
    pub times_oracle: Option<f64>,
    /// The highest number of replicas at once with any seed. Starting replicas count, except in the row of what was
    /// recorded.
    pub peak: Option<usize>,
    /// The number of changes of the desired replicas.
    pub changes: Option<f64>,
    /// The number of changes of the desired replicas after the first minute, with each seed; empty in the row of what
    /// was recorded.
    pub late_changes: Vec<usize>,
    /// The share of all offered requests that were refused at admission.
    pub shed: Option<f64>,
    /// The share of all offered requests that expired.
    pub expired: Option<f64>,
    /// The share of all offered requests that no replica could answer. In a simulation, two replicas died while they held
    /// such a request.
    pub failed: Option<f64>,
    /// The number of times that a busy replica refused a request ÷ the number of all offered requests.
    pub busy: Option<f64>,
    /// The timeline of the trial with the first seed.
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
    /// Runs all trials, several workloads at once, and shows their progress as a bar on standard error.
    ///
    /// # Errors
    /// If the template of the progress bar is invalid.
    pub fn run(config: &Config) -> Result<Self> {
        let seeds = config.seeds.end - config.seeds.start;
        let trials = config.workloads.len() as u64 * (config.laws.len() as u64 + 1) * seeds;
        let bar = ProgressBar::with_draw_target(Some(trials), ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}")?);
        let compare = |(name, workload): &(String, Workload)| {
            bar.set_message(name.clone());
            compare_laws(config, name, workload, &bar)
        };
        let workloads = in_parallel(&config.workloads, compare);
        bar.finish_and_clear();
        Ok(Self { means: mean::of(&workloads), workloads })
    }
}

/// The results of `run` on all items, in the order of the items. One thread runs for each core.
fn in_parallel<T: Sync, R: Send>(items: &[T], run: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let waiting = Mutex::new(items.iter().enumerate());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || std::iter::from_fn(next).map(|(index, item)| (index, run(item))).collect::<Vec<_>>();
    let threads = thread::available_parallelism().map_or(1, usize::from).min(items.len());
    let mut results: Vec<(usize, R)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a trial does not panic")).collect()
    });
    results.sort_unstable_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Runs the oracle and all laws on one workload. `bar` advances by one for each trial.
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
        // The oracle runs plans instead of a law, but uses the bounds of the limits. So it gets the law whose limits
        // are those of the flags.
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
    // Other autoscalers have stabilisation windows of their own, so their laws get only the bounds. A second window
    // would make them worse than they are.
    let (min, max) = law.bounds().unwrap_or((config.limits.min, config.limits.max));
    let limits = if law.needs_limits() { config.limits } else { Limits::bounds(min, max) };
    Trial {
        law: law.clone(),
        law_settings: LawSettings { min, max, ..config.law_settings },
        limits,
        plant: config.plant.clone(),
        workload,
        process: config.process,
        staleness: config.staleness,
        jitter: config.jitter,
        seed,
    }
}

impl ComparisonRow {
    /// The row of a law with these outcomes, one for each seed and at least one. `oracle` is the replica-seconds of the
    /// oracle; `None` if there is no oracle, or if this row is the oracle's.
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
            late_changes: outcomes.iter().map(|outcome| outcome.late_changes).collect(),
            shed: Some(share(|outcome| outcome.totals.shed)),
            expired: Some(share(|outcome| outcome.totals.expired)),
            failed: Some(share(|outcome| outcome.totals.failed)),
            busy: Some(share(|outcome| outcome.totals.busy)),
            timeline: outcomes.first().map(|outcome| outcome.timeline.clone()).unwrap_or_default(),
        }
    }
}
