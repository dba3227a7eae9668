//! Other sizes of the same problem: more replicas, other service times, several slots, and batches. The rates are
//! scaled, so that the numbers of replicas stay comparable. The law's constants should not depend on any of these.

use super::comparison::{Comparison, Mean};
use super::section::Measured;
use super::sets::{HeldOut, run};
use crate::figure::{Figure, TargetRange};
use anyhow::Result;
use serde_json::{Map, json};

/// The points of attainment that `slo` may lose by another size.
const POINTS: f64 = 0.3;

/// The sizes with their flags, and the load as a multiple of the base's, in replicas.
const SIZES: [(&str, f64, &[&str]); 6] = [
    ("service 20 ms", 1.0, &["--rate-scale=2.75", "--service=20ms"]),
    ("service 200 ms", 1.0, &["--rate-scale=0.275", "--service=200ms"]),
    ("service 500 ms, objective 2 s", 1.0, &["--rate-scale=0.11", "--service=500ms", "--objective=2s"]),
    ("two slots", 1.0, &["--slots=2"]),
    // A pass of eight takes 55 ms × (1 + 7 × 0.1) = 93.5 ms, so a replica answers 4.706 times as many requests.
    ("batches of eight", 1.0, &["--rate-scale=4.706", "--slots=16", "--batch=8", "--batch-growth=0.1"]),
    ("ten times the load", 10.0, &["--rate-scale=10", "--max=60"]),
];

/// Simulates the set `held-out` with each size, and compares the results with those of the default size, which are in
/// `held_out`. The figures leave out its gamma workload. Costs are replica-seconds for each unit of the load. They are
/// not compared with an oracle of the same size: with ten times as many replicas, the oracle follows the load more
/// closely.
///
/// # Errors
/// If `lab` fails.
pub(super) fn measure(held_out: &HeldOut) -> Result<Measured> {
    let base = held_out.comparison()?;
    let (mut figures, mut details) = (Vec::new(), Map::new());
    let mean = |comparison: &Comparison, law| comparison.without_gamma().mean(law);
    let base_cost = mean(base, "slo").times_oracle;
    let line = |name: &str, comparison: &Comparison, units: f64| {
        let cell = |law| {
            let Mean { attainment, times_oracle, .. } = mean(comparison, law);
            format!("{:.2} % {:5.2}", 100.0 * attainment, times_oracle / units / base_cost)
        };
        println!("{name:42} {:>15} {:>15}", cell("slo"), cell("concurrency"));
    };
    println!("{:42} {:>15} {:>15}", "in time and cost ÷ that of slo at base", "slo", "concurrency");
    line("base", base, 1.0);
    for (name, units, size) in SIZES {
        let flags = [&["--set=held-out", "--policy=slo,concurrency", "--goal=0"], size].concat();
        let mut comparison = run(name, &flags)?;
        // The oracle of the base stands for the load, so that each workload counts alike.
        comparison.take_oracles(base);
        line(name, &comparison, units);
        let found = mean(&comparison, "slo");
        let key = name.replace(',', "").replace(' ', "_");
        let points = 100.0 * (found.attainment - mean(base, "slo").attainment);
        figures.push(
            Figure::new(format!("{key}_points"), points, "points")
                .labelled(format!("{name}: in time, minus the base's share"))
                .with_target(TargetRange::AtLeast(-POINTS)),
        );
        figures.push(
            Figure::new(format!("{key}_cost"), found.times_oracle / units / base_cost, "")
                .labelled(format!("{name}: cost for each unit of load ÷ the base's"))
                .with_target(TargetRange::AtMost(1.0)),
        );
        details.insert(name.into(), json!(comparison.workloads));
    }
    Ok(Measured { figures, details: details.into() })
}
