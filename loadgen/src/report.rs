//! What a run found, and the ways to show it.

pub mod csv;
pub mod html;
pub mod terminal;

use crate::capacity::Capacity;
use crate::condition::{Condition, Outcome};
use crate::measure::Measured;
use crate::payload::Form;
use crate::punctuality::Punctuality;
use crate::summary::{self, Row, Summary};
use crate::usage::Usage;
use crate::watch::{self, Glimpse};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use workload::arrivals::Process;

/// What `loadgen run --json` writes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Written {
    /// With `--find-capacity`.
    Capacity(Box<Capacity>),
    /// Otherwise.
    Run(Box<Report>),
}

/// Everything that one run found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// What was done.
    pub setup: Setup,
    /// False if somebody stopped it: the figures are of the part before that.
    pub is_complete: bool,
    /// Sent, and not waited for, since somebody stopped it; in no other figure.
    pub unfinished: usize,
    /// Whether the generator kept to its schedule.
    pub punctuality: Punctuality,
    /// The figures of the whole run.
    pub summary: Summary,
    /// What was to hold.
    pub thresholds: Vec<Outcome>,
    /// Latency in milliseconds of the answered by quantile.
    pub distribution: Vec<(f64, f64)>,
    /// Latency in microseconds of the answered as an HdrHistogram (V2, compressed, base64), for its tools.
    pub histogram: String,
    /// The figures second by second.
    pub seconds: Vec<Row>,
    /// The same in the wider rows that `--table` prints; empty without it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub table: Vec<Row>,
    /// What the dispatcher and the scaler said meanwhile; empty if neither did.
    pub glimpses: Vec<Glimpse>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Setup {
    /// What the run is called; absent if nobody called it anything.
    pub name: Option<String>,
    /// Of loadgen.
    pub version: String,
    /// RFC 3339.
    pub started_at: String,
    /// Where pictures were posted.
    pub url: String,
    /// The workload in words.
    pub load: String,
    /// How arrivals were spread; absent in a closed loop.
    #[schemars(with = "Option<String>")]
    pub arrivals: Option<Process>,
    /// Of arrivals and generated pictures.
    pub seed: u64,
    /// Different pictures.
    pub pictures: usize,
    /// Files of the folder that look like pictures and could not be read.
    pub skipped_pictures: usize,
    /// What a body looked like.
    pub form: Form,
    /// Answers were to be there within this time.
    pub objective_ms: f64,
    /// Before the run, and in no figure.
    pub warmup_seconds: f64,
    /// Of the run; of the part that was made if somebody stopped it.
    pub length_seconds: f64,
}

impl Report {
    /// Sums up what was measured.
    pub fn new(setup: Setup, measured: &Measured, thresholds: &[Condition], table: Option<u32>) -> Self {
        let Measured { samples, glimpses, length, unfinished, is_complete } = measured;
        let objective = Duration::from_secs_f64(setup.objective_ms / 1e3);
        let usage = Usage::of(glimpses, length.as_secs_f64(), summary::good(samples, objective));
        let summary = summary::summarise(samples, objective, *length, usage);
        let latencies = summary::latencies(samples);
        let latency = |quantile| latencies.at_of(quantile, samples.len());
        let rows = |step: u32| summary::rows(samples, objective, *length, step as usize);
        Self {
            setup,
            is_complete: *is_complete,
            unfinished: *unfinished,
            punctuality: Punctuality::of(samples),
            thresholds: thresholds.iter().map(|condition| condition.judge(&summary, latency)).collect(),
            summary,
            distribution: latencies.distribution(),
            histogram: latencies.encoded(),
            seconds: rows(1),
            table: table.map_or_else(Vec::new, rows),
            glimpses: glimpses.clone(),
        }
    }

    /// What was said last before the end of `second`, unless that was long before it.
    pub fn glimpse(&self, second: usize) -> Option<&Glimpse> {
        let end = second as f64 + 1.0;
        let last = self.glimpses.iter().rev().find(|glimpse| glimpse.at_seconds < end)?;
        (last.at_seconds >= end - watch::STALE.as_secs_f64()).then_some(last)
    }

    /// Whether every threshold held, and the generator kept to its schedule.
    pub fn has_held(&self) -> bool {
        !self.punctuality.is_bottleneck && self.thresholds.iter().all(|outcome| outcome.held)
    }
}

/// The JSON schema of [`Written`].
pub fn schema() -> String {
    serde_json::to_string_pretty(&schemars::schema_for!(Written)).expect("a schema is JSON") + "\n"
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A report with this summary.
    pub(crate) fn report(summary: Summary) -> Report {
        let setup = Setup {
            name: None,
            version: "0".into(),
            started_at: "2026-01-01T00:00:00Z".into(),
            url: "http://a/predict".into(),
            load: "burst.txt".into(),
            arrivals: Some(Process::Poisson),
            seed: 1,
            pictures: 1,
            skipped_pictures: 0,
            form: Form::Raw,
            objective_ms: 500.0,
            warmup_seconds: 0.0,
            length_seconds: 10.0,
        };
        let measured = Measured {
            samples: Vec::new(),
            glimpses: Vec::new(),
            length: Duration::from_secs(10),
            unfinished: 0,
            is_complete: true,
        };
        Report { summary, ..Report::new(setup, &measured, &[], None) }
    }

    #[test]
    fn what_was_said_last_is_forgotten_after_a_while() {
        let glimpse = |at_seconds| Glimpse { at_seconds, queue_length: None, replicas: None, desired_replicas: None };
        let report = Report { glimpses: vec![glimpse(0.2), glimpse(1.3), glimpse(3.1)], ..report(Summary::default()) };
        let seen: Vec<_> = (0..7).map(|second| report.glimpse(second).map(|glimpse| glimpse.at_seconds)).collect();
        assert_eq!(seen, [Some(0.2), Some(1.3), Some(1.3), Some(3.1), Some(3.1), Some(3.1), None]);
    }

    #[test]
    fn the_published_schema_is_that_of_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/report.schema.json");
        let published = std::fs::read_to_string(path).expect("it is published");
        assert!(published == super::schema(), "write it anew: loadgen schema > docs/report.schema.json");
    }
}
