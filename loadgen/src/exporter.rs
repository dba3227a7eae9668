//! Metrics of loadgen itself, for Prometheus: what was sent and answered so far. They are recorded where samples are
//! collected, and never on the thread that sends.

use crate::sample::Sample;
use anyhow::{Context, Result};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use service::admin::Admin;
use service::readiness::Readiness;
use service::{respond, server, telemetry};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;

/// Counter: requests that were due.
const OFFERED: &str = "loadgen_offered_total";
/// Counter by `code`: requests that have ended.
const REQUESTS: &str = "loadgen_requests_total";
/// Counter: requests that were sent late.
const LATE_SENDS: &str = "loadgen_late_sends_total";
/// Gauge: requests that were due and have not ended.
const IN_FLIGHT: &str = "loadgen_in_flight";
/// Histogram: latencies of the answered requests.
const DURATION: &str = "loadgen_request_duration_seconds";

/// The HELP text of each metric.
const HELP: [(&str, &str); 5] = [
    (OFFERED, "Requests that were due so far."),
    (REQUESTS, "Requests that have ended, by error code; the code of an answered request is answered."),
    (LATE_SENDS, "Requests that loadgen sent late."),
    (IN_FLIGHT, "Requests that were due and have not ended."),
    (DURATION, "Latency of the answered requests, from the scheduled send time to the whole answer."),
];

/// The code of an answered request.
const ANSWERED: &str = "answered";

/// Largest number of different codes. A server chooses the codes of its errors, and Prometheus keeps a series for each.
const MAX_CODES: usize = 64;

/// The code of failures whose own code is beyond [`MAX_CODES`].
const OTHER: &str = "other";

/// Invariant of the lock on the counters.
const UNPOISONED: &str = "no task panics while it holds the lock on the counters";

/// Exports what was sent and answered. Clones count together.
#[derive(Debug, Clone)]
pub struct Exporter {
    recorder: Arc<PrometheusRecorder>,
    offered: Counter,
    late_sends: Counter,
    in_flight: Gauge,
    duration: Histogram,
    /// A request that is sent later than this after its scheduled time counts as late.
    late_after: Duration,
    counts: Arc<Mutex<Counts>>,
}

/// The part of the counters that changes shape.
#[derive(Debug, Default)]
struct Counts {
    by_code: BTreeMap<String, Counter>,
    /// Requests of the present load that were due so far.
    due: usize,
}

impl Exporter {
    /// Counts from zero. The histogram has a bucket at `objective` and buckets up to `timeout`.
    pub fn new(objective: Duration, timeout: Duration, late_after: Duration) -> Self {
        let buckets = telemetry::latency_buckets(Some(objective), timeout);
        let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Full(DURATION.into()), &buckets);
        let recorder = builder.expect("there are buckets").build_recorder();
        for (name, help) in HELP {
            match name {
                IN_FLIGHT => recorder.describe_gauge(name.into(), None, help.into()),
                DURATION => recorder.describe_histogram(name.into(), None, help.into()),
                _ => recorder.describe_counter(name.into(), None, help.into()),
            }
        }
        Self {
            offered: counter(&recorder, OFFERED, Vec::new()),
            late_sends: counter(&recorder, LATE_SENDS, Vec::new()),
            in_flight: recorder.register_gauge(&Key::from_static_name(IN_FLIGHT), &METADATA),
            duration: recorder.register_histogram(&Key::from_static_name(DURATION), &METADATA),
            late_after,
            counts: Arc::default(),
            recorder: Arc::new(recorder),
        }
    }

    /// Records the end of a request.
    pub fn record(&self, sample: &Sample) {
        if sample.is_answered() {
            self.duration.record(sample.latency.as_secs_f64());
        }
        let code = sample.outcome.code().unwrap_or(ANSWERED);
        if sample.send_delay > self.late_after {
            self.late_sends.increment(1);
        }
        let mut counts = self.counts.lock().expect(UNPOISONED);
        if let Some(known) = counts.by_code.get(code) {
            return known.increment(1);
        }
        let code = if counts.by_code.len() < MAX_CODES { code } else { OTHER };
        let register = || counter(&self.recorder, REQUESTS, vec![Label::new("code", code.to_owned())]);
        counts.by_code.entry(code.to_owned()).or_insert_with(register).increment(1);
    }

    /// Records that `due` requests of the present load were due so far, of which `in_flight` have not ended. A number
    /// below the last one begins another load.
    pub fn advance(&self, due: usize, in_flight: usize) {
        let mut counts = self.counts.lock().expect(UNPOISONED);
        let before = if due < counts.due { 0 } else { counts.due };
        counts.due = due;
        self.offered.increment((due - before) as u64);
        self.in_flight.set(in_flight as f64);
    }

    /// Starts to serve the metrics at `address` until the runtime ends. Returns the address, which has the port that the
    /// system chose if `address` has port 0.
    ///
    /// # Errors
    /// If the address is in use, or belongs to no interface of this machine.
    pub async fn listen(&self, address: SocketAddr) -> Result<SocketAddr> {
        let context = || format!("listen on {address} (--metrics-listen); choose a free port of this machine");
        let listener = TcpListener::bind(address).await.with_context(context)?;
        let bound = listener.local_addr().with_context(context)?;
        let handle: PrometheusHandle = self.recorder.handle();
        tokio::spawn(telemetry::upkeep(handle.clone()));
        let admin = Admin { metrics: handle, readiness: Readiness::default(), capacity: None };
        let answer = move |request: Request<Incoming>| {
            let reply = admin.answer(request.method(), request.uri().path());
            std::future::ready(reply.unwrap_or_else(|| {
                let mut reply = respond::text("text/plain", "the metrics are at /metrics\n".into());
                *reply.status_mut() = StatusCode::NOT_FOUND;
                reply
            }))
        };
        tokio::spawn(server::serve(listener, None, answer, std::future::pending(), Duration::ZERO));
        Ok(bound)
    }
}

