//! Requests to the Kubernetes API server with time limits, local copies of its objects, names of objects that can be
//! scaled, their autoscalers, and selectors of labels.

pub mod autoscaler;
pub mod backoff;
pub mod client;
pub mod denials;
pub mod label_selector;
pub mod mirror;
pub mod name;
pub mod owner;
pub mod quantity;

use kube::core::Status;
use kube::runtime::watcher;
use std::time::Duration;

/// Longest time for an answer. It is short, since the caller does nothing else in that time.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The reason why a request to the API server failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The API server refused the request.
    #[error("{message} (HTTP {code})")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// The message of the API server.
        message: String,
    },
    /// The API server answered, but the answer is no such object. The value is the reason.
    #[error("the API server's answer cannot be read: {0}")]
    Unreadable(String),
    /// The API server did not answer, or its answer cannot be used. The value is the reason.
    #[error("the API server does not answer: {0}")]
    Unanswered(String),
}

impl ApiError {
    /// Whether the API server refused the request with this HTTP status.
    pub fn is(&self, status: u16) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == status)
    }
}

impl From<Status> for ApiError {
    fn from(status: Status) -> Self {
        Self::Refused { code: status.code, message: status.message }
    }
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => (*status).into(),
            kube::Error::SerdeError(error) => Self::Unreadable(error.to_string()),
            error => Self::Unanswered(root(&error)),
        }
    }
}

impl From<watcher::Error> for ApiError {
    fn from(error: watcher::Error) -> Self {
        match error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => error.into(),
            watcher::Error::WatchError(status) => (*status).into(),
            error @ watcher::Error::NoResourceVersion => Self::Unanswered(error.to_string()),
        }
    }
}

/// The answer to the request `call`.
///
/// # Errors
/// If the API server refuses the request, or does not answer within five seconds.
pub async fn request<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, ApiError> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(answer) => Ok(answer?),
        Err(_elapsed) => Err(ApiError::Unanswered(format!("no answer within {TIMEOUT:?}"))),
    }
}

/// The innermost cause of an error. The outer errors only name the layers of the client.
fn root(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
