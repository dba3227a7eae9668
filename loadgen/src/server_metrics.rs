//! Reads the metrics of the dispatcher, and of the scaler if its address is known, once a second while a run goes on.
//! Knows nothing of the load.

use prometheus_parse::{Scrape, Value};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::fetch;
use service::wire::metric;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Time between two scrapes, and the longest time that a scrape may take.
const INTERVAL: Duration = Duration::from_secs(1);

/// The largest age of metrics that a row of a report may show. It is long enough to bridge one failed scrape.
pub const STALE_AFTER: Duration = Duration::from_secs(3);

/// Metrics of the dispatcher and the scaler at one time. A value that could not be read is absent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServerMetrics {
    /// Seconds since the start of the run; 0 before the start.
    pub at_seconds: f64,
    /// Requests that wait in the dispatcher's queue.
    pub queue_length: Option<f64>,
    /// Replicas that are in the dispatcher's rotation.
    pub replicas: Option<f64>,
    /// Replicas that the scaler asks for.
    #[serde(default)]
    pub desired_replicas: Option<f64>,
}

/// All metrics that were read so far, oldest first. Clones share the metrics.
#[derive(Debug, Clone, Default)]
pub struct MetricsLog(Arc<Mutex<Vec<ServerMetrics>>>);

/// Invariant of the lock on the metrics.
const UNPOISONED: &str = "no task panics while it holds the lock on the metrics";

impl MetricsLog {
    /// The metrics of the first `length` seconds of the run. Of the metrics that were read before the start, only the
    /// last are included, as the state at the start.
    pub fn within(&self, length: f64) -> Vec<ServerMetrics> {
        let log = self.0.lock().expect(UNPOISONED);
        let early = log.iter().take_while(|metrics| metrics.at_seconds == 0.0).count();
        let from_start = log.iter().skip(early.saturating_sub(1));
        from_start.take_while(|metrics| metrics.at_seconds <= length).copied().collect()
    }

    /// The metrics that were read last; `None` if none were read yet.
    pub fn last(&self) -> Option<ServerMetrics> {
        self.0.lock().expect(UNPOISONED).last().copied()
    }

    /// Scrapes `dispatcher` and `scaler`, each `host:port`, once a second until the future is dropped. Times count from
    /// `start`, which may lie in the future. A second in which neither address returns any of the metrics is left out.
    pub async fn scrape(self, start: Instant, dispatcher: String, scaler: Option<String>) {
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tick.tick().await;
            let at_seconds = start.elapsed().as_secs_f64();
            let scrape_scaler = async {
                match &scaler {
                    Some(scaler) => scrape(scaler).await,
                    None => None,
                }
            };
            let (dispatcher, scaler) = tokio::join!(scrape(&dispatcher), scrape_scaler);
            let metrics = ServerMetrics {
                at_seconds,
                queue_length: gauge(dispatcher.as_ref(), metric::QUEUE_LENGTH, None),
                replicas: gauge(dispatcher.as_ref(), metric::REPLICAS, Some("ready")),
                desired_replicas: gauge(scaler.as_ref(), metric::DESIRED_REPLICAS, None),
            };
            if metrics.queue_length.or(metrics.replicas).or(metrics.desired_replicas).is_some() {
                self.0.lock().expect(UNPOISONED).push(metrics);
            }
        }
    }
}

/// The metrics at `address`, `host:port`; `None` if they cannot be read.
async fn scrape(address: &str) -> Option<Scrape> {
    let (_, body) = fetch::get(address, "/metrics", INTERVAL).await.ok()?;
    parse(&String::from_utf8_lossy(&body))
}

/// Parses the Prometheus text format; `None` if `text` has another format.
fn parse(text: &str) -> Option<Scrape> {
    Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).ok()
}

/// The value of the gauge `name` with this value of the label `state`, or without that label if `state` is `None`.
/// Returns `None` if the scrape has no such gauge.
fn gauge(scrape: Option<&Scrape>, name: &str, state: Option<&str>) -> Option<f64> {
    scrape?.samples.iter().find_map(|sample| match sample.value {
        Value::Gauge(value) if value.is_finite() && sample.metric == name && sample.labels.get("state") == state => {
            Some(value)
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_metrics_from_before_the_start_are_included() {
        let within = |seen: &[(f64, f64)]| {
            let metrics = |&(at_seconds, replicas): &(f64, f64)| ServerMetrics {
                at_seconds,
                queue_length: None,
                replicas: Some(replicas),
                desired_replicas: None,
            };
            let log = MetricsLog(Arc::new(Mutex::new(seen.iter().map(metrics).collect())));
            let pair = |metrics: ServerMetrics| (metrics.at_seconds, metrics.replicas.unwrap_or_default());
            log.within(2.0).into_iter().map(pair).collect::<Vec<_>>()
        };
        assert_eq!(
            within(&[(0.0, 1.0), (0.0, 4.0), (0.0, 2.0), (0.7, 2.0), (1.7, 3.0), (2.7, 5.0)]),
            [(0.0, 2.0), (0.7, 2.0), (1.7, 3.0)]
        );
        assert_eq!(within(&[(0.4, 1.0), (1.4, 1.0)]), [(0.4, 1.0), (1.4, 1.0)]);
        assert_eq!(within(&[]), []);
    }

    #[test]
    fn gauges_are_found_by_name_and_state() {
        let text = "# TYPE dispatcher_queue_length gauge\ndispatcher_queue_length 4\n\
            # TYPE dispatcher_replicas gauge\n\
            dispatcher_replicas{state=\"ejected\"} 1\ndispatcher_replicas{state=\"ready\"} 3\n\
            # TYPE dispatcher_capacity gauge\ndispatcher_capacity NaN\n";
        let scrape = parse(text);
        let gauge = |name, state| gauge(scrape.as_ref(), name, state);
        assert_eq!(gauge(metric::QUEUE_LENGTH, None), Some(4.0));
        assert_eq!(gauge(metric::REPLICAS, Some("ready")), Some(3.0));
        assert_eq!(gauge(metric::CAPACITY, None), None);
        assert_eq!(gauge(metric::REPLICAS, None), None);
        assert!(parse("<html>").is_none_or(|scrape| scrape.samples.is_empty()));
    }
}
