//! The paths for operators, and for programs that observe the dispatcher: `/metrics`, `/livez`, `/readyz` and
//! `/status`.

use crate::status::Status;
use crate::worker::{Message, WorkerHandle};
use hyper::{Method, Request, StatusCode};
use service::admin;
use service::respond::{self, Reply};
use service::wire::{Code, RequestError};
use tokio::sync::oneshot;

/// Answers the admin paths.
#[derive(Clone)]
pub struct Admin {
    /// The worker, which owns the queue and the replicas.
    pub worker: WorkerHandle,
    /// Answers the admin paths that every program has.
    pub common: admin::Admin,
}

impl Admin {
    /// Answers a request to the address of `--admin-listen`, which has no other paths.
    pub async fn handle<B>(&self, request: &Request<B>) -> Reply {
        let path = request.uri().path();
        match self.answer(request.method(), path).await {
            Some(reply) => reply,
            None => respond::not_found(path, "try /metrics, /livez, /readyz or /status", ""),
        }
    }

    /// Answers a request to `path`; `None` if `path` is no admin path.
    pub async fn answer(&self, method: &Method, path: &str) -> Option<Reply> {
        match path {
            "/status" => {
                let reply = self.status_reply().await;
                Some(respond::read_only(method, || reply))
            }
            "/metrics" => {
                // The worker sets the gauges when it makes its status. If it has ended, the last values are exported.
                let _ended = self.status().await;
                self.common.answer(method, path)
            }
            _ => self.common.answer(method, path),
        }
    }

    async fn status_reply(&self) -> Reply {
        match self.status().await {
            Some(status) => respond::json(StatusCode::OK, &status),
            None => respond::error(&RequestError::new(Code::Internal, "the dispatcher is stopping"), ""),
        }
    }

    async fn status(&self) -> Option<Status> {
        let (reply, status) = oneshot::channel();
        self.worker.messages.send(Message::Status(reply)).await.ok()?;
        status.await.ok()
    }
}
