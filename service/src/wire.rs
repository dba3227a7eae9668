//! The contract between clients, dispatcher and replicas: header names, JSON bodies, error codes and the metric names
//! that one program exports and another reads. Does no I/O.

use hyper::Method;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Headers beyond those of HTTP itself.
pub mod header {
    use hyper::header::HeaderName;

    /// The id of a request. The client sends it, or the first program that receives the request makes it. The
    /// dispatcher forwards it to the replica. Answers have it in their headers, and errors also in their bodies. Log
    /// lines do not contain it.
    pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
    /// The time that the client allows for its request, in milliseconds. The dispatcher forwards the time that is left.
    pub const TIMEOUT_MS: HeaderName = HeaderName::from_static("x-request-timeout-ms");
    /// The time that the request waited in the dispatcher, in milliseconds. The replica repeats it in its answer.
    pub const QUEUE_MS: HeaderName = HeaderName::from_static("x-request-queue-ms");
    /// The number of slots of a replica: the requests that it takes at once.
    pub const CAPACITY: HeaderName = HeaderName::from_static("x-replica-capacity");
    /// The number of slots of a replica that requests take when it sends an answer. The answered request takes none any
    /// more. A dispatcher learns by this how many slots the requests of other dispatchers take.
    pub const SLOTS_TAKEN: HeaderName = HeaderName::from_static("x-replica-slots-taken");
    /// The name of a dispatcher, 1 to 16 hexadecimal digits: a random number, which is a new one after each start. A
    /// replica knows by it which of its slots each dispatcher takes.
    pub const DISPATCHER_ID: HeaderName = HeaderName::from_static("x-dispatcher-id");
    /// Present in a request that uses a slot which the replica keeps for its dispatcher; see
    /// [`slot_channel`](crate::slot_channel).
    pub const SLOT_GRANTED: HeaderName = HeaderName::from_static("x-slot-granted");
    /// The number of slots of a replica that requests and grants of others than the asking dispatcher take. Only answers
    /// to requests with [`DISPATCHER_ID`] have it.
    pub const SLOTS_OF_OTHERS: HeaderName = HeaderName::from_static("x-replica-slots-of-others");
    /// Present in an answer if other dispatchers claim slots of the replica.
    pub const SLOTS_CLAIMED: HeaderName = HeaderName::from_static("x-replica-slots-claimed");
    /// The time after which a replica that has no free slot probably has one, in whole milliseconds, at least 1: the mean
    /// time between two of its answers while it is busy. Only answers with status 503 have it. Absent if the replica has
    /// not answered any request yet.
    pub const RETRY_MS: HeaderName = HeaderName::from_static("x-replica-retry-ms");
    /// The time that a replica worked for an answer, in whole microseconds: the time for which the answered request was
    /// the oldest one whose body the replica had. So the times of all answers add up to the time for which the replica
    /// was busy, also if several dispatchers send it requests. A dispatcher sees only its own requests and cannot know
    /// this time.
    pub const WORK_US: HeaderName = HeaderName::from_static("x-replica-work-us");
    /// The mean time that a request costs a replica whose batches are full, in whole microseconds. The replica measures
    /// it from its first passes on, so a dispatcher knows it before there is enough load for full batches. Absent if the
    /// replica computes one image at a time.
    pub const FULL_WORK_US: HeaderName = HeaderName::from_static("x-replica-full-work-us");
    /// The number of bytes of the JSON in a body of the Open Inference Protocol, if binary data follows the JSON.
    pub const INFERENCE_JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");
    /// The W3C trace context of a request. The client sends it, or the first program that receives the request makes
    /// it. The dispatcher forwards it to the replica. Answers have it in their headers.
    pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
    /// The data that tracing systems add to [`TRACEPARENT`]. Kept only together with the client's trace context.
    pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
}

