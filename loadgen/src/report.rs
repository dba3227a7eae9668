//! The report of a run, which is also the format of `--json`. The modules below it show a report as text, CSV,
//! JUnit's XML or a page.

pub mod csv;
pub mod html;
pub mod junit;
pub mod markdown;
pub mod terminal;

use crate::capacity::CapacityReport;
use crate::condition::{Condition, ConditionResult};
use crate::connection_limit::ConnectionLimit;
use crate::machine::Machine;
use crate::measure::Measurement;
use crate::payload::BodyFormat;
use crate::recording::RunRecording;
use crate::send_delay::SendDelays;
use crate::series::RunSeries;
use crate::server_metrics::{self, ServerMetrics};
use crate::slowest::SlowRequest;
use crate::summary::{IntervalSummary, RunSummary};
use crate::usage::ReplicaUsage;
use crate::workers::report::WorkerReport;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use workload::arrivals::ArrivalProcess;

/// The JSON that `loadgen run --json` writes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum JsonReport {
    /// The result of `--find-capacity`.
    Capacity(Box<CapacityReport>),
    /// The results of `--runs`.
    Series(Box<RunSeries>),
    /// The result of a run.
    Run(Box<RunReport>),
}

/// The result of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunReport {
    /// The settings of the run.
    pub setup: RunSetup,
    /// Whether the run came to its planned end. False if the user stopped it; the figures then cover the part before
    /// the stop.
    pub is_complete: bool,
    /// Requests that were still in flight when loadgen stopped waiting, after the user had stopped the run, and that had
    /// not missed the objective yet. No other figure contains them.
    pub unfinished: usize,
    /// Share of the machine's processor time that its host gave to other machines during the run and its warm-up, 0 to 1.
    /// Absent on systems other than Linux.
    #[serde(default)]
    pub steal: Option<f64>,
    /// How late requests were sent, and whether the run is valid.
    #[serde(rename = "punctuality")]
    pub send_delays: SendDelays,
    /// The figures of the whole run.
    pub summary: RunSummary,
    /// The result of each `--threshold`.
    pub thresholds: Vec<ConditionResult>,
    /// Pairs of a quantile and the latency of the answered requests at that quantile, in milliseconds.
    pub distribution: Vec<(f64, f64)>,
    /// The latencies of the answered requests in microseconds, as an HdrHistogram (V2, compressed, base64).
    pub histogram: String,
    /// The ten requests with the highest latencies, the slowest first.
    #[serde(default)]
    pub slowest: Vec<SlowRequest>,
    /// The figures of each second.
    pub seconds: Vec<IntervalSummary>,
    /// The figures of each row of `--table`. Empty without `--table`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub table: Vec<IntervalSummary>,
    /// The workers that sent the load. Empty without `--workers`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workers: Vec<WorkerReport>,
    /// Metrics of the dispatcher and the scaler during the run. Empty if they could not be read.
    #[serde(rename = "glimpses")]
    pub server_metrics: Vec<ServerMetrics>,
}

/// The settings of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunSetup {
    /// Name of the run. Absent without `--name`.
    pub name: Option<String>,
    /// Version of loadgen.
    pub version: String,
    /// Start of the run (RFC 3339).
    pub started_at: String,
    /// The URL to which images were posted.
    pub url: String,
    /// The workload in words.
    pub load: String,
    /// The process by which arrivals were spread. Absent in a closed load.
    #[schemars(with = "Option<String>")]
    pub arrivals: Option<ArrivalProcess>,
    /// Seed of the arrivals and the generated images. Of `--find-capacity`, the seed of the first rate; each further try has the
    /// next seed.
    pub seed: u64,
    /// Number of different images.
    #[serde(rename = "pictures")]
    pub images: usize,
    /// Number of files whose extension is that of an image, but that are no images or could not be read.
    #[serde(rename = "skipped_pictures")]
    pub skipped_images: usize,
    /// What is wrong with the labels of the images, such as a labels.csv that names no image. Absent if every label
    /// belongs to an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_problem: Option<String>,
    /// The limit of open files. Absent if it permits as many connections as loadgen opens at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_limit: Option<ConnectionLimit>,
    /// Format of the requests' bodies.
    #[serde(rename = "form")]
    pub body_format: BodyFormat,
    /// The objective: the time within which requests should be answered, in milliseconds.
    pub objective_ms: f64,
    /// Length of the warm-up before the run, in seconds. No figure contains its requests.
    pub warmup_seconds: f64,
    /// Length of the run in seconds. If the user stopped the run, the length of the part before the stop.
    pub length_seconds: f64,
    /// The machine that sent the load. Absent on systems other than Linux.
    #[serde(default)]
    pub machine: Option<Machine>,
}

