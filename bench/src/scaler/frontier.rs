//! The frontier: how many more requests are in time for how many more replicas. `slo` chooses by its quantile, and
//! Knative's law by its target.

use super::comparison::{Comparison, Mean};
use super::section::Measured;
use super::sets::{HeldOut, run};
use anyhow::Result;
use serde_json::{Value, json};

/// The quantiles of `slo`.
const QUANTILES: [f64; 4] = [0.95, 0.98, 0.99, 0.995];

/// Knative's law with several targets: the share of a replica's slots that it plans to use.
const TARGETS: [&str; 3] = ["concurrency:0.9", "concurrency:0.7", "concurrency:0.5"];

/// Simulates the set `held-out` with each quantile and each target. The oracle does not depend on them, so it is taken
/// from `held_out`.
///
/// # Errors
/// If `lab` fails.
pub(super) fn measure(held_out: &HeldOut) -> Result<Measured> {
    let oracles = held_out.comparison()?;
    let simulate = |law: &str, quantile: f64| -> Result<Comparison> {
        let (title, quantile) = (format!("{law}, --quantile {quantile}"), format!("--quantile={quantile}"));
        let mut comparison = run(&title, &["--set=held-out", "--goal=0", "--policy", law, &quantile])?;
        comparison.take_oracles(oracles);
        Ok(comparison.without_gamma())
    };
    let mut points: Vec<(String, Mean)> = Vec::new();
    for quantile in QUANTILES {
        points.push((format!("slo, --quantile {quantile}"), simulate("slo", quantile)?.mean("slo")));
    }
    let others = simulate(&TARGETS.join(","), QUANTILES[0])?;
    points.extend(TARGETS.map(|law| (law.to_owned(), others.mean(law))));
    println!("{:26} {:>9} {:>13} {:>9} {:>8}", "law", "in time", "worst seed", "× oracle", "changes");
    for (law, Mean { attainment, worst_attainment, times_oracle, changes }) in &points {
        let (attainment, worst) = (100.0 * attainment, 100.0 * worst_attainment);
        println!("{law:26} {attainment:7.2} % {worst:11.2} % {times_oracle:9.2} {changes:8.1}");
    }
    let details: Value = points.iter().map(|(law, mean)| json!({"law": law, "mean": mean})).collect();
    Ok(Measured { figures: Vec::new(), details })
}
