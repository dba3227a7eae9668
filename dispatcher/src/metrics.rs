//! The names, types and HELP texts of the dispatcher's metrics. [`crate::meters`] keeps their values. The names of
//! metrics that other programs read are constants of the wire contract.

use metrics::{describe_counter, describe_gauge, describe_histogram};

pub use service::wire::metric::{
    CAPACITY, ENQUEUED, FULL_WORK, IN_FLIGHT, QUEUE_LENGTH, REPLICA_WORK, REPLICAS, REQUEST_DURATION, REQUESTS, SHED,
    UPSTREAM_DURATION, UPTIME,
};

/// Gauge: waiting requests that can no longer meet the objective.
pub const QUEUE_LATE_LENGTH: &str = "dispatcher_queue_late_length";
/// Counter: requests whose deadline passed while they waited.
pub const EXPIRED: &str = "dispatcher_expired_total";
/// Histogram in seconds: the time from acceptance to dispatch.
pub const QUEUE_WAIT: &str = "dispatcher_queue_wait_seconds";
/// Histogram in seconds: the time from the arrival of a request's head to that of its whole body.
pub const UPLOAD_DURATION: &str = "dispatcher_upload_duration_seconds";
/// Counter: requests that were sent to a second replica because the first was slow.
pub const HEDGES: &str = "dispatcher_hedges_total";
/// Counter by `reason`: retries.
pub const RETRIES: &str = "dispatcher_retries_total";

/// Counter by `verdict`: requests that have ended, by whether they count for or against the objective.
pub const VERDICTS: &str = "dispatcher_request_verdicts_total";

/// Gauge in seconds: the time within which requests should be answered, `--objective`.
pub const OBJECTIVE: &str = "dispatcher_objective_seconds";
/// Gauge, above 0 and below 1: the share of requests that should be answered within the objective, `--attainment`.
pub const OBJECTIVE_RATIO: &str = "dispatcher_objective_ratio";

/// Gauge by `version`: always 1.
pub const BUILD_INFO: &str = "dispatcher_build_info";

/// Counter by `reason`: ejections of replicas.
pub const EJECTIONS: &str = "dispatcher_ejections_total";

/// Counter by `replica` and `outcome` (ok, refused or failed): attempts at a replica.
pub const REPLICA_ATTEMPTS: &str = "dispatcher_replica_attempts_total";

/// Counter by `replica`, in seconds: the sum of the times from the dispatch of an image to its answer.
pub const REPLICA_SECONDS: &str = "dispatcher_replica_answer_seconds_total";

/// Counter: lines of the access log that were dropped.
pub const ACCESS_LOG_DROPPED: &str = "dispatcher_access_log_dropped_lines_total";
/// Counter by `tenant` and `outcome` (ok, rate_limited, shed or other): requests with a valid token.
pub const TENANT_REQUESTS: &str = "dispatcher_tenant_requests_total";

/// The Prometheus type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// A number that only grows while the process runs.
    Counter,
    /// A number that goes up and down.
    Gauge,
    /// A distribution in buckets.
    Histogram,
}

impl MetricKind {
    /// The type as `/metrics` writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// The description of a metric in `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricDescription {
    /// The metric's name.
    pub name: &'static str,
    /// The metric's type.
    pub kind: MetricKind,
    /// The HELP text.
    pub help: &'static str,
}

const fn row(name: &'static str, kind: MetricKind, help: &'static str) -> MetricDescription {
    MetricDescription { name, kind, help }
}

