//! The Open Inference Protocol v2 over REST at the dispatcher. Inference requests go through the queue, like all
//! predictions. The health is that of the dispatcher, and the metadata that of a ready replica.

use crate::request::InferEndpoint;
use crate::worker::{Message, WorkerHandle};
use hyper::header::{ALLOW, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde_json::json;
use service::readiness::Readiness;
use service::respond::{self, Reply, inference_error};
use service::wire::{Code, RequestError, header};
use service::{fetch, headers};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// The longest time for a replica's answer with metadata.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);

/// The largest number of requests for metadata that replicas answer at once. They pass by the queue, so a flood of them
/// would otherwise take the replicas' time.
const MAX_METADATA_REQUESTS: usize = 4;

/// Answers the paths of the protocol that are not for inference.
pub struct InferenceProtocol {
    worker: WorkerHandle,
    readiness: Readiness,
    metadata_requests: Semaphore,
}

/// Whether a path belongs to the protocol.
pub fn owns(path: &str) -> bool {
    path == "/v2" || path.starts_with("/v2/")
}

/// Whether a path is the endpoint `infer` of a model, or of a version of a model.
pub fn is_infer(path: &str) -> bool {
    let Some(model) = path.strip_prefix("/v2/models/") else { return false };
    let parts: Vec<&str> = model.splitn(5, '/').collect();
    matches!(parts[..], [_, "infer"] | [_, "versions", _, "infer"]) && !parts[0].is_empty()
}

/// The endpoint of an inference request.
pub fn endpoint(head: &Parts) -> InferEndpoint {
    let json_length = head.headers.get(header::INFERENCE_JSON_LENGTH).map(headers::deep_copy);
    InferEndpoint { path: head.uri.path().to_owned(), json_length }
}

impl InferenceProtocol {
    /// Asks `worker` for replicas. `readiness` is that of the dispatcher.
    pub fn new(worker: WorkerHandle, readiness: Readiness) -> Self {
        Self { worker, readiness, metadata_requests: Semaphore::new(MAX_METADATA_REQUESTS) }
    }

    /// Answers a request to `path`, which belongs to the protocol and is not for inference.
    pub async fn answer(&self, method: &Method, path: &str) -> Reply {
        if is_infer(path) {
            return method_not_allowed("POST");
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            return method_not_allowed("GET, HEAD");
        }
        match path {
            "/v2/health/live" => respond::json(StatusCode::OK, &json!({"live": true})),
            "/v2/health/ready" => {
                let ready = self.readiness.is_ready() && self.ready_replica().await.is_some();
                let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                respond::json(status, &json!({"ready": ready}))
            }
            _ => self.metadata(path).await.unwrap_or_else(|error| inference_error(&error)),
        }
    }

    /// The answer of a ready replica to `GET path`.
    async fn metadata(&self, path: &str) -> Result<Reply, RequestError> {
        let busy = |message| RequestError::new(Code::Busy, message).retry_after(Duration::from_secs(1));
        let _request = self.metadata_requests.try_acquire().map_err(|_| {
            busy(format!("{MAX_METADATA_REQUESTS} requests for metadata are in progress; retry in 1 s"))
        })?;
        let replica = self.ready_replica().await.ok_or_else(|| busy("no replica is ready; retry in 1 s".into()))?;
        let failed = |error| RequestError::new(Code::ReplicaFailed, format!("no metadata from a replica: {error}"));
        let (status, body) = fetch::get(&replica, path, METADATA_TIMEOUT).await.map_err(failed)?;
        Ok(respond::bytes(status, "application/json", body))
    }

    /// The address of a ready replica; `None` if there is none.
    async fn ready_replica(&self) -> Option<crate::rotation::Address> {
        let (reply, address) = oneshot::channel();
        self.worker.messages.send(Message::ReadyReplica(reply)).await.ok()?;
        address.await.ok()?
    }
}

/// An answer with status 405. `allowed` lists the methods that the path accepts.
fn method_not_allowed(allowed: &'static str) -> Reply {
    let message = format!("this path takes {allowed} only");
    let mut reply = inference_error(&RequestError::new(Code::MethodNotAllowed, message));
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inference_has_a_path_for_each_model_and_version() {
        for (path, expected) in [
            ("/v2/models/m/infer", true),
            ("/v2/models/m/versions/1/infer", true),
            ("/v2/models/%2e/infer", true),
            ("/v2/models//infer", false),
            ("/v2/models/m", false),
            ("/v2/models/infer", false),
            ("/v2/models/m/infer/", false),
            ("/v2/models/m/versions/infer", false),
            ("/v2/models/m/versions/1/infer/x", false),
            ("/v2/infer", false),
            ("/predict", false),
        ] {
            assert_eq!(is_infer(path), expected, "{path}");
        }
        assert!(owns("/v2") && owns("/v2/") && !owns("/v20"));
    }
}
