//! The report of a comparison: a table on the terminal, and a page with plots.

pub mod html;
pub mod table;

use super::comparison::ComparisonRow;

/// The figures of a row as text, in the order of the columns. A figure that is not known is a dash, but an unknown
/// ratio to the oracle is an empty text.
fn cells(row: &ComparisonRow) -> [String; 9] {
    let number = |figure: Option<f64>, decimals| figure.map_or("–".into(), |figure| format!("{figure:.decimals$}"));
    let percent = |share: Option<f64>| share.map_or("–".into(), |share| format!("{:.2} %", 100.0 * share));
    let milliseconds = |seconds: Option<f64>| number(seconds.map(|seconds| 1e3 * seconds), 0);
    [
        percent(row.attainment),
        percent(row.worst_attainment),
        milliseconds(row.p50_seconds),
        milliseconds(row.p95_seconds),
        milliseconds(row.p99_seconds),
        number(row.replica_seconds, 0),
        row.times_oracle.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
        row.peak.map_or("–".into(), |peak| peak.to_string()),
        number(row.changes, 1),
    ]
}