/// Every metric that the dispatcher exports. `docs/api.md` lists the same metrics.
pub const ALL: [MetricDescription; 27] = [
    row(QUEUE_LENGTH, MetricKind::Gauge, "Requests waiting in the queue, late ones included."),
    row(QUEUE_LATE_LENGTH, MetricKind::Gauge, "Waiting requests that can no longer meet the objective."),
    row(ENQUEUED, MetricKind::Counter, "Requests admitted to the queue."),
    row(REQUESTS, MetricKind::Counter, "Requests by outcome: ok, an error code, or client_gone."),
    row(
        VERDICTS,
        MetricKind::Counter,
        "Requests by verdict: good, late, failed, shed, gave_up (left without an answer), refused (invalid) or cancelled \
         (left within a tenth of the objective); the last two are not counted for an objective.",
    ),
    row(OBJECTIVE, MetricKind::Gauge, "Seconds within which requests should be answered (--objective)."),
    row(
        OBJECTIVE_RATIO,
        MetricKind::Gauge,
        "Share of requests that should be answered within the objective (--attainment).",
    ),
    row(
        REQUEST_DURATION,
        MetricKind::Histogram,
        "Seconds from the arrival of a whole request until it is answered or its client leaves.",
    ),
    row(
        UPLOAD_DURATION,
        MetricKind::Histogram,
        "Seconds from the arrival of a request's head to that of its whole body.",
    ),
    row(
        QUEUE_WAIT,
        MetricKind::Histogram,
        "Seconds from accepting a request to sending it to a replica, for each attempt.",
    ),
    row(
        UPSTREAM_DURATION,
        MetricKind::Histogram,
        "Seconds from sending a request to the replica's answer; successes only.",
    ),
    row(
        REPLICA_WORK,
        MetricKind::Histogram,
        "Seconds that a replica worked for an answer, by its own account; if it gives none, since it received the \
         request, or since its previous answer if that was later.",
    ),
    row(
        FULL_WORK,
        MetricKind::Gauge,
        "Mean seconds that a request costs a replica whose batches are full, by the replicas' own account; 0 if they \
         give none.",
    ),
    row(IN_FLIGHT, MetricKind::Gauge, "Requests sent to a replica and not yet answered."),
    row(REPLICAS, MetricKind::Gauge, "Replicas by state: ready, ejected or draining."),
    row(CAPACITY, MetricKind::Gauge, "Slots of all ready replicas."),
    row(UPTIME, MetricKind::Gauge, "Seconds since the dispatcher started."),
    row(BUILD_INFO, MetricKind::Gauge, "1, with the version of the program."),
    row(
        ACCESS_LOG_DROPPED,
        MetricKind::Counter,
        "Lines of the access log that were dropped, because their reader was too slow.",
    ),
    row(
        EJECTIONS,
        MetricKind::Counter,
        "Ejections of replicas, by the failure of the last attempt, or not_ready or silent for a liveness check.",
    ),
    row(REPLICA_ATTEMPTS, MetricKind::Counter, "Attempts at a replica, by outcome: ok, refused or failed."),
    row(
        REPLICA_SECONDS,
        MetricKind::Counter,
        "Seconds from the dispatch of each classified image to its answer, summed up.",
    ),
    row(SHED, MetricKind::Counter, "Requests refused at admission, by reason: overloaded, length or bytes."),
    row(EXPIRED, MetricKind::Counter, "Requests whose deadline passed while they waited in the queue."),
    row(HEDGES, MetricKind::Counter, "Requests sent to a second replica because the first was slow (--hedge)."),
    row(
        TENANT_REQUESTS,
        MetricKind::Counter,
        "Requests with a valid token, by tenant and outcome: ok, rate_limited, shed or other.",
    ),
    row(RETRIES, MetricKind::Counter, "Retries, by the reason for which the attempt before failed."),
];

/// Gives every metric its HELP text. The metrics recorder must be installed.
pub fn describe() {
    for MetricDescription { name, kind, help } in ALL {
        match kind {
            MetricKind::Counter => describe_counter!(name, help),
            MetricKind::Gauge => describe_gauge!(name, help),
            MetricKind::Histogram => describe_histogram!(name, help),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::path::Path;

    /// The names and types of the dispatcher's metrics in the table of `docs/api.md`.
    fn documented() -> BTreeMap<String, String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/api.md");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        let rows = text.lines().filter_map(|line| {
            let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
            let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
            name.starts_with("dispatcher_").then_some((name.to_owned(), cells.next()?.to_owned()))
        });
        rows.collect()
    }

    #[test]
    fn the_documents_list_exactly_the_exported_metrics() {
        let documented = documented();
        let exported: BTreeMap<_, _> =
            ALL.iter().map(|metric| (metric.name.to_owned(), metric.kind.as_str().to_owned())).collect();
        let missing: Vec<_> = exported.iter().filter(|(name, _)| !documented.contains_key(*name)).collect();
        assert!(missing.is_empty(), "docs/api.md lacks {missing:?}");
        assert_eq!(documented, exported, "docs/api.md (left) and the dispatcher (right) disagree");
    }

    #[test]
    fn every_metric_has_a_help_text_and_no_two_share_a_name() {
        let help: BTreeMap<_, _> = ALL.iter().map(|metric| (metric.name, metric.help)).collect();
        assert_eq!(help.len(), ALL.len());
        for (name, help) in help {
            assert!(help.ends_with('.') && help.is_ascii(), "{name}: {help:?}");
        }
    }
}
