//! Reads the metrics of dispatchers and scalers once a second while a run goes on. Knows nothing of the load.

use crate::program_metrics::{self, ProgramMetrics};
use crate::scrape::{self, Watch};
use futures_util::future::join_all;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Time between two scrapes.
const INTERVAL: Duration = Duration::from_secs(1);

/// Longest time for one scrape. It is shorter than [`INTERVAL`], so that one slow program costs the others no scrape.
const TIMEOUT: Duration = Duration::from_millis(900);

/// The largest age of metrics that a row of a report may show, and that are added to those of other programs. It is long
/// enough to bridge one failed scrape.
pub const STALE_AFTER: Duration = Duration::from_secs(3);

/// Metrics of all dispatchers and scalers at one time. A value that could not be read is absent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServerMetrics {
    /// Seconds since the start of the run; 0 before the start.
    pub at_seconds: f64,
    /// Requests that wait in the queues of all dispatchers.
    pub queue_length: Option<f64>,
    /// Replicas that are in the rotation of a dispatcher. Each dispatcher has all replicas, so the largest number counts.
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

    /// Scrapes the programs of `watch` once a second until the future is dropped. Times count from `start`, which may lie
    /// in the future. A second in which no program returns any of the metrics is left out. A program that does not answer
    /// keeps its last metrics until [`STALE_AFTER`].
    pub async fn scrape(self, start: Instant, watch: Watch) {
        tokio::select! {
            () = watch.follow_names() => {}
            () = self.scrape_addresses(start, &watch) => {}
        }
    }

    async fn scrape_addresses(&self, start: Instant, watch: &Watch) {
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut last = BTreeMap::new();
        loop {
            tick.tick().await;
            let (now, at_seconds) = (Instant::now(), start.elapsed().as_secs_f64());
            let addresses = watch.addresses();
            let answers = join_all(addresses.iter().map(|address| scrape::scrape(address, TIMEOUT))).await;
            let answered = addresses.iter().zip(answers).filter_map(|(address, answer)| Some((address, answer.ok()?)));
            let answered: Vec<(String, ProgramMetrics)> =
                answered.map(|(address, metrics)| (address.clone(), metrics)).collect();
            let is_fresh = !answered.is_empty();
            last.extend(answered.into_iter().map(|(address, metrics)| (address, (now, metrics))));
            last.retain(|address, (at, _)| addresses.contains(address) && now - *at <= STALE_AFTER);
            let programs: Vec<&ProgramMetrics> = last.values().map(|(_, metrics)| metrics).collect();
            let metrics = program_metrics::together(at_seconds, &programs, watch.scaler_target.as_deref());
            if is_fresh && metrics.queue_length.or(metrics.replicas).or(metrics.desired_replicas).is_some() {
                self.0.lock().expect(UNPOISONED).push(metrics);
            }
        }
    }
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
}
