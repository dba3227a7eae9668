//! Several laws on several workloads, each with several seeds, beside what an oracle needs.

use super::flags::Plan;
use super::oracle;
use super::trial::{Moment, Outcome, Trial};
use crate::laws::Choice;
use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use law::limits::Limits;
use law::slo;
use serde::Serialize;

/// Beyond so many requests, or seconds, no oracle is asked: it tries hundreds of plans, and one more for every change
/// in them.
const ORACLE_REQUESTS: f64 = 2e6;
const ORACLE_SECONDS: usize = 7200;

/// Everything that was found.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// By workload.
    pub workloads: Vec<Rows>,
}

/// One workload's.
#[derive(Debug, Serialize)]
pub struct Rows {
    /// Its name.
    pub workload: String,
    /// What else there is to know of it, a line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What it takes at least.
    pub oracle: Option<Row>,
    /// What really happened, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recorded: Option<Row>,
    /// By law.
    pub laws: Vec<Row>,
}

/// One law on one workload: means over the seeds. Figures that nobody recorded are nothing.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The law.
    pub law: String,
    /// Share of requests that were answered in time.
    pub attainment: Option<f64>,
    /// That of the worst seed.
    pub worst_attainment: Option<f64>,
    /// Latency of answers, seconds.
    pub p50_seconds: Option<f64>,
    /// The same.
    pub p95_seconds: Option<f64>,
    /// The same.
    pub p99_seconds: Option<f64>,
    /// Replicas × seconds, starting ones included.
    pub replica_seconds: Option<f64>,
    /// That ÷ the oracle's.
    pub times_oracle: Option<f64>,
    /// Most replicas at once.
    pub peak: Option<usize>,
    /// Changes of the number that was asked for.
    pub changes: Option<f64>,
    /// Share of requests that were refused.
    pub shed: Option<f64>,
    /// Share of requests that were given up.
    pub expired: Option<f64>,
    /// The first seed's course.
    pub course: Vec<Moment>,
}

impl Rows {
    /// In the order in which they are shown.
    pub fn all(&self) -> impl Iterator<Item = &Row> {
        self.oracle.iter().chain(&self.recorded).chain(&self.laws)
    }
}

impl Comparison {
    /// Runs everything, with a progress bar for people.
    ///
    /// # Errors
    /// When the bar cannot be drawn.
    pub fn run(plan: &Plan) -> Result<Self> {
        let steps = plan.workloads.len() as u64 * (plan.laws.len() as u64 + 1) * (plan.seeds.end - plan.seeds.start);
        let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}")?);
        // The oracle has a law only for form's sake: it runs plans of its own.
        let slo = Choice::Live(slo::KIND.name.into());
        let rows = |(name, workload): &(String, workload::Workload)| {
            bar.set_message(name.clone());
            let trial = |law: &Choice, seed| {
                let limits = if law.is_slo() { plan.limits } else { Limits::bounds(plan.limits.min, plan.limits.max) };
                let (plant, staleness) = (plan.plant.clone(), plan.staleness);
                Trial {
                    law: law.clone(),
                    told: plan.told,
                    limits,
                    plant,
                    workload,
                    process: plan.process,
                    staleness,
                    seed,
                }
            };
            let is_short = workload.total() <= ORACLE_REQUESTS && workload.per_second.len() <= ORACLE_SECONDS;
            let goal = plan.goal.filter(|_| is_short);
            let oracle = goal.map(|goal| {
                let ask = |seed| {
                    let outcome = oracle::run(&trial(&slo, seed), goal);
                    bar.inc(1);
                    outcome
                };
                Row::of("oracle", &plan.seeds.clone().map(ask).collect::<Vec<_>>(), None)
            });
            let laws = plan.laws.iter().map(|law| {
                let run = |seed| {
                    let outcome = trial(law, seed).run();
                    bar.inc(1);
                    outcome
                };
                let outcomes: Vec<Outcome> = plan.seeds.clone().map(run).collect();
                Row::of(&law.to_string(), &outcomes, oracle.as_ref().and_then(|oracle| oracle.replica_seconds))
            });
            Rows { workload: name.clone(), notes: Vec::new(), laws: laws.collect(), recorded: None, oracle }
        };
        let workloads = plan.workloads.iter().map(rows).collect();
        bar.finish_and_clear();
        Ok(Self { workloads })
    }
}

impl Row {
    /// The means of at least one outcome.
    fn of(law: &str, outcomes: &[Outcome], oracle: Option<f64>) -> Self {
        let mean = |figure: &dyn Fn(&Outcome) -> f64| outcomes.iter().map(figure).sum::<f64>() / outcomes.len() as f64;
        let share =
            |count: fn(&Outcome) -> u64| mean(&|outcome| count(outcome) as f64 / outcome.tally.offered.max(1) as f64);
        let replica_seconds = mean(&Outcome::replica_seconds);
        Self {
            law: law.into(),
            attainment: Some(mean(&Outcome::attainment)),
            worst_attainment: Some(outcomes.iter().map(Outcome::attainment).fold(1.0, f64::min)),
            p50_seconds: Some(mean(&|outcome| outcome.percentiles[0])),
            p95_seconds: Some(mean(&|outcome| outcome.percentiles[1])),
            p99_seconds: Some(mean(&|outcome| outcome.percentiles[2])),
            replica_seconds: Some(replica_seconds),
            times_oracle: oracle.map(|oracle| replica_seconds / oracle),
            peak: outcomes.iter().map(|outcome| outcome.peak).max(),
            changes: Some(mean(&|outcome| outcome.changes as f64)),
            shed: Some(share(|outcome| outcome.tally.shed)),
            expired: Some(share(|outcome| outcome.tally.expired)),
            course: outcomes.first().map(|outcome| outcome.course.clone()).unwrap_or_default(),
        }
    }
}
