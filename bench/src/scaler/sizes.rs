//! Other sizes of the same problem: more replicas, other service times, several slots, and batches. The rates are
//! scaled, so that the numbers of replicas stay comparable. The law's constants should not depend on any of these.

use super::comparison::{Comparison, Mean};
use super::section::Measured;
use crate::figure::{Figure, TargetRange};
use anyhow::Result;
use serde_json::{Map, json};

/// The points of attainment that `slo` may lose by another size.
const POINTS: f64 = 0.3;

/// The sizes with their flags.
const SIZES: [(&str, &[&str]); 6] = [
    ("service 20 ms", &["--rate-scale=2.75", "--service=20ms"]),
    ("service 200 ms", &["--rate-scale=0.275", "--service=200ms"]),
    ("service 500 ms, objective 2 s", &["--rate-scale=0.11", "--service=500ms", "--objective=2s"]),
    ("two slots", &["--slots=2"]),
    // A pass of eight takes 55 ms × (1 + 7 × 0.1) = 93.5 ms, so a replica answers 4.706 times as many requests.
    ("batches of eight", &["--rate-scale=4.706", "--slots=16", "--batch=8", "--batch-growth=0.1"]),
    ("ten times the load", &["--rate-scale=10", "--max=60"]),
];

/// Simulates the set `held-out` with each size, and with the default size. The figures leave out its gamma workload.
/// One seed only: the oracle takes long with many replicas and with batches.
///
/// # Errors
/// If `lab` fails.
pub(super) fn measure() -> Result<Measured> {
    let (mut figures, mut details) = (Vec::new(), Map::new());
    let mut simulate = |name: &str, size: &[&str]| -> Result<Mean> {
        let flags = [&["--set=held-out", "--policy=slo,concurrency", "--seeds=1"], size].concat();
        let comparison = Comparison::run(name, &flags)?;
        details.insert(name.into(), json!(comparison.workloads));
        let judged = comparison.without_gamma();
        let [slo, other] = ["slo", "concurrency"].map(|law| judged.mean(law));
        let cell = |mean: Mean| format!("{:.2} % {:5.2}", 100.0 * mean.attainment, mean.times_oracle);
        println!("{name:32} {:>15} {:>15}", cell(slo), cell(other));
        Ok(slo)
    };
    println!("{:32} {:>15} {:>15}", "in time and × oracle", "slo", "concurrency");
    let base = simulate("base", &[])?;
    for (name, size) in SIZES {
        let found = simulate(name, size)?;
        let key = name.replace(',', "").replace(' ', "_");
        let points = 100.0 * (found.attainment - base.attainment);
        figures.push(
            Figure::new(format!("{key}_points"), points, "points")
                .labelled(format!("{name}: in time, minus the base's share"))
                .with_target(TargetRange::AtLeast(-POINTS)),
        );
        figures.push(
            Figure::new(format!("{key}_times_oracle_more"), found.times_oracle - base.times_oracle, "")
                .labelled(format!("{name}: × oracle, minus the base's"))
                .with_target(TargetRange::AtMost(0.0)),
        );
    }
    Ok(Measured { figures, details: details.into() })
}
