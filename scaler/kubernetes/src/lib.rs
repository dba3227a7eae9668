//! Requests to the Kubernetes API server with a time limit and with failures in words, local copies of its objects, names
//! of Deployments, and their autoscalers.

pub mod mirror;
pub mod name;
pub mod owner;

use kube::core::Status;
use kube::runtime::watcher;
use std::time::Duration;

/// Time limit of an answer. Short, since the caller does nothing else meanwhile.
const LIMIT: Duration = Duration::from_secs(5);

/// The reason why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The API server refused it.
    #[error("{message} (HTTP {code})")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// The API server's words.
        message: String,
    },
    /// The API server did not answer, or its answer cannot be understood.
    #[error("the API server does not answer: {0}")]
    Unanswered(String),
}

impl Failure {
    /// Whether the answer had this HTTP status.
    pub fn is(&self, status: u16) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == status)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Refused { code: status.code, message: status.message }
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => (*status).into(),
            error => Self::Unanswered(root(&error)),
        }
    }
}

impl From<watcher::Error> for Failure {
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

/// The answer to `call`.
///
/// # Errors
/// When the answer is a refusal, or does not come within five seconds.
pub async fn request<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(LIMIT, call).await {
        Ok(answer) => Ok(answer?),
        Err(_elapsed) => Err(Failure::Unanswered(format!("nothing for {LIMIT:?}"))),
    }
}

/// The innermost cause of an error; the others say only which layer passed it on.
fn root(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
