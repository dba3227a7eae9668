//! The paths `/metrics`, `/livez` and `/readyz`, which every server program answers in the same way. Knows no metric by
//! name.

use crate::readiness::Readiness;
use crate::respond::{self, Reply};
use crate::wire::ReadyBody;
use hyper::{Method, StatusCode};
use metrics_exporter_prometheus::PrometheusHandle;

/// Answers the admin paths: `/metrics`, `/livez` and `/readyz`.
#[derive(Clone)]
pub struct Admin {
    /// Renders the text of `/metrics`.
    pub metrics: PrometheusHandle,
    /// Decides the status of `/readyz`.
    pub readiness: Readiness,
    /// The number of requests that a replica takes at once, which `/readyz` advertises. `None` in the other programs.
    pub capacity: Option<usize>,
}

impl Admin {
    /// The answer to a request for an admin path, or `None` if `path` is not an admin path.
    pub fn answer(&self, method: &Method, path: &str) -> Option<Reply> {
        let reply: fn(&Self) -> Reply = match path {
            "/metrics" => |admin| respond::text("text/plain; version=0.0.4", admin.metrics.render()),
            "/livez" => |_| respond::text("text/plain", "ok\n".into()),
            "/readyz" => |admin| {
                let ready = admin.readiness.is_ready();
                let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                respond::json(status, &ReadyBody { ready, capacity: admin.capacity })
            },
            _ => return None,
        };
        Some(respond::read_only(method, || reply(self)))
    }
}
