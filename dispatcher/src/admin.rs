//! The paths for operators, and for programs that observe the dispatcher: `/metrics`, `/metrics/sums`, `/livez`,
//! `/readyz` and `/status`.

use crate::metrics::{ALL, IN_FLIGHT};
use crate::status::{ReplicaStatus, Status};
use crate::worker::{Message, WorkerHandle};
use hyper::{Method, Request, StatusCode};
use service::admin;
use service::respond::{self, Reply};
use service::wire::{Code, RequestError};
use std::fmt::Write;
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
            None => respond::not_found(path, "try /metrics, /metrics/sums, /livez, /readyz or /status", ""),
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
                let in_flight = self.status().await.map(|status| in_flight_by_replica(&status.replicas));
                Some(self.metrics_reply(method, in_flight))
            }
            "/metrics/sums" => {
                let in_flight = self.in_flight().await.map(|sum| format!("{IN_FLIGHT} {sum}\n"));
                Some(self.metrics_reply(method, in_flight))
            }
            _ => self.common.answer(method, path),
        }
    }

    /// The recorded metrics and the samples `in_flight`. The recorder does not know these: it keeps each series for ever,
    /// so those of replicas that are gone would add up.
    fn metrics_reply(&self, method: &Method, in_flight: Option<String>) -> Reply {
        let help = ALL.iter().find(|metric| metric.name == IN_FLIGHT).map_or("", |metric| metric.help);
        respond::read_only(method, || {
            let mut text = self.common.metrics.render();
            if let Some(in_flight) = in_flight {
                text.push_str(&format!("# HELP {IN_FLIGHT} {help}\n# TYPE {IN_FLIGHT} gauge\n{in_flight}\n"));
            }
            respond::text("text/plain; version=0.0.4", text)
        })
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

    /// The number of requests that all replicas hold.
    async fn in_flight(&self) -> Option<usize> {
        let (reply, in_flight) = oneshot::channel();
        self.worker.messages.send(Message::Sums(reply)).await.ok()?;
        in_flight.await.ok()
    }
}

/// One sample for each replica, in the text format of Prometheus.
fn in_flight_by_replica(replicas: &[ReplicaStatus]) -> String {
    let mut samples = String::new();
    for ReplicaStatus { address, in_flight, .. } in replicas {
        // An address of a list or a file may hold characters that have a meaning in a label.
        let label = address.replace('\\', "\\\\").replace('"', "\\\"");
        writeln!(samples, "{IN_FLIGHT}{{replica=\"{label}\"}} {in_flight}").expect("writing to a string never fails");
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_replica_has_a_sample_and_its_address_is_escaped() {
        let replica = |address: &str, in_flight| ReplicaStatus {
            address: address.into(),
            state: "ready",
            capacity: 4,
            in_flight,
        };
        let text = in_flight_by_replica(&[replica("a:1", 2), replica(r#"b"\:1"#, 0)]);
        let expected = "dispatcher_in_flight{replica=\"a:1\"} 2\ndispatcher_in_flight{replica=\"b\\\"\\\\:1\"} 0\n";
        assert_eq!(text, expected);
    }
}
