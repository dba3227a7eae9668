//! OpenTelemetry spans of requests that have ended, sent to a collector by OTLP over HTTP: the whole request, each wait
//! in the queue, and each attempt at a replica. A thread of its own sends them in batches. If the collector is slow,
//! spans are dropped, because requests must not wait for it.

use crate::request_log::EndedRequest;
use crate::timeline::{Attempt, Timeline};
use bytes::Bytes;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor};
use service::trace::ServerSpan;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use ureq::Agent;

/// The longest time for sending one batch.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest answer of a collector that is read, in bytes.
const MAX_ANSWER_BYTES: u64 = 64 << 10;

/// Sends spans to a collector.
#[derive(Debug)]
pub struct SpanExport {
    processor: BatchSpanProcessor,
    /// The share of the traces that begin at this dispatcher which are recorded, 0 to 1.
    ratio: f64,
}

/// The reason for which no spans can be sent.
#[derive(Debug, thiserror::Error)]
#[error("--otlp-endpoint {endpoint}: {reason}; give the address of a collector, such as http://127.0.0.1:4318")]
pub struct Error {
    endpoint: String,
    reason: String,
}

impl SpanExport {
    /// Sends spans to the collector at `endpoint`, a URL such as `http://127.0.0.1:4318`, to which the path `/v1/traces`
    /// is added. `ratio`, 0 to 1, is the share of the traces that begin here which are recorded. Traces of clients are
    /// recorded if the client has sampled them.
    ///
    /// # Errors
    /// If `endpoint` is no URL of the scheme `http`.
    pub fn open(endpoint: &str, ratio: f64) -> Result<Self, Error> {
        let error = |reason: String| Error { endpoint: endpoint.into(), reason };
        let url: hyper::Uri = format!("{}/v1/traces", endpoint.trim_end_matches('/'))
            .parse()
            .map_err(|reason| error(format!("{reason}")))?;
        if url.scheme_str() != Some("http") || url.host().is_none() {
            return Err(error("only URLs of the scheme http are supported".into()));
        }
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Client::default())
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(url.to_string())
            .with_timeout(SEND_TIMEOUT)
            .build()
            .map_err(|reason| error(reason.to_string()))?;
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        processor.set_resource(&Resource::builder().with_service_name("dispatcher").with_attribute(version).build());
        Ok(Self { processor, ratio })
    }

    /// Whether a trace that begins here is recorded. `random` is uniform in 0 to 1.
    pub fn samples(&self, random: f64) -> bool {
        random < self.ratio
    }

    /// Sends the spans of a request that ended now.
    pub fn record(&self, request: &EndedRequest<'_>, span: &ServerSpan) {
        let attempts = request.timeline.map(Timeline::attempts).unwrap_or_default();
        for span in spans(request, span, &attempts, SystemTime::now(), rand::random) {
            self.processor.on_end(span);
        }
    }

    /// Sends the last spans. Blocks for at most [`SEND_TIMEOUT`].
    pub fn shut_down(&self) {
        if let Err(error) = self.processor.shutdown_with_timeout(SEND_TIMEOUT) {
            tracing::warn!(%error, "the last spans could not be sent to the collector");
        }
    }
}

/// The spans of a request that ended at `time` on the calendar. `new_id` makes the ids of the inner spans.
fn spans(
    request: &EndedRequest<'_>,
    span: &ServerSpan,
    attempts: &[Attempt],
    time: SystemTime,
    mut new_id: impl FnMut() -> u64,
) -> Vec<SpanData> {
    let on_calendar = |instant: Instant| time - request.ended.saturating_duration_since(instant);
    let context = |id: u64| {
        let (trace, id) = (TraceId::from_bytes(span.trace_id.to_be_bytes()), SpanId::from_bytes(id.to_be_bytes()));
        SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::default())
    };
    let new = |id: u64, name: &'static str, kind: SpanKind, started: Instant, ended: Instant| SpanData {
        span_context: context(id),
        parent_span_id: SpanId::from_bytes(span.span_id.to_be_bytes()),
        parent_span_is_remote: false,
        span_kind: kind,
        name: name.into(),
        start_time: on_calendar(started),
        end_time: on_calendar(ended),
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder("roundhouse").build(),
    };
    let mut whole = new(span.span_id, "", SpanKind::Server, request.arrived, request.ended);
    whole.name = format!("POST {}", request.path).into();
    whole.parent_span_id = span.parent_id.map_or(SpanId::INVALID, |id| SpanId::from_bytes(id.to_be_bytes()));
    whole.parent_span_is_remote = span.parent_id.is_some();
    whole.attributes = vec![
        KeyValue::new("http.request.method", "POST"),
        KeyValue::new("url.path", request.path.to_owned()),
        KeyValue::new("http.request.body.size", request.body_bytes as i64),
        KeyValue::new("roundhouse.request_id", request.request_id.clone()),
        KeyValue::new("roundhouse.code", request.outcome.as_str()),
        KeyValue::new("roundhouse.verdict", request.verdict.as_str()),
    ];
    if let Some(status) = request.status {
        whole.attributes.push(KeyValue::new("http.response.status_code", i64::from(status)));
        if status >= 500 {
            whole.status = Status::error(request.outcome.as_str());
        }
    }
    let upload = new(new_id(), "upload", SpanKind::Internal, request.arrived, request.accepted);
    let mut all = vec![whole, upload];
    let mut waits_since = request.accepted;
    for attempt in attempts {
        all.push(new(new_id(), "queue", SpanKind::Internal, waits_since, attempt.started));
        waits_since = attempt.ended;
        let mut tried = new(new_id(), "attempt", SpanKind::Client, attempt.started, waits_since);
        tried.attributes.push(KeyValue::new("server.address", attempt.replica.to_string()));
        match attempt.result {
            Ok(status) => tried.attributes.push(KeyValue::new("http.response.status_code", i64::from(status.as_u16()))),
            Err(failure) => {
                tried.attributes.push(KeyValue::new("error.type", failure.as_str()));
                tried.status = Status::error(failure.as_str());
            }
        }
        all.push(tried);
    }
    // A request that was answered waited for nothing after its last attempt.
    if attempts.last().is_none_or(|last| last.result.is_err()) && waits_since < request.ended {
        all.push(new(new_id(), "queue", SpanKind::Internal, waits_since, request.ended));
    }
    all
}

