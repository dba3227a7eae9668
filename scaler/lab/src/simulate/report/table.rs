//! A comparison as text.

use super::cells;
use crate::simulate::comparison::{Comparison, Row};
use std::fmt::Write;

/// One table for each workload, and the means over all if there are several.
pub fn render(comparison: &Comparison) -> String {
    let mut text = String::new();
    for rows in &comparison.workloads {
        // Nothing can go wrong in writing to a string.
        let _infallible = writeln!(text, "\n{}", rows.workload);
        for note in &rows.notes {
            let _infallible = writeln!(text, "{note}");
        }
        text.push_str(
            "law                     in time   worst seed    p50 ms    p95 ms    p99 ms  replica-s  × oracle  peak  changes\n",
        );
        for row in rows.all() {
            text.push_str(&line(row));
        }
    }
    if comparison.workloads.len() > 1 {
        text.push_str("\nmeans over all workloads\nlaw                     in time   × oracle\n");
        for index in 0..comparison.workloads[0].laws.len() {
            let rows = || comparison.workloads.iter().map(|rows| &rows.laws[index]);
            let mean = |figure: fn(&Row) -> Option<f64>| {
                let sum: Option<f64> = rows().map(figure).sum();
                sum.map(|sum| sum / comparison.workloads.len() as f64)
            };
            let show = |mean: Option<f64>, unit| mean.map_or_else(String::new, |mean| format!("{mean:.2}{unit}"));
            let _infallible = writeln!(
                text,
                "{:22} {:>8}   {:>8}",
                comparison.workloads[0].laws[index].law,
                show(mean(|row| row.attainment.map(|share| 100.0 * share)), " %"),
                show(mean(|row| row.times_oracle), "")
            );
        }
    }
    text
}

fn line(row: &Row) -> String {
    let [in_time, worst, p50, p95, p99, replica_seconds, times_oracle, peak, changes] = cells(row);
    format!(
        "{:22} {in_time:>8}   {worst:>10} {p50:>9} {p95:>9} {p99:>9} {replica_seconds:>10}  {times_oracle:>8}  {peak:>4} \
         {changes:>8}\n",
        row.law
    )
}