/// Metric names that cross a process boundary: one program exports them, and another reads them.
pub mod metric {
    /// Gauge: requests that wait in the dispatcher's queue.
    pub const QUEUE_LENGTH: &str = "dispatcher_queue_length";
    /// Counter: requests that were admitted to the queue.
    pub const ENQUEUED: &str = "dispatcher_enqueued_requests_total";
    /// Counter by `reason`: requests that were refused at admission.
    pub const SHED: &str = "dispatcher_shed_total";
    /// Counter by `code`: requests that have ended, by outcome.
    pub const REQUESTS: &str = "dispatcher_requests_total";
    /// Histogram in seconds: time from a request's arrival to its answer. The objective is a limit for this time.
    pub const REQUEST_DURATION: &str = "dispatcher_request_duration_seconds";
    /// Histogram in seconds: time from sending a request to a replica to the replica's answer.
    pub const UPSTREAM_DURATION: &str = "dispatcher_upstream_duration_seconds";
    /// Histogram in seconds: time that a replica worked for an answer, as the replica says in
    /// [`WORK_US`](super::header::WORK_US). Without that header, it counts from the dispatch of the request, or from the
    /// replica's previous answer if that was later.
    pub const REPLICA_WORK: &str = "dispatcher_replica_work_seconds";
    /// Gauge in seconds: mean time that a request costs a replica whose batches are full, as the replicas say in
    /// [`FULL_WORK_US`](super::header::FULL_WORK_US); 0 if they do not say it.
    pub const FULL_WORK: &str = "dispatcher_replica_full_work_seconds";
    /// Gauge by `replica`: requests that were sent to that replica and are not yet answered.
    pub const IN_FLIGHT: &str = "dispatcher_in_flight";
    /// Gauge: slots of all replicas in rotation, the number of requests that they can hold at once.
    pub const CAPACITY: &str = "dispatcher_capacity";
    /// Gauge in seconds: time since the dispatcher's start. If two scrapes give the same value, the dispatcher no
    /// longer updates its metrics.
    pub const UPTIME: &str = "dispatcher_uptime_seconds";
    /// Gauge by `state` (ready, ejected, draining): replicas that the dispatcher knows.
    pub const REPLICAS: &str = "dispatcher_replicas";
    /// Gauge: desired replicas, the number that the scaler gives its target.
    pub const DESIRED_REPLICAS: &str = "scaler_desired_replicas";
    /// Gauge: ready replicas, the number that the scaler's target reports.
    pub const READY_REPLICAS: &str = "scaler_ready_replicas";
    /// Gauge in seconds: time from a replica's exec to its readiness.
    pub const STARTUP: &str = "replica_startup_seconds";
}

/// The body of the answer to a request whose image was classified.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Always true. An error has another body, [`ErrorBody`].
    pub success: bool,
    /// The most likely class.
    pub prediction: Prediction,
    /// The `top_k` most likely classes, best first.
    pub predictions: Vec<Prediction>,
    /// The image's features before the last layer of the network, if the request asks for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<Vec<f32>>,
    /// The name of the model.
    pub model: String,
    /// The version of the model: the first 12 hexadecimal digits of the SHA-256 of its file, or of the names and hashes of
    /// all its files if it has several. `bundled` for the bundled model.
    #[serde(default)]
    pub model_version: String,
    /// The name of the replica that answered.
    pub replica: String,
    /// The duration of each stage, in milliseconds.
    pub timing_ms: Timing,
}

impl Answer {
    /// An answer with `predictions`, best first, without an embedding and a version of the model.
    ///
    /// # Panics
    /// If `predictions` is empty.
    pub fn new(
        predictions: Vec<Prediction>,
        model: impl Into<String>,
        replica: impl Into<String>,
        timing_ms: Timing,
    ) -> Self {
        let prediction = predictions.first().expect("an answer has at least one prediction").clone();
        let (model, model_version, replica) = (model.into(), String::new(), replica.into());
        Self { success: true, prediction, predictions, embedding: None, model, model_version, replica, timing_ms }
    }
}

/// One class, and the probability that the model gives it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The index of the class among the model's classes, from 0.
    pub class_index: usize,
    /// The name of the class.
    pub label: String,
    /// The softmax probability of the class, 0 to 1.
    pub confidence: f32,
}

/// The duration of each stage of one request, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Time in the dispatcher's queue, in milliseconds; 0 for a request that was sent to the replica directly.
    pub queue: f64,
    /// Time of decoding in milliseconds: the wait for a decoder, decoding, and the transform.
    pub decode: f64,
    /// Time that the decoded image waited for its forward pass, in milliseconds.
    pub batch: f64,
    /// Time of the forward pass, in milliseconds.
    pub inference: f64,
    /// `queue` plus the time from the request's arrival at the replica to its answer, in milliseconds.
    pub total: f64,
}