impl RunReport {
    /// The report of a measurement whose requests are in `recording`. `slowest` are the slowest of them.
    pub fn new(
        setup: RunSetup,
        measurement: Measurement,
        recording: RunRecording,
        slowest: Vec<SlowRequest>,
        thresholds: &[Condition],
    ) -> Self {
        let Measurement { server_metrics, length, unfinished, is_complete } = measurement;
        let RunRecording { tally, seconds, table, .. } = recording;
        let usage = ReplicaUsage::new(&server_metrics, length.as_secs_f64(), tally.good_within_run());
        let summary = tally.summary(usage);
        let check = |condition: &Condition| condition.check(&summary, |quantile| tally.latency_of_offered(quantile));
        Self {
            setup,
            is_complete,
            unfinished,
            steal: None,
            send_delays: tally.send_delays(),
            thresholds: thresholds.iter().map(check).collect(),
            distribution: tally.latencies().distribution(),
            histogram: tally.latencies().encoded(),
            slowest,
            seconds: seconds.finish(length),
            table: table.map_or_else(Vec::new, |table| table.finish(length)),
            workers: Vec::new(),
            summary,
            server_metrics,
        }
    }

    /// The report with the workers that sent the load. loadgen was the bottleneck if one of them was.
    #[must_use]
    pub fn with_workers(mut self, workers: Vec<WorkerReport>) -> Self {
        self.send_delays.is_bottleneck |= workers.iter().any(|worker| worker.is_bottleneck);
        self.workers = workers;
        self
    }

    /// The metrics that were read last before the end of `second`, which counts from 0. `None` if there are none, or if
    /// they were older than [`server_metrics::STALE_AFTER`] at that end.
    pub fn server_metrics_at(&self, second: usize) -> Option<&ServerMetrics> {
        let end = second as f64 + 1.0;
        let last = self.server_metrics.iter().rev().find(|metrics| metrics.at_seconds < end)?;
        (last.at_seconds >= end - server_metrics::STALE_AFTER.as_secs_f64()).then_some(last)
    }

    /// Whether every threshold held, and loadgen kept to its schedule.
    pub fn has_held(&self) -> bool {
        !self.send_delays.is_bottleneck && self.thresholds.iter().all(|result| result.held)
    }
}

/// The JSON schema of [`JsonReport`].
pub fn schema() -> String {
    serde_json::to_string_pretty(&schemars::schema_for!(JsonReport)).expect("a schema is JSON") + "\n"
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::time::Duration;

    /// A report with this summary.
    pub(crate) fn report(summary: RunSummary) -> RunReport {
        let setup = RunSetup {
            name: None,
            version: "0".into(),
            started_at: "2026-01-01T00:00:00Z".into(),
            url: "http://a/predict".into(),
            load: "burst.txt".into(),
            arrivals: Some(ArrivalProcess::Poisson),
            seed: 1,
            images: 1,
            skipped_images: 0,
            label_problem: None,
            connection_limit: None,
            body_format: BodyFormat::Raw,
            objective_ms: 500.0,
            warmup_seconds: 0.0,
            length_seconds: 10.0,
            machine: None,
        };
        let length = Duration::from_secs(10);
        let measurement = Measurement { server_metrics: Vec::new(), length, unfinished: 0, is_complete: true };
        let recording = RunRecording::new(Duration::from_millis(500), length, None, None, length);
        RunReport { summary, ..RunReport::new(setup, measurement, recording, Vec::new(), &[]) }
    }

    #[test]
    fn metrics_become_stale_after_three_seconds() {
        let metrics =
            |at_seconds| ServerMetrics { at_seconds, queue_length: None, replicas: None, desired_replicas: None };
        let server_metrics = vec![metrics(0.2), metrics(1.3), metrics(3.1)];
        let report = RunReport { server_metrics, ..report(RunSummary::default()) };
        let at = |second| report.server_metrics_at(second).map(|metrics| metrics.at_seconds);
        let found: Vec<_> = (0..7).map(at).collect();
        assert_eq!(found, [Some(0.2), Some(1.3), Some(1.3), Some(3.1), Some(3.1), Some(3.1), None]);
    }

    #[test]
    fn the_published_schema_is_that_of_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/report.schema.json");
        let published = std::fs::read_to_string(path).expect("the schema is published");
        assert!(
            published == super::schema(),
            "the schema has changed; update it: loadgen schema > docs/report.schema.json"
        );
    }
}
