//! The metrics that a replica exports, with their names, labels and HELP texts. `docs/api.md` lists the same metrics.

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use service::wire::metric;

/// Gauge: requests that are accepted and not answered yet.
pub const IN_PROGRESS: &str = "inference_in_progress";
/// Histogram, seconds: the time from receiving a request's headers to its answer, or until its client leaves.
pub const LATENCY: &str = "inference_latency_seconds";
/// Histogram by `stage` (decode, queue, forward), seconds: the time in each stage.
pub const STAGE: &str = "inference_stage_seconds";
/// Histogram: the number of images in a forward pass.
pub const BATCH_SIZE: &str = "inference_batch_size";
/// Counter: images whose logits were not finite numbers.
pub const NOT_FINITE: &str = "inference_not_finite_total";
/// Counter by `outcome` (replaced, refused): attempts to replace the model, because its files have changed.
pub const RELOADS: &str = "replica_model_reloads_total";
/// Gauge: 1 if the files of the model cannot be used, so that an older model is served.
pub const STALE: &str = "replica_model_stale";
/// Gauge by `version`: 1 for the version of the model that is served, 0 for earlier ones.
pub const MODEL_INFO: &str = "replica_model_info";
/// Gauge, seconds: the time from exec until the replica was ready.
pub const STARTUP: &str = metric::STARTUP;
/// Gauge by `version`: always 1.
pub const BUILD_INFO: &str = "replica_build_info";

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// A value that only goes up.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// Counts of values by bucket, and the sum of the values.
    Histogram,
}

/// A metric that a ready replica exports.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The name in the text of `/metrics`.
    pub name: &'static str,
    /// The type in the text of `/metrics`.
    pub kind: MetricKind,
    /// The HELP text, which describes the metric.
    pub help: &'static str,
}

/// All metrics that a ready replica exports.
pub const ALL: [Metric; 10] = [
    Metric { name: IN_PROGRESS, kind: MetricKind::Gauge, help: "Requests that are accepted and not answered yet." },
    Metric {
        name: LATENCY,
        kind: MetricKind::Histogram,
        help: "Seconds from receiving a request to its answer, or until its client leaves. Does not count requests that \
               found no free slot.",
    },
    Metric {
        name: STAGE,
        kind: MetricKind::Histogram,
        help: "Seconds in each stage. Each image is counted once in decode (the wait for a decoder, decoding and the \
               transform) and in queue (the wait for the forward pass), each forward pass once in forward.",
    },
    Metric { name: BATCH_SIZE, kind: MetricKind::Histogram, help: "Images in one forward pass." },
    Metric {
        name: NOT_FINITE,
        kind: MetricKind::Counter,
        help: "Images whose logits were not finite numbers, so that their requests got the status 500.",
    },
    Metric {
        name: RELOADS,
        kind: MetricKind::Counter,
        help: "Attempts to replace the model, because its files have changed, by outcome (replaced, refused).",
    },
    Metric {
        name: STALE,
        kind: MetricKind::Gauge,
        help: "1 if the files of the model are missing or cannot be used, so that an older model is served.",
    },
    Metric {
        name: MODEL_INFO,
        kind: MetricKind::Gauge,
        help: "1 for the version of the model that is served, 0 for earlier ones.",
    },
    Metric { name: STARTUP, kind: MetricKind::Gauge, help: "Seconds from exec until the replica was ready." },
    Metric { name: BUILD_INFO, kind: MetricKind::Gauge, help: "1, with the version of the program." },
];

/// A stage in the processing of an image: the label of [`STAGE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The wait of one image for a decoder, its decoding, and its transform.
    Decode,
    /// The wait of one decoded image for its forward pass.
    Queue,
    /// One forward pass.
    Forward,
}

impl Stage {
    const ALL: [Self; 3] = [Self::Decode, Self::Queue, Self::Forward];
}

/// The end of an attempt to replace the model: the label of [`RELOADS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReloadOutcome {
    /// Requests use the new model.
    Replaced,
    /// The new model cannot be used.
    Refused,
}

impl ReloadOutcome {
    const ALL: [Self; 2] = [Self::Replaced, Self::Refused];
}

/// Describes all metrics, and creates the series of all except [`STARTUP`] and [`MODEL_INFO`], which exist once the replica
/// is ready.
/// Otherwise `/metrics` would lack each series until its first value is recorded.
pub(crate) fn register() {
    for Metric { name, kind, help } in ALL {
        match kind {
            MetricKind::Counter => describe_counter!(name, help),
            MetricKind::Gauge => describe_gauge!(name, help),
            MetricKind::Histogram => describe_histogram!(name, help),
        }
    }
    in_progress().set(0.0);
    stale().set(0.0);
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    let _created = (latency(), batch_size(), not_finite(), Stage::ALL.map(stage), ReloadOutcome::ALL.map(reloads));
}

/// The gauge [`IN_PROGRESS`].
pub(crate) fn in_progress() -> Gauge {
    gauge!(IN_PROGRESS)
}

/// The histogram [`LATENCY`].
pub(crate) fn latency() -> Histogram {
    histogram!(LATENCY)
}

/// The series of the histogram [`STAGE`] for `stage`.
pub(crate) fn stage(stage: Stage) -> Histogram {
    // The labels are literals, because the macro allocates memory for other labels at each call.
    match stage {
        Stage::Decode => histogram!(STAGE, "stage" => "decode"),
        Stage::Queue => histogram!(STAGE, "stage" => "queue"),
        Stage::Forward => histogram!(STAGE, "stage" => "forward"),
    }
}

/// The histogram [`BATCH_SIZE`].
pub(crate) fn batch_size() -> Histogram {
    histogram!(BATCH_SIZE)
}

/// The counter [`NOT_FINITE`].
pub(crate) fn not_finite() -> Counter {
    counter!(NOT_FINITE)
}

/// The series of the counter [`RELOADS`] for `outcome`.
pub(crate) fn reloads(outcome: ReloadOutcome) -> Counter {
    match outcome {
        ReloadOutcome::Replaced => counter!(RELOADS, "outcome" => "replaced"),
        ReloadOutcome::Refused => counter!(RELOADS, "outcome" => "refused"),
    }
}

/// The gauge [`STALE`].
pub(crate) fn stale() -> Gauge {
    gauge!(STALE)
}

/// The series of the gauge [`MODEL_INFO`] for `version`.
pub(crate) fn model_info(version: String) -> Gauge {
    gauge!(MODEL_INFO, "version" => version)
}

/// The gauge [`STARTUP`].
pub(crate) fn startup() -> Gauge {
    gauge!(STARTUP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// The name and the type of each metric of the replica in the table of `docs/api.md`.
    fn documented() -> Vec<(String, String)> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/api.md");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        let cells = |line: &str| -> Vec<String> { line.split('|').map(|cell| cell.trim().to_owned()).collect() };
        let rows = text.lines().filter(|line| line.starts_with("| `inference_") || line.starts_with("| `replica_"));
        rows.map(cells).map(|cells| (cells[1].trim_matches('`').to_owned(), cells[2].clone())).collect()
    }

    #[test]
    fn the_documentation_lists_every_metric_of_the_replica_and_no_other() {
        let documented = documented();
        let exported = ALL.map(|metric| (metric.name.to_owned(), format!("{:?}", metric.kind).to_lowercase()));
        for metric in &exported {
            assert!(documented.contains(metric), "docs/api.md lacks the row of {metric:?}");
        }
        for row in &documented {
            assert!(exported.contains(row), "docs/api.md has {row:?}, which no replica exports");
        }
    }
}
