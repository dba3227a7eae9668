//! The contract between clients, dispatcher and replicas: header names, JSON bodies, error codes and the metric names
//! that one program exports and another reads. Does no I/O.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Headers beyond those of HTTP itself.
pub mod header {
    use hyper::header::HeaderName;

    /// Identifies a request. Taken from the client or made here, forwarded to the replica, and returned in the answer's
    /// headers and in error bodies. Log lines do not carry it.
    pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
    /// The time that the client allows for its request, in milliseconds. The dispatcher forwards the rest of it.
    pub const TIMEOUT_MS: HeaderName = HeaderName::from_static("x-request-timeout-ms");
    /// The time that the request waited in the dispatcher, in milliseconds. The replica repeats it in its answer.
    pub const QUEUE_MS: HeaderName = HeaderName::from_static("x-request-queue-ms");
    /// The number of requests that a replica takes at once.
    pub const CAPACITY: HeaderName = HeaderName::from_static("x-replica-capacity");
    /// W3C trace context. Taken from the client or made here, forwarded to the replica and returned in the answer.
    pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
}

/// Metric names that cross a process boundary: one program exports them, and another reads them.
pub mod metric {
    /// Gauge: requests that wait in the dispatcher's queue.
    pub const QUEUE_LENGTH: &str = "dispatcher_queue_length";
    /// Counter: requests that were ever admitted to the queue.
    pub const ENQUEUED: &str = "dispatcher_enqueued_requests_total";
    /// Counter by `reason`: requests that were refused at admission.
    pub const SHED: &str = "dispatcher_shed_total";
    /// Counter by `code`: all requests, by their outcome.
    pub const REQUESTS: &str = "dispatcher_requests_total";
    /// Histogram in seconds: time from a request's arrival to its answer. The objective is a limit of this time.
    pub const REQUEST_DURATION: &str = "dispatcher_request_duration_seconds";
    /// Histogram in seconds: time from sending a request to a replica to the replica's answer.
    pub const UPSTREAM_DURATION: &str = "dispatcher_upstream_duration_seconds";
    /// Histogram in seconds: time that a replica worked for an answer. It counts from when the replica received the
    /// request, or from the replica's previous answer if that came later.
    pub const REPLICA_WORK: &str = "dispatcher_replica_work_seconds";
    /// Gauge by `replica`: requests that were sent to it and are not yet answered.
    pub const IN_FLIGHT: &str = "dispatcher_in_flight";
    /// Gauge: requests that all replicas in rotation together take at once.
    pub const CAPACITY: &str = "dispatcher_capacity";
    /// Gauge in seconds: time since the dispatcher's start. It differs at each scrape; if it does not, the dispatcher
    /// no longer updates its metrics.
    pub const UPTIME: &str = "dispatcher_uptime_seconds";
    /// Gauge by `state` (ready, ejected, draining): replicas that the dispatcher knows.
    pub const REPLICAS: &str = "dispatcher_replicas";
    /// Gauge: replicas that the scaler asks for.
    pub const DESIRED_REPLICAS: &str = "scaler_desired_replicas";
    /// Gauge: ready replicas, as the scaler's target reports them.
    pub const READY_REPLICAS: &str = "scaler_ready_replicas";
    /// Gauge in seconds: time from a replica's exec to its readiness.
    pub const STARTUP: &str = "replica_startup_seconds";
}

/// The body of an answer with status 200: a classified image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Always true. Errors have a body of their own, [`ErrorBody`].
    pub success: bool,
    /// The most likely class.
    pub prediction: Prediction,
    /// The `top_k` most likely classes, best first.
    pub predictions: Vec<Prediction>,
    /// Name of the model.
    pub model: String,
    /// Name of the replica that answered.
    pub replica: String,
    /// Duration of each stage, in milliseconds.
    pub timing_ms: Timing,
}

impl Answer {
    /// An answer with `predictions`, which must hold at least one element, best first.
    ///
    /// # Panics
    /// If `predictions` is empty.
    pub fn new(
        predictions: Vec<Prediction>,
        model: impl Into<String>,
        replica: impl Into<String>,
        timing_ms: Timing,
    ) -> Self {
        let prediction = predictions.first().expect("a classifier has classes").clone();
        Self { success: true, prediction, predictions, model: model.into(), replica: replica.into(), timing_ms }
    }
}

