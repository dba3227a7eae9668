//! The report of a comparison as a text for the terminal.

use super::cells;
use crate::simulate::comparison::{ComparisonRow, LawComparison};
use crate::simulate::mean::MeanRow;
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
    if !comparison.means.is_empty() {
        text.push_str(&means(&comparison.means));
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

/// A table of the means of each law over all workloads. A cell is empty if the figure is not known for every workload.
fn means(rows: &[MeanRow]) -> String {
    let width = rows.iter().map(|row| row.law.chars().count()).fold(MIN_NAME_WIDTH, usize::max);
    let mut text = String::from("\nmeans over all workloads; the worst seed is that of all workloads\n");
    let mut line = |name: &str, [in_time, worst, times_oracle, changes]: [&str; 4]| {
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "{name:width$} {in_time:>8}   {worst:>10}  {times_oracle:>8}  {changes:>8}");
    };
    line("law", [COLUMNS[0], COLUMNS[1], COLUMNS[6], COLUMNS[8]]);
    for row in rows {
        let percent = |share: Option<f64>| share.map_or_else(String::new, |share| format!("{:.2} %", 100.0 * share));
        let number =
            |figure: Option<f64>, decimals| figure.map_or_else(String::new, |figure| format!("{figure:.decimals$}"));
        let cells = [
            percent(row.attainment),
            percent(row.worst_attainment),
            number(row.times_oracle, 2),
            number(row.changes, 1),
        ];
        line(&row.law, cells.each_ref().map(String::as_str));
    }
    text
}
