//! The workload of the course task, with the laws of other autoscalers.

use super::comparison::Comparison;
use super::section::Measured;
use super::sets::judge;
use crate::figure::{Figure, TargetRange};
use anyhow::Result;
use harness::paths;
use serde_json::json;

/// The workload, relative to the root of the workspace.
const WORKLOAD: &str = "loadgen/workloads/course.txt";

/// The laws.
const LAWS: &str = "slo,windows,concurrency,cpu:50,cpu:70,cpu:90,queue:5s,ray-serve";

/// The least attainment with any seed, in percent.
const WORST: f64 = 99.6;

/// Simulates the workload with all laws, and prints the table.
///
/// # Errors
/// If `lab` fails.
pub(super) fn measure() -> Result<Measured> {
    let workload = format!("--workload={}", paths::root().join(WORKLOAD).display());
    let comparison = Comparison::run("the course task's workload", &[&workload, "--policy", LAWS, "--seeds=5"])?;
    print!("{}", comparison.table);
    let mean = comparison.mean("slo");
    let mut figures = judge("course", mean, 99.85, 1.30);
    let worst = Figure::new("course_worst_attainment", 100.0 * mean.worst_attainment, "%");
    figures.push(worst.labelled("course: in time, worst seed").with_target(TargetRange::AtLeast(WORST)));
    Ok(Measured { figures, details: json!(comparison.workloads) })
}