/// One class, and the probability that the model gives it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Index among the model's classes, from 0.
    pub class_index: usize,
    /// Name of the class.
    pub label: String,
    /// Softmax probability, 0 to 1.
    pub confidence: f32,
}

/// Duration of each stage of one request, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Wait in the dispatcher's queue; 0 for a request that was sent to the replica directly.
    pub queue: f64,
    /// Decoding and transforming the image.
    pub decode: f64,
    /// Wait of the decoded image for the model.
    pub batch: f64,
    /// Forward pass of the model.
    pub inference: f64,
    /// `queue`, plus the time since the replica received the request.
    pub total: f64,
}

/// The body of every answer whose status is not 200.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Always false.
    pub success: bool,
    /// [`Code::as_str`].
    pub code: String,
    /// A message that says what is wrong, where, and what to do.
    pub error: String,
    /// The request's id; see [`header::REQUEST_ID`].
    pub request_id: String,
}

/// The body of `/readyz`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReadyBody {
    /// Whether the process can take work.
    pub ready: bool,
    /// Number of requests that a replica takes at once; absent in the other programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<usize>,
}

/// The kinds of failures of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// A header, the query, multipart, JSON or base64 is malformed.
    BadRequest,
    /// The image is truncated, corrupt or cannot be decoded.
    BadImage,
    /// A token is required, and is missing or wrong.
    Unauthorized,
    /// The path does not exist.
    NotFound,
    /// The path exists and takes another method.
    MethodNotAllowed,
    /// The body did not arrive in time.
    SlowBody,
    /// The body or the image exceeds its limit.
    TooLarge,
    /// The content type is none of those that [`BodyFormat`] knows.
    UnsupportedMediaType,
    /// Two replicas died of this body already.
    Poison,
    /// The server has a bug.
    Internal,
    /// Every permitted attempt failed.
    ReplicaFailed,
    /// The dispatcher's queue is full.
    QueueFull,
    /// So many requests wait that this one would not be answered in time.
    Overloaded,
    /// The replica holds as many requests as it advertises.
    Busy,
    /// The deadline passed before the answer was ready.
    DeadlineExceeded,
}

impl Code {
    /// The code as it appears in error bodies and metric labels.
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status of answers with this code.
    pub const fn status(self) -> u16 {
        self.row().1
    }

    const fn row(self) -> (&'static str, u16) {
        match self {
            Self::BadRequest => ("bad_request", 400),
            Self::BadImage => ("bad_image", 400),
            Self::Unauthorized => ("unauthorized", 401),
            Self::NotFound => ("not_found", 404),
            Self::MethodNotAllowed => ("method_not_allowed", 405),
            Self::SlowBody => ("slow_body", 408),
            Self::TooLarge => ("too_large", 413),
            Self::UnsupportedMediaType => ("unsupported_media_type", 415),
            Self::Poison => ("poison", 422),
            Self::Internal => ("internal", 500),
            Self::ReplicaFailed => ("replica_failed", 502),
            Self::QueueFull => ("queue_full", 503),
            Self::Overloaded => ("overloaded", 503),
            Self::Busy => ("busy", 503),
            Self::DeadlineExceeded => ("deadline_exceeded", 504),
        }
    }
}

/// The failure of a request, before it becomes an HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", .code.as_str())]
pub struct RequestError {
    /// The kind of failure.
    pub code: Code,
    /// A message that says what is wrong, where, and what to do.
    pub message: String,
    /// The time after which another attempt may succeed; `None` if the same request would fail again.
    pub retry_after: Option<Duration>,
}

impl RequestError {
    /// An error without `Retry-After`.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    /// The same error with a time after which to try again.
    #[must_use]
    pub fn retry_after(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }
}

/// The formats of a body in which `/predict` takes an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFormat {
    /// The bytes of the image file.
    Raw,
    /// `multipart/form-data`; the first file part is the image file.
    Multipart,
    /// `{"image": "<base64>"}`.
    Json,
}

