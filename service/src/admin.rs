//! `/metrics`, `/livez` and `/readyz`, the same on every binary.

use crate::readiness::Readiness;
use crate::respond::{self, Reply};
use crate::wire::ReadyBody;
use hyper::{Method, StatusCode};
use metrics_exporter_prometheus::PrometheusHandle;

/// What the admin paths answer from.
#[derive(Clone)]
pub struct Admin {
    /// Renders `/metrics`.
    pub metrics: PrometheusHandle,
    /// Answers `/readyz`.
    pub readiness: Readiness,
    /// Advertised in `/readyz`; replicas only.
    pub capacity: Option<usize>,
}

impl Admin {
    /// The answer to an admin path, or nothing if `path` is none.
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
        Some(respond::readable(method, || reply(self)))
    }
}
