//! Several laws on several workloads, each with several seeds, beside what an oracle needs.

use super::args::Plan;
use super::oracle;
use super::trial::{Moment, Outcome, Trial};
use crate::limits::Limits;
use crate::policy::law::Law;
use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// Beyond so many requests no oracle is asked: it tries hundreds of plans.
const ORACLE_LIMIT: f64 = 2e6;

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
    /// What it takes at least.
    pub oracle: Option<Row>,
    /// By law.
    pub laws: Vec<Row>,
}

/// One law on one workload: means over the seeds.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The law.
    pub law: String,
    /// Share of requests that were answered in time.
    pub attainment: f64,
    /// That of the worst seed.
    pub worst_attainment: f64,
    /// Latency of answers, seconds.
    pub p50_seconds: f64,
    /// The same.
    pub p95_seconds: f64,
    /// The same.
    pub p99_seconds: f64,
    /// Replicas × seconds, starting ones included.
    pub replica_seconds: f64,
    /// That ÷ the oracle's.
    pub times_oracle: Option<f64>,
    /// Most replicas at once.
    pub peak: usize,
    /// Changes of the number that was asked for.
    pub changes: f64,
    /// Share of requests that were refused.
    pub shed: f64,
    /// Share of requests that were given up.
    pub expired: f64,
    /// The first seed's course.
    pub course: Vec<Moment>,
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
        let rows = |(name, workload): &(String, service::workload::Workload)| {
            bar.set_message(name.clone());
            let trial = |law, seed| {
                let limits =
                    if law == Law::Slo { plan.limits } else { Limits::bounds(plan.limits.min, plan.limits.max) };
                let (plant, staleness) = (plan.plant.clone(), plan.staleness);
                Trial { law, frame: plan.frame, limits, plant, workload, process: plan.process, staleness, seed }
            };
            let goal = plan.goal.filter(|_| workload.total() <= ORACLE_LIMIT);
            let oracle = goal.map(|goal| {
                let ask = |seed| {
                    let outcome = oracle::run(&trial(Law::Slo, seed), goal);
                    bar.inc(1);
                    outcome
                };
                Row::of("oracle", &plan.seeds.clone().map(ask).collect::<Vec<_>>(), None)
            });
            let laws = plan.laws.iter().map(|&law| {
                let run = |seed| {
                    let outcome = trial(law, seed).run();
                    bar.inc(1);
                    outcome
                };
                let outcomes: Vec<Outcome> = plan.seeds.clone().map(run).collect();
                Row::of(&law.to_string(), &outcomes, oracle.as_ref().map(|oracle| oracle.replica_seconds))
            });
            Rows { workload: name.clone(), laws: laws.collect(), oracle }
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
            attainment: mean(&Outcome::attainment),
            worst_attainment: outcomes.iter().map(Outcome::attainment).fold(1.0, f64::min),
            p50_seconds: mean(&|outcome| outcome.percentiles[0]),
            p95_seconds: mean(&|outcome| outcome.percentiles[1]),
            p99_seconds: mean(&|outcome| outcome.percentiles[2]),
            replica_seconds,
            times_oracle: oracle.map(|oracle| replica_seconds / oracle),
            peak: outcomes.iter().map(|outcome| outcome.peak).max().unwrap_or(0),
            changes: mean(&|outcome| outcome.changes as f64),
            shed: share(|outcome| outcome.tally.shed),
            expired: share(|outcome| outcome.tally.expired),
            course: outcomes.first().map(|outcome| outcome.course.clone()).unwrap_or_default(),
        }
    }
}
