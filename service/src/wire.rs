//! The contract between clients, dispatcher and replicas: header names, JSON bodies, error codes, metric names.
//! No I/O.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Headers beyond HTTP's own.
pub mod header {
    use hyper::header::HeaderName;

    /// Names a request in logs and answers; made if absent.
    pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
    /// The client's budget in milliseconds; the dispatcher forwards what remains of it.
    pub const TIMEOUT_MS: HeaderName = HeaderName::from_static("x-request-timeout-ms");
    /// Milliseconds that the request waited in the dispatcher, told to the replica so that its answer can say so.
    pub const QUEUE_MS: HeaderName = HeaderName::from_static("x-request-queue-ms");
    /// How many requests a replica takes at once.
    pub const CAPACITY: HeaderName = HeaderName::from_static("x-replica-capacity");
    /// W3C trace context; made if absent.
    pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
}

/// Metric names that cross a process boundary: exported by one binary, read by another.
pub mod metric {
    /// Gauge: requests waiting.
    pub const QUEUE_LENGTH: &str = "dispatcher_queue_length";
    /// Counter: requests ever admitted to the queue.
    pub const ENQUEUED: &str = "dispatcher_enqueued_requests_total";
    /// Counter by `reason`: requests refused at admission.
    pub const SHED: &str = "dispatcher_shed_total";
    /// Counter by `code`: every request, by outcome.
    pub const REQUESTS: &str = "dispatcher_requests_total";
    /// Histogram, seconds: accepted → answered. The objective's signal.
    pub const REQUEST_DURATION: &str = "dispatcher_request_duration_seconds";
    /// Histogram, seconds: dispatched → the replica's answer.
    pub const UPSTREAM_DURATION: &str = "dispatcher_upstream_duration_seconds";
    /// Histogram, seconds: what a replica worked for an answer, that is, since it got the request, or since its answer before if that came later.
    pub const REPLICA_WORK: &str = "dispatcher_replica_work_seconds";
    /// Gauge by `replica`: sent, unanswered.
    pub const IN_FLIGHT: &str = "dispatcher_in_flight";
    /// Gauge: requests that the replicas in rotation take at once.
    pub const CAPACITY: &str = "dispatcher_capacity";
    /// Gauge, seconds: since the dispatcher's start. Different at each scrape, or nobody updates the others either.
    pub const UPTIME: &str = "dispatcher_uptime_seconds";
    /// Gauge by `state`: ready, ejected, draining.
    pub const REPLICAS: &str = "dispatcher_replicas";
    /// Gauge: replicas asked for by the scaler.
    pub const DESIRED_REPLICAS: &str = "scaler_desired_replicas";
    /// Gauge: replicas that the scaler's target says are serving.
    pub const READY_REPLICAS: &str = "scaler_ready_replicas";
    /// Gauge: exec → ready, seconds, of a replica.
    pub const STARTUP: &str = "replica_startup_seconds";
}

/// A classified picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Always true; errors have their own shape, [`ErrorBody`].
    pub success: bool,
    /// The likeliest class.
    pub prediction: Prediction,
    /// The `top_k` likeliest, best first.
    pub predictions: Vec<Prediction>,
    /// The model's name.
    pub model: String,
    /// The replica that answered.
    pub replica: String,
    /// Where the time went.
    pub timing_ms: Timing,
}

impl Answer {
    /// The answer with these `predictions`: at least one, best first.
    ///
    /// # Panics
    /// When there is none.
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

/// One class and how sure the model is of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Position among the model's classes.
    pub class_index: usize,
    /// The class in words.
    pub label: String,
    /// Softmax probability, 0 to 1.
    pub confidence: f32,
}

/// Milliseconds of one request by stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// In the dispatcher's queue; 0 for a request sent to the replica itself.
    pub queue: f64,
    /// Decoding and transforming the picture.
    pub decode: f64,
    /// Decoded and waiting for the model.
    pub batch: f64,
    /// The forward pass.
    pub inference: f64,
    /// `queue` and everything since the replica received the request.
    pub total: f64,
}

/// The body of every answer that is not a 200.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Always false.
    pub success: bool,
    /// [`Code::as_str`].
    pub code: String,
    /// What, where and what to do about it.
    pub error: String,
    /// The request's id.
    pub request_id: String,
}

/// `/readyz` of a replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReadyBody {
    /// Whether it can take work.
    pub ready: bool,
    /// How many requests it takes at once; absent where that means nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<usize>,
}

