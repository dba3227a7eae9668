//! A run as CSV: a row for every second, and a row for every request.

use super::Report;
use crate::sample::{Outcome, Sample};
use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

const SECOND: [&str; 13] = [
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

const REQUEST: [&str; 7] =
    ["scheduled_us", "send_delay_us", "latency_us", "outcome", "right", "sent_bytes", "received_bytes"];

/// Writes a row for every second; a figure that there is none of is empty.
///
/// # Errors
/// Names the file when it cannot be written.
pub fn write_seconds(report: &Report, path: &Path) -> Result<()> {
    let write = || -> Result<()> {
        let mut csv = csv::Writer::from_path(path)?;
        csv.write_record(SECOND)?;
        for row in &report.seconds {
            let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value}"));
            let latency = |pick: fn(&crate::latencies::Percentiles) -> f64| number(row.latency_ms.as_ref().map(pick));
            let glimpse = report.glimpse(row.second);
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
                number(glimpse.and_then(|glimpse| glimpse.queue_length)),
                number(glimpse.and_then(|glimpse| glimpse.replicas)),
                number(glimpse.and_then(|glimpse| glimpse.desired_replicas)),
            ])?;
        }
        Ok(csv.flush()?)
    };
    write().with_context(|| format!("write {}", path.display()))
}

/// Writes a row for every request, compressed with gzip.
///
/// # Errors
/// Names the file when it cannot be written.
pub fn write_requests(samples: &[Sample], path: &Path) -> Result<()> {
    let micros = |duration: Duration| duration.as_micros().to_string();
    let write = || -> Result<()> {
        let mut csv = csv::Writer::from_writer(GzEncoder::new(File::create(path)?, Compression::default()));
        csv.write_record(REQUEST)?;
        for sample in samples {
            let (outcome, right) = match &sample.outcome {
                Outcome::Answered { right } => ("answered", right.map_or(String::new(), |right| right.to_string())),
                Outcome::Failed { code } => (code.as_ref(), String::new()),
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
    };
    write().with_context(|| format!("write {}", path.display()))
}