/// The body of the answer to a request that has failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Always false.
    pub success: bool,
    /// The kind of failure, as [`Code::as_str`] writes it.
    pub code: String,
    /// A message that says what is wrong, where, and what to do.
    pub error: String,
    /// The request's id; see [`header::REQUEST_ID`].
    pub request_id: String,
}

/// The body of an answer to `/readyz`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReadyBody {
    /// Whether the process can take work.
    pub ready: bool,
    /// The number of requests that a replica takes at once; absent in the answers of other programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<usize>,
}

/// The kind of a request's failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// A header, the query, a form, JSON or base64 is malformed, or the image is empty.
    BadRequest,
    /// The image is truncated, corrupt or of an unsupported kind.
    BadImage,
    /// The required token is missing or wrong.
    Unauthorized,
    /// The path does not exist.
    NotFound,
    /// The path exists, but does not accept the method.
    MethodNotAllowed,
    /// The body did not arrive in time.
    SlowBody,
    /// The body, the image, the number of images or a form exceeds its limit.
    TooLarge,
    /// The content type names no [`BodyFormat`], or the body is compressed.
    UnsupportedMediaType,
    /// Two replicas died while they worked on the request.
    Poison,
    /// The clients of the token send more requests than its rate allows.
    RateLimited,
    /// The server failed, for example in a forward pass.
    Internal,
    /// All attempts that the request may have at replicas failed.
    ReplicaFailed,
    /// The dispatcher's queue is full, or the bodies of other requests use all memory for bodies.
    QueueFull,
    /// Too many requests wait, so this one would not be answered before its deadline.
    Overloaded,
    /// The replica has no free slot, or its model is not loaded yet.
    Busy,
    /// The deadline passed before the answer was ready.
    DeadlineExceeded,
}

impl Code {
    /// Every code, in the order of the enum.
    pub const ALL: [Self; 16] = [
        Self::BadRequest,
        Self::BadImage,
        Self::Unauthorized,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::SlowBody,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::Poison,
        Self::RateLimited,
        Self::Internal,
        Self::ReplicaFailed,
        Self::QueueFull,
        Self::Overloaded,
        Self::Busy,
        Self::DeadlineExceeded,
    ];

    /// The code that error bodies and metric labels write as `text`; `None` if there is no such code.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == text)
    }

    /// The code of a failure whose body has no code, by its status: the first one with this status.
    pub fn of_status(status: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.status() == status)
    }

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
            Self::RateLimited => ("rate_limited", 429),
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
    /// The time after which a retry may succeed, which the header `Retry-After` tells the client; `None` for an answer
    /// without that header.
    pub retry_after: Option<Duration>,
}

/// Most bytes of a message. Messages quote what a client has sent, which may be a text of 20 MB.
const MAX_MESSAGE_BYTES: usize = 1024;

impl RequestError {
    /// An error without `Retry-After`. Of a message over 1 KiB, the beginning is kept.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MAX_MESSAGE_BYTES {
            message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
            message.push('…');
            message.shrink_to_fit();
        }
        Self { code, message, retry_after: None }
    }

    /// Sets the time after which the client should retry.
    #[must_use]
    pub fn retry_after(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }
}

/// The format of a body with an image, as `/predict` accepts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFormat {
    /// The bytes of the image file.
    Raw,
    /// `multipart/form-data`. The image file is the first part that has a file name or the name `image`.
    Multipart,
    /// `application/x-www-form-urlencoded` with the field `image=<base64>`, or the image file itself.
    Form,
    /// JSON of the form `{"image": "<base64>"}`.
    Json,
}

impl BodyFormat {
    /// The format that a `Content-Type` names. A missing header means raw bytes (RFC 9110, 8.3).
    ///
    /// # Errors
    /// If the type names no format (status 415).
    pub fn from_content_type(content_type: Option<&str>) -> Result<Self, RequestError> {
        let Some(content_type) = content_type else { return Ok(Self::Raw) };
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let is = |name: &str| essence.eq_ignore_ascii_case(name);
        let is_image = essence.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("image/"));
        match essence {
            _ if is_image || is("application/octet-stream") => Ok(Self::Raw),
            _ if is("multipart/form-data") => Ok(Self::Multipart),
            _ if is("application/x-www-form-urlencoded") => Ok(Self::Form),
            _ if is("application/json") => Ok(Self::Json),
            other => Err(RequestError::new(
                Code::UnsupportedMediaType,
                format!(
                    "Content-Type {other:?} is not supported; send image/*, application/octet-stream, \
                     multipart/form-data, application/x-www-form-urlencoded or application/json"
                ),
            )),
        }
    }
}