/// The HTTP client of the thread that sends the batches. It blocks that thread only.
#[derive(Debug)]
struct Client {
    agent: Agent,
    /// Whether the last batch failed, so that an outage of the collector writes one line of the log.
    is_failing: AtomicBool,
}

impl Default for Client {
    fn default() -> Self {
        let config =
            Agent::config_builder().proxy(None).timeout_global(Some(SEND_TIMEOUT)).http_status_as_error(false).build();
        Self { agent: config.into(), is_failing: AtomicBool::new(false) }
    }
}

impl Client {
    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ureq::Error> {
        let (head, body) = request.into_parts();
        let answer = self.agent.run(Request::from_parts(head, &body[..]))?;
        let (head, mut body) = answer.into_parts();
        let body = body.with_config().limit(MAX_ANSWER_BYTES).read_to_vec()?;
        Ok(Response::from_parts(head, body.into()))
    }
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.send(request);
        let failure = match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("status {}", answer.status())),
            Err(error) => Some(error.to_string()),
        };
        let was_failing = self.is_failing.swap(failure.is_some(), Ordering::Relaxed);
        if let (Some(error), false) = (failure, was_failing) {
            tracing::warn!(
                error,
                "the collector of --otlp-endpoint takes no spans, which are dropped until it does; see its log"
            );
        }
        Ok(answer?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::AttemptFailure;
    use crate::outcome::{Outcome, Verdict};
    use hyper::StatusCode;

    #[test]
    fn a_request_with_two_attempts_has_spans_that_follow_each_other_without_gaps() {
        let ms = Duration::from_millis;
        let (accepted, time) = (Instant::now() + ms(5), SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
        let attempt = |started: u64, ended: u64, result| Attempt {
            replica: "a:1".into(),
            started: accepted + ms(started),
            ended: accepted + ms(ended),
            result,
        };
        let attempts = [attempt(10, 30, Err(AttemptFailure::Died)), attempt(35, 85, Ok(StatusCode::OK))];
        let request = EndedRequest {
            request_id: "order-7".into(),
            path: "/predict",
            status: Some(200),
            outcome: Outcome::Classified,
            verdict: Verdict::Good,
            body_bytes: 7,
            arrived: accepted - ms(5),
            accepted,
            ended: accepted + ms(85),
            timeline: None,
            span: None,
        };
        let server = ServerSpan { trace_id: 7, parent_id: Some(8), span_id: 9 };
        let mut id = 100;
        let all = spans(&request, &server, &attempts, time, || {
            id += 1;
            id
        });
        let start = time - ms(90);
        let found: Vec<_> = all
            .iter()
            .map(|span| {
                let at = |time: SystemTime| time.duration_since(start).expect("not before").as_millis();
                (&*span.name, at(span.start_time), at(span.end_time), span.parent_span_id)
            })
            .collect();
        let (parent, own) = (SpanId::from_bytes(8_u64.to_be_bytes()), SpanId::from_bytes(9_u64.to_be_bytes()));
        let expected = [
            ("POST /predict", 0, 90, parent),
            ("upload", 0, 5, own),
            ("queue", 5, 15, own),
            ("attempt", 15, 35, own),
            ("queue", 35, 40, own),
            ("attempt", 40, 90, own),
        ];
        assert_eq!(found, expected);
        assert!(all.iter().all(|span| span.span_context.trace_id() == TraceId::from_bytes(7_u128.to_be_bytes())));
        let expired = EndedRequest { status: Some(504), outcome: Outcome::ClientGone, ..request };
        let all = spans(&expired, &server, &attempts[..1], time, || 1);
        assert_eq!(
            all.iter().map(|span| &*span.name).collect::<Vec<_>>(),
            ["POST /predict", "upload", "queue", "attempt", "queue"]
        );
        assert!(matches!(all[0].status, Status::Error { .. }));
    }

    #[test]
    fn a_collector_is_given_by_an_http_url() {
        for bad in ["", "collector", "https://collector:4318", "grpc://a:1", "http://", "http://a b:1"] {
            let error = SpanExport::open(bad, 1.0).expect_err("the endpoint is refused").to_string();
            assert!(error.contains("--otlp-endpoint"), "{error}");
        }
        let export = SpanExport::open("http://127.0.0.1:1/", 0.25).expect("the endpoint is well formed");
        assert!(export.samples(0.249) && !export.samples(0.25));
    }
}
