//! The metrics that a replica exports: names, labels and HELP texts. `docs/api.md` lists the same metrics.

use metrics::{Gauge, Histogram, describe_gauge, describe_histogram, gauge, histogram};
use service::wire::metric;

/// Gauge: requests accepted and not answered yet.
pub const IN_PROGRESS: &str = "inference_in_progress";
/// Histogram, seconds: the time from a request's head to its answer.
pub const LATENCY: &str = "inference_latency_seconds";
/// Histogram by `stage` (decode, queue, forward), seconds: the time of that stage.
pub const STAGE: &str = "inference_stage_seconds";
/// Histogram, images: the size of a forward pass.
pub const BATCH_SIZE: &str = "inference_batch_size";
/// Gauge, seconds: the time from exec until the replica was ready.
pub const STARTUP: &str = metric::STARTUP;

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A value that goes up and down.
    Gauge,
    /// Counts by bucket, with their sum.
    Histogram,
}

/// A metric of a ready replica.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The name at `/metrics`.
    pub name: &'static str,
    /// The type at `/metrics`.
    pub kind: Kind,
    /// The HELP text.
    pub help: &'static str,
}

/// All metrics of a ready replica.
pub const ALL: [Metric; 5] = [
    Metric { name: IN_PROGRESS, kind: Kind::Gauge, help: "Requests that are accepted and not answered yet." },
    Metric {
        name: LATENCY,
        kind: Kind::Histogram,
        help: "Seconds from receiving a request to its answer, or to its client's leaving. Only requests that found a \
               slot.",
    },
    Metric {
        name: STAGE,
        kind: Kind::Histogram,
        help: "Seconds by stage. For each image: decode (with the wait for a decoder) and queue (from its decoding to \
               its forward pass). For each forward pass: forward.",
    },
    Metric { name: BATCH_SIZE, kind: Kind::Histogram, help: "Images in one forward pass." },
    Metric { name: STARTUP, kind: Kind::Gauge, help: "Seconds from exec until the replica was ready." },
];

/// A stage of the processing of an image, by which [`STAGE`] is labelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Decoding and transforming one image, the wait for a decoder included.
    Decode,
    /// One decoded image's wait for its forward pass.
    Queue,
    /// One forward pass.
    Forward,
}

impl Stage {
    const ALL: [Self; 3] = [Self::Decode, Self::Queue, Self::Forward];
}

/// Describes all metrics, and creates their series but for [`STARTUP`], which exists once the replica is ready. Without
/// this, `/metrics` would lack each series until something is recorded.
pub(crate) fn register() {
    for Metric { name, kind, help } in ALL {
        match kind {
            Kind::Gauge => describe_gauge!(name, help),
            Kind::Histogram => describe_histogram!(name, help),
        }
    }
    in_progress().set(0.0);
    let _created = (latency(), batch_size(), Stage::ALL.map(stage));
}

/// The gauge [`IN_PROGRESS`].
pub(crate) fn in_progress() -> Gauge {
    gauge!(IN_PROGRESS)
}

/// The histogram [`LATENCY`].
pub(crate) fn latency() -> Histogram {
    histogram!(LATENCY)
}

/// The histogram [`STAGE`] of one stage.
pub(crate) fn stage(stage: Stage) -> Histogram {
    // Literal labels, because the macro allocates memory for any others at each call.
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

/// The gauge [`STARTUP`].
pub(crate) fn startup() -> Gauge {
    gauge!(STARTUP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// The rows of the table of metrics in `docs/api.md` that belong to the replica: name and type.
    fn documented() -> Vec<(String, String)> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/api.md");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        let cells = |line: &str| -> Vec<String> { line.split('|').map(|cell| cell.trim().to_owned()).collect() };
        let rows = text.lines().filter(|line| line.starts_with("| `inference_") || line.starts_with("| `replica_"));
        rows.map(cells).map(|cells| (cells[1].trim_matches('`').to_owned(), cells[2].clone())).collect()
    }

    #[test]
    fn the_documents_list_every_metric_and_no_other() {
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
