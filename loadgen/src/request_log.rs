//! The file of `--log`: a row for every request, as CSV compressed with gzip. Rows are written while the run lasts, in
//! the order in which the requests end.

use crate::output_file::OutputFile;
use crate::payload::Payload;
use crate::request_id::RequestIds;
use crate::sample::{RequestOutcome, Sample};
use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::BufWriter;
use std::sync::Arc;

/// The columns. A column's name ends with its unit, if it has one: `us` are microseconds, and `ms` milliseconds.
const COLUMNS: [&str; 16] = [
    "scheduled_us",
    "send_delay_us",
    "latency_us",
    "outcome",
    "right",
    "sent_bytes",
    "received_bytes",
    "request_id",
    "picture",
    "status",
    "replica",
    "queue_ms",
    "decode_ms",
    "batch_ms",
    "inference_ms",
    "total_ms",
];

/// An open log of requests.
pub struct RequestLog {
    name: String,
    rows: csv::Writer<GzEncoder<BufWriter<OutputFile>>>,
    ids: RequestIds,
    payloads: Arc<[Payload]>,
    /// The error of the first row that could not be written. Later rows are not written.
    error: Option<csv::Error>,
}

impl RequestLog {
    /// Writes the names of the columns. Request i has the id `ids.text(i)`.
    ///
    /// # Errors
    /// If the file cannot be written; the message names it.
    pub fn create(file: OutputFile, ids: RequestIds, payloads: Arc<[Payload]>) -> Result<Self> {
        let name = file.name();
        let mut rows = csv::Writer::from_writer(GzEncoder::new(BufWriter::new(file), Compression::fast()));
        rows.write_record(COLUMNS).with_context(|| format!("write {name}"))?;
        Ok(Self { name, rows, ids, payloads, error: None })
    }

    /// Writes the row of a request. [`RequestLog::finish`] returns the error if the row cannot be written.
    pub fn record(&mut self, sample: &Sample) {
        if self.error.is_none() {
            self.error = self.write(sample).err();
        }
    }

    fn write(&mut self, sample: &Sample) -> csv::Result<()> {
        let micros = |duration: std::time::Duration| duration.as_micros().to_string();
        let right = match sample.outcome {
            RequestOutcome::Answered { right: Some(right) } => right.to_string(),
            _ => String::new(),
        };
        let timing = sample.timing.map(|timing| {
            [timing.queue, timing.decode, timing.batch, timing.inference, timing.total].map(|part| part.to_string())
        });
        let [queue, decode, batch, inference, total] = timing.unwrap_or_default();
        self.rows.write_record([
            &micros(sample.scheduled),
            &micros(sample.send_delay),
            &micros(sample.latency),
            sample.outcome.code().unwrap_or("answered"),
            &right,
            &sample.sent_bytes.to_string(),
            &sample.received_bytes.to_string(),
            &self.ids.text(sample.index),
            &self.payloads[sample.image].name,
            &sample.status.map_or_else(String::new, |status| status.to_string()),
            sample.replica.as_deref().unwrap_or_default(),
            &queue,
            &decode,
            &batch,
            &inference,
            &total,
        ])
    }

    /// Writes the rest of the file.
    ///
    /// # Errors
    /// If a row or the rest could not be written; the message names the file.
    pub fn finish(self) -> Result<()> {
        let Self { name, rows, error, .. } = self;
        let finish = || -> Result<()> {
            if let Some(error) = error {
                return Err(error.into());
            }
            let gzip = rows.into_inner().map_err(|error| error.into_error())?;
            let file = gzip.finish()?;
            file.into_inner().map_err(|error| error.into_error())?;
            Ok(())
        };
        finish().with_context(|| format!("write {name}"))
    }
}