impl BodyFormat {
    /// The format that a `Content-Type` announces. A missing header means raw bytes (RFC 9110, 8.3).
    ///
    /// # Errors
    /// 415 for any other type.
    pub fn from_content_type(content_type: Option<&str>) -> Result<Self, RequestError> {
        let Some(content_type) = content_type else { return Ok(Self::Raw) };
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let is = |name: &str| essence.eq_ignore_ascii_case(name);
        let is_image = essence.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("image/"));
        match essence {
            _ if is_image || is("application/octet-stream") => Ok(Self::Raw),
            _ if is("multipart/form-data") => Ok(Self::Multipart),
            _ if is("application/json") => Ok(Self::Json),
            other => Err(RequestError::new(
                Code::UnsupportedMediaType,
                format!(
                    "Content-Type {other:?} is not supported; send image/*, application/octet-stream, \
                     multipart/form-data or application/json"
                ),
            )),
        }
    }
}

/// The number of predictions in an answer when the query does not set `top_k`.
pub const DEFAULT_TOP_K: usize = 5;

/// The value of `top_k` in a query string, 1 to 1000; [`DEFAULT_TOP_K`] if it is absent.
///
/// # Errors
/// 400 if the value is present and is not such a number.
pub fn top_k(query: Option<&str>) -> Result<usize, RequestError> {
    let value = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("top_k="));
    match value.map(number) {
        None => Ok(DEFAULT_TOP_K),
        Some(Some(count @ 1..=1000)) => Ok(count as usize),
        Some(_) => Err(RequestError::new(Code::BadRequest, "top_k must be a whole number from 1 to 1000")),
    }
}

/// The timeout that a client asks for with [`header::TIMEOUT_MS`]; `None` if the header is absent.
///
/// # Errors
/// 400 if the value is present and is not a positive whole number.
pub fn timeout(value: Option<&str>) -> Result<Option<Duration>, RequestError> {
    match value.map(number) {
        None => Ok(None),
        // At most a day, since a huge value would overflow when it is added to an instant.
        Some(Some(milliseconds @ 1..)) => Ok(Some(Duration::from_millis(milliseconds.min(86_400_000)))),
        Some(_) => Err(RequestError::new(
            Code::BadRequest,
            format!("{} must be a whole number of milliseconds, at least 1", header::TIMEOUT_MS),
        )),
    }
}

/// A number of digits only. `str::parse` alone would accept a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_name_their_format() {
        let rows = [
            (None, Some(BodyFormat::Raw)),
            (Some("image/jpeg"), Some(BodyFormat::Raw)),
            (Some("IMAGE/PNG"), Some(BodyFormat::Raw)),
            (Some("application/octet-stream"), Some(BodyFormat::Raw)),
            (Some("multipart/form-data; boundary=x"), Some(BodyFormat::Multipart)),
            (Some("application/json; charset=utf-8"), Some(BodyFormat::Json)),
            (Some("application/x-www-form-urlencoded"), None),
            (Some("text/plain"), None),
            (Some(""), None),
        ];
        for (content_type, format) in rows {
            assert_eq!(BodyFormat::from_content_type(content_type).ok(), format, "{content_type:?}");
        }
    }

    #[test]
    fn numbers_in_the_request_are_checked() {
        for (query, expected) in [
            (None, Some(5)),
            (Some("a=b"), Some(5)),
            (Some("a=b&top_k=3"), Some(3)),
            (Some("top_k=0"), None),
            (Some("top_k=1001"), None),
            (Some("top_k=-1"), None),
            (Some("top_k=+1"), None),
            (Some("top_k="), None),
        ] {
            assert_eq!(top_k(query).ok(), expected, "{query:?}");
        }
        for (value, expected) in [
            (None, Some(None)),
            (Some("250"), Some(Some(Duration::from_millis(250)))),
            (Some("18446744073709551615"), Some(Some(Duration::from_secs(86_400)))),
            (Some("18446744073709551616"), None),
            (Some("0"), None),
            (Some("-3"), None),
            (Some("+3"), None),
            (Some("soon"), None),
        ] {
            assert_eq!(timeout(value).ok(), expected, "{value:?}");
        }
    }
}
