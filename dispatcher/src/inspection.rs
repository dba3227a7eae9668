//! What people and programs look at: `/metrics`, `/livez`, `/readyz` and `/status`.

use crate::worker::{Handle, Message, Snapshot};
use hyper::{Method, Request, StatusCode};
use service::admin::Admin;
use service::respond::{self, Reply};
use service::wire::{Code, RequestError as Fault};
use tokio::sync::oneshot;

/// What it is answered from.
#[derive(Clone)]
pub struct Inspection {
    /// Knows how things stand.
    pub worker: Handle,
    /// Answers what every program answers.
    pub admin: Admin,
}

impl Inspection {
    /// Answers on an address of its own.
    pub async fn handle<B>(&self, request: &Request<B>) -> Reply {
        let path = request.uri().path();
        match self.answer(request.method(), path).await {
            Some(reply) => reply,
            None => respond::not_found(path, "try /metrics, /livez, /readyz or /status", ""),
        }
    }

    /// The answer to a path of its own, or nothing if `path` is none.
    pub async fn answer(&self, method: &Method, path: &str) -> Option<Reply> {
        match path {
            "/status" => {
                let status = self.status().await;
                Some(respond::read_only(method, || status))
            }
            "/metrics" => {
                // The gauges then show the present; a worker that has ended leaves them as they were.
                let _ended = self.snapshot().await;
                self.admin.answer(method, path)
            }
            _ => self.admin.answer(method, path),
        }
    }

    async fn status(&self) -> Reply {
        match self.snapshot().await {
            Some(snapshot) => respond::json(StatusCode::OK, &snapshot),
            None => respond::error(&Fault::new(Code::Internal, "the dispatcher is stopping"), ""),
        }
    }

    async fn snapshot(&self) -> Option<Snapshot> {
        let (reply, snapshot) = oneshot::channel();
        self.worker.messages.send(Message::Snapshot(reply)).await.ok()?;
        snapshot.await.ok()
    }
}
