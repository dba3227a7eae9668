//! Steady loads, under which the number of replicas should come to rest.

use super::comparison::Comparison;
use super::section::Measured;
use crate::figure::{Figure, TargetRange};
use anyhow::Result;
use serde_json::json;

/// Steady loads in requests per second. They need one to five replicas.
const RATES: [u32; 12] = [7, 10, 12, 14, 20, 24, 28, 30, 40, 48, 60, 70];

/// The most changes after the first minute in any run.
const MOST_CHANGES: usize = 2;

/// Simulates half an hour of each load with 17 seeds, and prints the changes of the desired replicas after the first
/// minute.
///
/// # Errors
/// If `lab` fails.
pub(super) fn measure() -> Result<Measured> {
    let shapes = RATES.map(|rate| format!("--shape=constant:low={rate},length=1800"));
    let mut flags = vec!["--policy=slo", "--goal=0", "--seeds=17"];
    flags.extend(shapes.iter().map(String::as_str));
    let comparison = Comparison::run("steady loads", &flags)?;
    println!("changes of the desired replicas after the first minute, with each seed");
    let mut all: Vec<usize> = Vec::new();
    for (rate, rows) in RATES.iter().zip(&comparison.workloads) {
        let changes = &rows.row("slo").late_changes;
        println!("{rate:>4} requests/s  {changes:?}");
        all.extend(changes);
    }
    let most = all.iter().copied().max().unwrap_or_default();
    let restless = all.iter().filter(|&&changes| changes > MOST_CHANGES).count();
    let figures = vec![
        Figure::new("steady_most_changes", most as f64, "")
            .labelled("steady: most changes after the first minute in any run")
            .with_target(TargetRange::AtMost(MOST_CHANGES as f64)),
        Figure::new("steady_restless_runs", restless as f64, "")
            .labelled(format!("steady: runs of {} with more than {MOST_CHANGES} changes", all.len()))
            .with_target(TargetRange::AtMost(0.0)),
    ];
    Ok(Measured { figures, details: json!(comparison.workloads) })
}