/// The metadata of all metrics.
static METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

fn counter(recorder: &PrometheusRecorder, name: &'static str, labels: Vec<Label>) -> Counter {
    recorder.register_counter(&Key::from_parts(name, labels), &METADATA)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::RequestOutcome;
    use std::collections::BTreeSet;

    fn exporter() -> Exporter {
        Exporter::new(Duration::from_millis(750), Duration::from_secs(30), Duration::from_millis(10))
    }

    fn sample(latency_ms: u64, send_delay_ms: u64, outcome: RequestOutcome) -> Sample {
        Sample {
            send_delay: Duration::from_millis(send_delay_ms),
            ..crate::sample::tests::sample(0, latency_ms, outcome)
        }
    }

    #[test]
    fn requests_are_counted_by_code_over_several_loads() {
        let exporter = exporter();
        let answered = || RequestOutcome::Answered { right: None };
        exporter.advance(2, 2);
        exporter.record(&sample(700, 0, answered()));
        exporter.record(&sample(20_000, 11, answered()));
        exporter.record(&sample(1, 10, RequestOutcome::Failed { code: "queue_full".into() }));
        exporter.advance(5, 2);
        // The next load begins.
        exporter.advance(1, 1);
        let text = exporter.recorder.handle().render();
        for line in [
            "loadgen_offered_total 6",
            "loadgen_requests_total{code=\"answered\"} 2",
            "loadgen_requests_total{code=\"queue_full\"} 1",
            "loadgen_late_sends_total 1",
            "loadgen_in_flight 1",
            "loadgen_request_duration_seconds_bucket{le=\"0.75\"} 1",
            "loadgen_request_duration_seconds_bucket{le=\"16\"} 1",
            "loadgen_request_duration_seconds_bucket{le=\"32\"} 2",
            "loadgen_request_duration_seconds_count 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_server_cannot_make_a_series_for_every_answer() {
        let exporter = exporter();
        for number in 0..1000 {
            exporter.record(&sample(1, 0, RequestOutcome::Failed { code: format!("code {number}").into() }));
        }
        let text = exporter.recorder.handle().render();
        let series = text.lines().filter(|line| line.starts_with("loadgen_requests_total{")).count();
        assert_eq!(series, MAX_CODES + 1);
        assert!(text.contains(&format!("loadgen_requests_total{{code=\"other\"}} {}\n", 1000 - MAX_CODES)), "{text}");
    }

    #[test]
    fn docs_loadgen_md_lists_exactly_these_metrics() {
        let text = include_str!("../../docs/loadgen.md");
        let rows = text.lines().filter(|line| line.starts_with("| `loadgen_"));
        let documented: BTreeSet<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
        assert_eq!(
            documented,
            HELP.map(|(name, _)| name).into(),
            "the table in docs/loadgen.md (left) must list the metrics of loadgen/src/exporter.rs (right)"
        );
    }
}
