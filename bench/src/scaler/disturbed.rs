//! A disturbed system: start-up times that vary, readings at varying instants, replicas that die, and two dispatchers.

use super::section::Measured;
use super::sets::{HeldOut, figures, run};
use anyhow::Result;
use serde_json::{Map, json};

const STARTUPS: &str = "--startup-variation=0.5";
const JITTER: &str = "--jitter=500ms";
const FAILURES: &str = "--mtbf=10min";
const DISPATCHERS: &str = "--dispatchers=2";

/// The disturbances with their flags, one by one and together.
const CASES: [(&str, &[&str]); 6] = [
    ("none", &[]),
    ("varied start-ups", &[STARTUPS]),
    ("jitter", &[JITTER]),
    ("failures", &[FAILURES]),
    ("two dispatchers", &[DISPATCHERS]),
    ("all four", &[STARTUPS, JITTER, FAILURES, DISPATCHERS]),
];

/// Simulates the set `held-out` with each disturbance. The oracle plans for a system without disturbances, so it is
/// taken from `held_out`. The figures leave out the gamma workload.
///
/// # Errors
/// If `lab` fails.
pub(super) fn measure(held_out: &HeldOut) -> Result<Measured> {
    let oracles = held_out.comparison()?;
    let (mut found, mut details) = (Vec::new(), Map::new());
    println!(
        "{:18} {:12} {:>9} {:>13} {:>9} {:>8}",
        "disturbance", "law", "in time", "worst seed", "× oracle", "changes"
    );
    for (name, flags) in CASES {
        let common = ["--set=held-out", "--goal=0", "--policy=slo,concurrency"];
        let mut comparison = run(&format!("disturbance: {name}"), &[common.as_slice(), flags].concat())?;
        comparison.take_oracles(oracles);
        let judged = comparison.without_gamma();
        for law in ["slo", "concurrency"] {
            let mean = judged.mean(law);
            let (attainment, worst) = (100.0 * mean.attainment, 100.0 * mean.worst_attainment);
            let (times_oracle, changes) = (mean.times_oracle, mean.changes);
            println!("{name:18} {law:12} {attainment:7.2} % {worst:11.2} % {times_oracle:9.2} {changes:8.1}");
        }
        found.extend(figures(&format!("disturbed by {name}"), judged.mean("slo")));
        details.insert(name.into(), json!(comparison.workloads));
    }
    Ok(Measured { figures: found, details: details.into() })
}