/// The methods with which images can be sent to `path`, as in the header `Allow`; `None` if the path takes no images.
///
/// Clients of TorchServe send images to `/predictions/NAME` and `/predictions/NAME/VERSION`. Every name is accepted,
/// because a dispatcher does not know the name of its replicas' model, which each answer tells.
pub fn image_methods(path: &str) -> Option<&'static str> {
    if matches!(path, "/predict" | "/infer") {
        return Some("POST");
    }
    let model = path.strip_prefix("/predictions/")?;
    let (name, version) = model.split_once('/').unwrap_or((model, "1"));
    let is_model = !name.is_empty() && !version.is_empty() && !version.contains('/');
    is_model.then_some("POST, PUT")
}

/// Whether a request with this `method` and `path` is one with an image; see [`image_methods`].
pub fn takes_image(method: &Method, path: &str) -> bool {
    image_methods(path).is_some_and(|methods| methods.split(", ").any(|name| name == method.as_str()))
}

/// The number of predictions in an answer when the query does not set `top_k`.
pub const DEFAULT_TOP_K: usize = 5;

/// The number of predictions that a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopK {
    /// This number, 1 to 1000, or fewer if the model has fewer classes.
    Count(usize),
    /// All classes.
    All,
}

impl TopK {
    /// The largest number of predictions.
    pub fn most(self) -> usize {
        match self {
            Self::Count(count) => count,
            Self::All => usize::MAX,
        }
    }
}

/// What the query of a request with an image asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PredictQuery {
    /// The number of predictions in the answer: `top_k=N` or `top_k=all`.
    pub top_k: TopK,
    /// Whether the answer has the embedding of the image: `embedding=1`.
    pub embedding: bool,
}

impl Default for PredictQuery {
    /// What an empty query asks for: [`DEFAULT_TOP_K`] predictions.
    fn default() -> Self {
        Self { top_k: TopK::Count(DEFAULT_TOP_K), embedding: false }
    }
}

impl PredictQuery {
    /// Reads the query string. Other parameters mean nothing.
    ///
    /// # Errors
    /// If `top_k` is neither a whole number from 1 to 1000 nor `all`, or `embedding` is neither 0 nor 1 (status 400).
    pub fn parse(query: Option<&str>) -> Result<Self, RequestError> {
        let value = |name: &str| {
            let pairs = query.unwrap_or_default().split('&');
            pairs.filter_map(|pair| pair.split_once('=')).find(|(found, _)| *found == name).map(|(_, value)| value)
        };
        let malformed = |message| Err(RequestError::new(Code::BadRequest, message));
        let top_k = match value("top_k").map(|value| (value, number(value))) {
            None => TopK::Count(DEFAULT_TOP_K),
            Some(("all", _)) => TopK::All,
            Some((_, Some(count @ 1..=1000))) => TopK::Count(count as usize),
            Some(_) => return malformed("top_k must be a whole number from 1 to 1000, or all"),
        };
        let embedding = match value("embedding") {
            None | Some("0") => false,
            Some("1") => true,
            Some(_) => return malformed("embedding must be 1 or 0"),
        };
        Ok(Self { top_k, embedding })
    }
}

impl fmt::Display for PredictQuery {
    /// The query string, with its question mark; empty if the query asks for what an empty one does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = '?';
        match self.top_k {
            TopK::Count(DEFAULT_TOP_K) => {}
            TopK::Count(count) => write!(f, "?top_k={count}")?,
            TopK::All => f.write_str("?top_k=all")?,
        }
        if self.top_k != TopK::Count(DEFAULT_TOP_K) {
            separator = '&';
        }
        if self.embedding { write!(f, "{separator}embedding=1") } else { Ok(()) }
    }
}

/// The timeout in `value`, the value of the header [`header::TIMEOUT_MS`]; `None` if the header is absent.
///
/// # Errors
/// If the value is not a positive whole number (status 400).
pub fn timeout(value: Option<&str>) -> Result<Option<Duration>, RequestError> {
    match value.map(number) {
        None => Ok(None),
        // At most a day: adding a huge timeout to an instant would overflow.
        Some(Some(milliseconds @ 1..)) => Ok(Some(Duration::from_millis(milliseconds.min(86_400_000)))),
        Some(_) => Err(RequestError::new(
            Code::BadRequest,
            format!("{} must be a whole number of milliseconds, at least 1", header::TIMEOUT_MS),
        )),
    }
}

