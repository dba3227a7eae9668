//! A comparison as text.

use crate::simulate::comparison::{Comparison, Row};
use std::fmt::Write;

/// One table for each workload, and the means over all if there are several.
pub fn render(comparison: &Comparison) -> String {
    let mut text = String::new();
    for rows in &comparison.workloads {
        // Nothing can go wrong in writing to a string.
        let _infallible = writeln!(text, "\n{}", rows.workload);
        text.push_str(
            "law                     in time   worst seed    p50 ms    p95 ms    p99 ms  replica-s  × oracle  peak  changes\n",
        );
        for row in rows.oracle.iter().chain(&rows.laws) {
            text.push_str(&line(row));
        }
    }
    if comparison.workloads.len() > 1 {
        text.push_str("\nmeans over all workloads\nlaw                     in time   × oracle\n");
        for index in 0..comparison.workloads[0].laws.len() {
            let rows = || comparison.workloads.iter().map(|rows| &rows.laws[index]);
            let mean = |figure: fn(&Row) -> f64| rows().map(figure).sum::<f64>() / comparison.workloads.len() as f64;
            let cost =
                rows().all(|row| row.times_oracle.is_some()).then(|| mean(|row| row.times_oracle.unwrap_or(0.0)));
            let _infallible = writeln!(
                text,
                "{:22} {:>6.2} %   {:>8}",
                comparison.workloads[0].laws[index].law,
                100.0 * mean(|row| row.attainment),
                ratio(cost)
            );
        }
    }
    text
}

fn line(row: &Row) -> String {
    format!(
        "{:22} {:>6.2} %     {:>6.2} % {:>9.0} {:>9.0} {:>9.0} {:>10.0}  {:>8}  {:>4} {:>8.1}\n",
        row.law,
        100.0 * row.attainment,
        100.0 * row.worst_attainment,
        1e3 * row.p50_seconds,
        1e3 * row.p95_seconds,
        1e3 * row.p99_seconds,
        row.replica_seconds,
        ratio(row.times_oracle),
        row.peak,
        row.changes
    )
}

fn ratio(ratio: Option<f64>) -> String {
    ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"))
}
