//! The paths for operators, and for programs that observe the dispatcher: `/metrics`, `/metrics/sums`, `/livez`,
//! `/readyz` and `/status`.

use crate::metrics::{ALL, IN_FLIGHT, MetricDescription, REPLICA_ATTEMPTS, REPLICA_SECONDS};
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
                let by_replica = self.status().await.map(|status| by_replica(&status.replicas));
                Some(self.metrics_reply(method, by_replica))
            }
            "/metrics/sums" => {
                let sums = self.in_flight().await.map(|sum| {
                    let mut text = head(IN_FLIGHT);
                    sample(&mut text, IN_FLIGHT, "", sum as f64);
                    text
                });
                Some(self.metrics_reply(method, sums))
            }
            _ => self.common.answer(method, path),
        }
    }

    /// The recorded metrics and those of the `replicas`. The recorder does not know these: it keeps each series for ever,
    /// so those of replicas that are gone would add up.
    fn metrics_reply(&self, method: &Method, replicas: Option<String>) -> Reply {
        respond::read_only(method, || {
            let text = self.common.metrics.render() + &replicas.unwrap_or_default();
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

/// The samples of all replicas, in the text format of Prometheus.
fn by_replica(replicas: &[ReplicaStatus]) -> String {
    let labels: Vec<String> = replicas
        .iter()
        // An address of a list or a file may hold characters that have a meaning in a label.
        .map(|replica| replica.address.replace('\\', "\\\\").replace('"', "\\\""))
        .map(|address| format!("replica=\"{address}\""))
        .collect();
    let mut text = head(IN_FLIGHT);
    for (replica, label) in replicas.iter().zip(&labels) {
        sample(&mut text, IN_FLIGHT, label, replica.in_flight as f64);
    }
    text += &head(REPLICA_ATTEMPTS);
    for (replica, label) in replicas.iter().zip(&labels) {
        let counts = [("ok", replica.classified), ("refused", replica.refused), ("failed", replica.failed)];
        for (outcome, count) in counts {
            sample(&mut text, REPLICA_ATTEMPTS, &format!("{label},outcome=\"{outcome}\""), count as f64);
        }
    }
    text += &head(REPLICA_SECONDS);
    for (replica, label) in replicas.iter().zip(&labels) {
        sample(&mut text, REPLICA_SECONDS, label, replica.answer_seconds);
    }
    text
}

/// The lines with the help and the type of the metric `name`.
fn head(name: &str) -> String {
    let MetricDescription { kind, help, .. } =
        ALL.iter().find(|metric| metric.name == name).expect("every metric has a description");
    format!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.as_str())
}

/// Appends the sample of the metric `name` with these `labels`.
fn sample(text: &mut String, name: &str, labels: &str, value: f64) {
    let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    writeln!(text, "{name}{labels} {value}").expect("writing to a string never fails");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_replica_has_its_samples_and_its_address_is_escaped() {
        let replica = |address: &str, in_flight| ReplicaStatus {
            address: address.into(),
            state: "ready",
            capacity: 4,
            in_flight,
            classified: 7,
            refused: 2,
            failed: 1,
            answer_seconds: 0.5,
        };
        let text = by_replica(&[replica("a:1", 2), replica(r#"b"\:1"#, 0)]);
        for line in [
            "# TYPE dispatcher_in_flight gauge",
            "dispatcher_in_flight{replica=\"a:1\"} 2",
            "dispatcher_in_flight{replica=\"b\\\"\\\\:1\"} 0",
            "# TYPE dispatcher_replica_attempts_total counter",
            "dispatcher_replica_attempts_total{replica=\"a:1\",outcome=\"ok\"} 7",
            "dispatcher_replica_attempts_total{replica=\"a:1\",outcome=\"failed\"} 1",
            "dispatcher_replica_answer_seconds_total{replica=\"a:1\"} 0.5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}
