//! A run as CSV, with a row for every second.

use super::RunReport;
use crate::latencies::Percentiles;
use anyhow::Result;
use std::io::Write;

/// The columns of the file that has a row for every second. A column's name ends with its unit, if it has one.
const SECOND_COLUMNS: [&str; 13] = [
    "second",
    "offered",
    "within_objective",
    "failed",
    "p50_ms",
    "p90_ms",
    "p95_ms",
    "p99_ms",
    "p99.9_ms",
    "max_ms",
    "queue_length",
    "replicas",
    "desired_replicas",
];

/// Writes CSV with a row for every second. The cell of a figure that was not measured is empty.
///
/// # Errors
/// If `out` cannot be written.
pub fn write_seconds(report: &RunReport, out: impl Write) -> Result<()> {
    let mut csv = csv::Writer::from_writer(out);
    csv.write_record(SECOND_COLUMNS)?;
    for row in &report.seconds {
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value}"));
        let latency = |percentile: fn(&Percentiles) -> f64| number(row.latency_ms.as_ref().map(percentile));
        let metrics = report.server_metrics_at(row.second);
        csv.write_record([
            row.second.to_string(),
            row.offered.to_string(),
            row.within_objective.to_string(),
            row.failed.to_string(),
            latency(|latency| latency.p50),
            latency(|latency| latency.p90),
            latency(|latency| latency.p95),
            latency(|latency| latency.p99),
            latency(|latency| latency.p999),
            latency(|latency| latency.max),
            number(metrics.and_then(|metrics| metrics.queue_length)),
            number(metrics.and_then(|metrics| metrics.replicas)),
            number(metrics.and_then(|metrics| metrics.desired_replicas)),
        ])?;
    }
    Ok(csv.flush()?)
}
