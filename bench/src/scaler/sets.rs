//! The two sets of workloads of `lab simulate --set`.

use super::comparison::{Comparison, Mean, WorkloadRows};
use super::section::Measured;
use crate::figure::{Figure, TargetRange};
use anyhow::Result;
use serde_json::json;
use std::cell::OnceCell;

/// The laws that run on the sets.
const LAWS: &str = "slo,windows,concurrency,cpu:70";

/// The points of attainment by which `slo` may fall below `concurrency` on a workload without being much cheaper.
const CLOSE: f64 = 0.3;

/// `slo` is much cheaper than `concurrency` if it takes at most this share of the replica-seconds.
const MUCH_CHEAPER: f64 = 0.9;

/// The results on the set `held-out`, which several sections need. They are computed once.
#[derive(Debug, Default)]
pub(super) struct HeldOut(OnceCell<Comparison>);

impl HeldOut {
    /// The results of [`LAWS`] with three seeds.
    ///
    /// # Errors
    /// If `lab` fails.
    pub(super) fn comparison(&self) -> Result<&Comparison> {
        if let Some(known) = self.0.get() {
            return Ok(known);
        }
        let comparison = run("held-out", &["--set=held-out", "--policy", LAWS])?;
        Ok(self.0.get_or_init(|| comparison))
    }
}

/// Simulates with three seeds.
///
/// # Errors
/// If `lab` fails.
pub(super) fn run(title: &str, flags: &[&str]) -> Result<Comparison> {
    Comparison::run(title, &[flags, &["--seeds=3"]].concat())
}

/// The attainment and the cost of `slo` with their targets, a least percentage and a highest multiple of the oracle's
/// cost. `name` begins the names of the figures.
pub(super) fn judge(name: &str, found: Mean, least: f64, most: f64) -> Vec<Figure> {
    let [attainment, times_oracle] = figures(name, found);
    vec![attainment.with_target(TargetRange::AtLeast(least)), times_oracle.with_target(TargetRange::AtMost(most))]
}

/// The attainment and the cost of `slo`, without targets.
pub(super) fn figures(name: &str, found: Mean) -> [Figure; 2] {
    let key = name.replace([' ', '-'], "_");
    [
        Figure::new(format!("{key}_attainment"), 100.0 * found.attainment, "%").labelled(format!("{name}: in time")),
        Figure::new(format!("{key}_times_oracle"), found.times_oracle, "").labelled(format!("{name}: × oracle")),
    ]
}

/// The section of the set `training`.
///
/// # Errors
/// If `lab` fails.
pub(super) fn measure_training() -> Result<Measured> {
    let comparison = run("training", &["--set=training", "--policy", LAWS])?;
    comparison.print();
    let figures = figures("training", comparison.mean("slo")).into();
    Ok(Measured { figures, details: json!(comparison.workloads) })
}

/// The section of the set `held-out`.
///
/// # Errors
/// If `lab` fails.
pub(super) fn measure_held_out(held_out: &HeldOut) -> Result<Measured> {
    let comparison = held_out.comparison()?;
    comparison.print();
    let mut figures = judge("held-out", comparison.without_gamma().mean("slo"), 98.9, 1.50);
    for rows in comparison.workloads.iter().filter(|rows| rows.is_gamma()) {
        let attainment = Figure::new("held_out_gamma_attainment", 100.0 * rows.row("slo").attainment, "%");
        figures.push(attainment.labelled("held-out, gamma: in time").with_target(TargetRange::AtLeast(93.0)));
    }
    let behind: Vec<&WorkloadRows> = comparison.workloads.iter().filter(|rows| is_behind(rows)).collect();
    println!();
    for rows in &behind {
        let (slo, other) = (rows.row("slo"), rows.row("concurrency"));
        let points = 100.0 * (other.attainment - slo.attainment);
        let cost = slo.replica_seconds / other.replica_seconds;
        println!(
            "{}: slo is {points:.2} points below concurrency, for {cost:.2} of its replica-seconds",
            rows.workload
        );
    }
    let count = Figure::new("held_out_behind", behind.len() as f64, "");
    let label = "held-out: workloads on which slo is behind concurrency";
    figures.push(count.labelled(label).with_target(TargetRange::AtMost(0.0)));
    Ok(Measured { figures, details: json!(comparison.workloads) })
}

/// Whether `concurrency` answers more requests in time than `slo`, and `slo` is not much cheaper.
fn is_behind(rows: &WorkloadRows) -> bool {
    let (slo, other) = (rows.row("slo"), rows.row("concurrency"));
    let points = 100.0 * (other.attainment - slo.attainment);
    points > CLOSE && slo.replica_seconds > MUCH_CHEAPER * other.replica_seconds
}