/// The number that `text` contains; `None` if it is too large, or `text` has other characters than digits. `str::parse`
/// alone would accept a sign.
pub fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_by_its_text() {
        for (index, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(Code::parse(code.as_str()), Some(code));
            assert_eq!(code as usize, index, "{code:?} has its place in the order of the enum");
        }
        for text in ["", "ok", "Busy", "busy ", "client_gone"] {
            assert_eq!(Code::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn only_the_beginning_of_a_long_message_is_kept() {
        let message = RequestError::new(Code::BadRequest, format!("x{}", "é".repeat(10_000_000))).message;
        assert!(message.starts_with("xé") && message.ends_with("é…"), "{message}");
        assert!((1000..1100).contains(&message.len()) && message.capacity() < 2000, "{}", message.len());
        let short = "é".repeat(MAX_MESSAGE_BYTES / 2);
        assert_eq!(RequestError::new(Code::BadRequest, short.clone()).message, short);
    }

    #[test]
    fn a_content_type_selects_the_format_of_the_body() {
        let rows = [
            (None, Some(BodyFormat::Raw)),
            (Some("image/jpeg"), Some(BodyFormat::Raw)),
            (Some("IMAGE/PNG"), Some(BodyFormat::Raw)),
            (Some("application/octet-stream"), Some(BodyFormat::Raw)),
            (Some("multipart/form-data; boundary=x"), Some(BodyFormat::Multipart)),
            (Some("application/json; charset=utf-8"), Some(BodyFormat::Json)),
            (Some("Multipart/Form-Data ; boundary=x"), Some(BodyFormat::Multipart)),
            (Some("application/x-www-form-urlencoded"), Some(BodyFormat::Form)),
            (Some("application/x-www-form-urlencoded;charset=UTF-8"), Some(BodyFormat::Form)),
            (Some("text/plain"), None),
            (Some(""), None),
        ];
        for (content_type, format) in rows {
            assert_eq!(BodyFormat::from_content_type(content_type).ok(), format, "{content_type:?}");
        }
    }

    #[test]
    fn images_are_taken_at_our_paths_and_at_those_of_torchserve() {
        for (path, methods) in [
            ("/predict", Some("POST")),
            ("/infer", Some("POST")),
            ("/predictions/resnet-18", Some("POST, PUT")),
            ("/predictions/resnet%2018/1.0", Some("POST, PUT")),
            ("/predictions", None),
            ("/predictions/", None),
            ("/predictions//1.0", None),
            ("/predictions/a/", None),
            ("/predictions/a/1.0/explain", None),
            ("/predict/", None),
            ("/", None),
        ] {
            assert_eq!(image_methods(path), methods, "{path}");
            for method in [Method::POST, Method::PUT, Method::GET] {
                let expected = methods.is_some_and(|methods| methods.contains(method.as_str()));
                assert_eq!(takes_image(&method, path), expected, "{method} {path}");
            }
        }
    }

    #[test]
    fn the_query_and_the_timeout_are_checked() {
        let count = |count| Some((TopK::Count(count), false));
        for (query, expected, written) in [
            (None, count(5), ""),
            (Some("a=b"), count(5), ""),
            (Some("a=b&top_k=3"), count(3), "?top_k=3"),
            (Some("top_k=5&embedding=0"), count(5), ""),
            (Some("top_k=all"), Some((TopK::All, false)), "?top_k=all"),
            (Some("embedding=1"), Some((TopK::Count(5), true)), "?embedding=1"),
            (Some("embedding=1&top_k=1000"), Some((TopK::Count(1000), true)), "?top_k=1000&embedding=1"),
            (Some("embedding=true"), None, ""),
            (Some("top_k=0"), None, ""),
            (Some("top_k=1001"), None, ""),
            (Some("top_k=-1"), None, ""),
            (Some("top_k=+1"), None, ""),
            (Some("top_k=ALL"), None, ""),
            (Some("top_k="), None, ""),
        ] {
            let found = PredictQuery::parse(query).ok();
            assert_eq!(found.map(|query| (query.top_k, query.embedding)), expected, "{query:?}");
            assert_eq!(found.map_or_else(String::new, |query| query.to_string()), written, "{query:?}");
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