/// Every way in which a request can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// Malformed header, query, multipart, JSON or base64.
    BadRequest,
    /// A truncated, corrupt or undecodable picture.
    BadImage,
    /// A token is required, and is missing or wrong.
    Unauthorized,
    /// No such path.
    NotFound,
    /// The path takes another method.
    MethodNotAllowed,
    /// The body did not arrive in time.
    SlowBody,
    /// The body or the picture is over its limit.
    TooLarge,
    /// None of the three body forms.
    UnsupportedMediaType,
    /// This body has already brought down a replica twice.
    Poison,
    /// A fault of ours.
    Internal,
    /// Every permitted attempt failed.
    ReplicaFailed,
    /// The dispatcher's queue is full.
    QueueFull,
    /// So many wait already that this one would not be answered in time.
    Overloaded,
    /// The replica holds as many requests as it advertises.
    Busy,
    /// The deadline passed before the answer was there.
    DeadlineExceeded,
}

impl Code {
    /// The code as it stands in bodies and metric labels.
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status that goes with it.
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

/// A failure on its way to the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", .code.as_str())]
pub struct Fault {
    /// Which kind.
    pub code: Code,
    /// What, where and what to do about it.
    pub message: String,
    /// When to come back, for faults that pass.
    pub retry_after: Option<Duration>,
}

impl Fault {
    /// A fault without `Retry-After`.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    /// The same fault with a time to come back.
    #[must_use]
    pub fn retry_after(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }
}

/// The three forms in which `/predict` takes a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The file itself.
    Raw,
    /// `multipart/form-data`, the first file part.
    Multipart,
    /// `{"image": "<base64>"}`.
    Json,
}

impl Form {
    /// The form that a `Content-Type` announces; a missing one means raw bytes (RFC 9110, 8.3).
    ///
    /// # Errors
    /// 415 for anything else.
    pub fn of(content_type: Option<&str>) -> Result<Self, Fault> {
        let Some(content_type) = content_type else { return Ok(Self::Raw) };
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let is = |name: &str| essence.eq_ignore_ascii_case(name);
        let is_image = essence.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("image/"));
        match essence {
            _ if is_image || is("application/octet-stream") => Ok(Self::Raw),
            _ if is("multipart/form-data") => Ok(Self::Multipart),
            _ if is("application/json") => Ok(Self::Json),
            other => Err(Fault::new(
                Code::UnsupportedMediaType,
                format!(
                    "Content-Type {other:?} is not supported; send image/*, application/octet-stream, \
                     multipart/form-data or application/json"
                ),
            )),
        }
    }
}

/// How many predictions an answer holds when the query does not say.
pub const DEFAULT_TOP_K: usize = 5;

/// `top_k` of a query string: 1 to 1000.
///
/// # Errors
/// 400 when it is there and is no such number.
pub fn top_k(query: Option<&str>) -> Result<usize, Fault> {
    let value = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("top_k="));
    match value.map(number) {
        None => Ok(DEFAULT_TOP_K),
        Some(Some(count @ 1..=1000)) => Ok(count as usize),
        Some(_) => Err(Fault::new(Code::BadRequest, "top_k must be a whole number from 1 to 1000")),
    }
}

/// The client's budget from [`header::TIMEOUT_MS`], if it names one.
///
/// # Errors
/// 400 when it is there and is no positive whole number.
pub fn timeout(value: Option<&str>) -> Result<Option<Duration>, Fault> {
    match value.map(number) {
        None => Ok(None),
        // A day is as good as for ever, and cannot overflow an instant.
        Some(Some(milliseconds @ 1..)) => Ok(Some(Duration::from_millis(milliseconds.min(86_400_000)))),
        Some(_) => Err(Fault::new(
            Code::BadRequest,
            format!("{} must be a whole number of milliseconds, at least 1", header::TIMEOUT_MS),
        )),
    }
}

/// Digits only: `str::parse` takes a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_name_their_form() {
        let rows = [
            (None, Some(Form::Raw)),
            (Some("image/jpeg"), Some(Form::Raw)),
            (Some("IMAGE/PNG"), Some(Form::Raw)),
            (Some("application/octet-stream"), Some(Form::Raw)),
            (Some("multipart/form-data; boundary=x"), Some(Form::Multipart)),
            (Some("application/json; charset=utf-8"), Some(Form::Json)),
            (Some("application/x-www-form-urlencoded"), None),
            (Some("text/plain"), None),
            (Some(""), None),
        ];
        for (content_type, form) in rows {
            assert_eq!(Form::of(content_type).ok(), form, "{content_type:?}");
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
