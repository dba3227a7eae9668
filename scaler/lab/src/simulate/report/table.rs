//! The report of a comparison as a text for the terminal.

use super::cells;
use crate::simulate::comparison::{ComparisonRow, LawComparison, WorkloadComparison};
use std::fmt::{Display, Write};

/// The least width of the column with the names of laws, in characters.
const MIN_NAME_WIDTH: usize = 22;

/// The headings of the columns after the name of the law.
const COLUMNS: [&str; 9] =
    ["in time", "worst seed", "p50 ms", "p95 ms", "p99 ms", "replica-s", "× oracle", "peak", "changes"];

/// The report of a comparison: a table for each workload, and the means over all workloads if there are several.
pub fn render(comparison: &LawComparison) -> String {
    let mut text = String::new();
    for workload in &comparison.workloads {
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "\n{}", workload.workload);
        for note in &workload.notes {
            let _infallible = writeln!(text, "{note}");
        }
        let width = name_width(workload.rows());
        text.push_str(&line("law", &COLUMNS, width));
        for row in workload.rows() {
            text.push_str(&line(&row.law, &cells(row), width));
        }
    }
    if comparison.workloads.len() > 1 {
        text.push_str(&means(&comparison.workloads));
    }
    text
}

fn name_width<'a>(rows: impl IntoIterator<Item = &'a ComparisonRow>) -> usize {
    rows.into_iter().map(|row| row.law.chars().count()).fold(MIN_NAME_WIDTH, usize::max)
}

fn line(name: &str, cells: &[impl Display; 9], width: usize) -> String {
    let [in_time, worst, p50, p95, p99, replica_seconds, times_oracle, peak, changes] = cells;
    format!(
        "{name:width$} {in_time:>8}   {worst:>10} {p50:>9} {p95:>9} {p99:>9} {replica_seconds:>10}  {times_oracle:>8}  \
         {peak:>4} {changes:>8}\n"
    )
}

/// A table of the mean attainment and the mean ratio to the oracle of each law over all workloads. A cell is empty if
/// the figure is not known for every workload.
fn means(workloads: &[WorkloadComparison]) -> String {
    let laws = &workloads[0].laws;
    let width = name_width(laws);
    let mut text = format!("\nmeans over all workloads\n{:width$} {:>8}   {:>8}\n", "law", COLUMNS[0], COLUMNS[6]);
    for (index, law) in laws.iter().enumerate() {
        let mean = |figure: fn(&ComparisonRow) -> Option<f64>| {
            let sum: Option<f64> = workloads.iter().map(|workload| figure(&workload.laws[index])).sum();
            sum.map(|sum| sum / workloads.len() as f64)
        };
        let in_time = mean(|row| row.attainment).map_or_else(String::new, |share| format!("{:.2} %", 100.0 * share));
        let times_oracle = mean(|row| row.times_oracle).map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let _infallible = writeln!(text, "{:width$} {in_time:>8}   {times_oracle:>8}", law.law);
    }
    text
}
