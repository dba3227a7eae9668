//! How much the runs of one law with several seeds differ.

use crate::statistics::median;
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Prints the median, the lowest and the highest figures of each law. `reports` are loadgen's: those of all laws with
/// one seed, in the order of `policies`, then those with the next seed, and so on.
///
/// # Errors
/// If a report cannot be read, or lacks a figure.
pub(super) fn print(policies: &[String], reports: &[PathBuf]) -> Result<()> {
    println!("\nmedian (lowest to highest) of {} seeds", reports.len() / policies.len());
    println!("{:20} {:>28} {:>28}", "law", "in time, %", "replica-seconds");
    for (index, policy) in policies.iter().enumerate() {
        let runs = reports.iter().skip(index).step_by(policies.len()).map(|path| Run::read(path));
        let runs = runs.collect::<Result<Vec<_>>>()?;
        let in_time = spread(runs.iter().map(|run| 100.0 * run.attainment).collect(), 2);
        let cost = spread(runs.iter().map(|run| run.replica_seconds).collect(), 0);
        println!("{policy:20} {in_time:>28} {cost:>28}");
    }
    Ok(())
}

/// The figures of one run.
struct Run {
    /// The share of the requests that were answered within the objective, 0 to 1.
    attainment: f64,
    replica_seconds: f64,
}

impl Run {
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let report: Value = serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
        let figure = |pointer: &str| {
            let value = report.pointer(pointer).and_then(Value::as_f64);
            value.with_context(|| format!("{} has no number at {pointer}", path.display()))
        };
        Ok(Self {
            attainment: figure("/summary/attainment")?,
            replica_seconds: figure("/summary/usage/replica_seconds")?,
        })
    }
}

/// The median of the values and, in brackets, the lowest and the highest, with `digits` digits after the point.
fn spread(values: Vec<f64>, digits: usize) -> String {
    let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let median = median(values).unwrap_or(f64::NAN);
    format!("{median:.digits$} ({lowest:.digits$} to {highest:.digits$})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_median_the_lowest_and_the_highest_value() {
        assert_eq!(spread(vec![99.5, 98.0, 99.0], 1), "99.0 (98.0 to 99.5)");
        assert_eq!(spread(vec![7.0], 0), "7 (7 to 7)");
    }
}
