//! Replicas that start faster or more slowly.

use super::section::Measured;
use super::sets::{judge, run};
use anyhow::Result;
use serde_json::{Map, json};

/// Start-up times. With each, the least attainment of `slo` in percent, and its highest cost as a multiple of the
/// oracle's.
const STARTUPS: [(&str, f64, f64); 3] = [("1s", 99.2, 1.5), ("12s", 98.3, 1.6), ("40s", 96.5, 1.8)];

/// Simulates the set `held-out` with each start-up time. The figures leave out its gamma workload.
///
/// # Errors
/// If `lab` fails.
pub(super) fn measure() -> Result<Measured> {
    let (mut figures, mut details) = (Vec::new(), Map::new());
    for (startup, least, most) in STARTUPS {
        let name = format!("start-up {startup}");
        println!("\n{name}");
        let flags = ["--set=held-out", "--policy=slo,concurrency", "--startup", startup];
        let comparison = run(&name, &flags)?;
        comparison.print();
        figures.extend(judge(&name, comparison.without_gamma().mean("slo"), least, most));
        details.insert(startup.into(), json!(comparison.workloads));
    }
    Ok(Measured { figures, details: details.into() })
}
