//! A run as CSV: a row for every second, or a row for every request.

use super::RunReport;
use crate::latencies::Percentiles;
use crate::sample::{RequestOutcome, Sample};
use anyhow::Result;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;
use std::time::Duration;

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

/// The columns of the file that has a row for every request. Times are in microseconds.
const REQUEST_COLUMNS: [&str; 7] =
    ["scheduled_us", "send_delay_us", "latency_us", "outcome", "right", "sent_bytes", "received_bytes"];

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

/// Writes CSV with a row for every request, compressed with gzip.
///
/// # Errors
/// If `out` cannot be written.
pub fn write_requests(samples: &[Sample], out: impl Write) -> Result<()> {
    let micros = |duration: Duration| duration.as_micros().to_string();
    let mut csv = csv::Writer::from_writer(GzEncoder::new(out, Compression::default()));
    csv.write_record(REQUEST_COLUMNS)?;
    for sample in samples {
        let (outcome, right) = match &sample.outcome {
            RequestOutcome::Answered { right } => ("answered", right.map_or(String::new(), |right| right.to_string())),
            RequestOutcome::Failed { code } => (code.as_ref(), String::new()),
        };
        csv.write_record([
            &micros(sample.scheduled),
            &micros(sample.send_delay),
            &micros(sample.latency),
            outcome,
            &right,
            &sample.sent_bytes.to_string(),
            &sample.received_bytes.to_string(),
        ])?;
    }
    let gzip = csv.into_inner().map_err(|error| error.into_error())?;
    gzip.finish()?;
    Ok(())
}
