//! Watches the dispatcher, and the scaler if told where it is, while a run goes on: once a second.

use prometheus_parse::{Scrape, Value};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::fetch;
use service::wire::metric;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Between two looks, and for an answer.
const INTERVAL: Duration = Duration::from_secs(1);

/// What was said so long ago says nothing of now; one answer may be missing.
pub const STALE: Duration = Duration::from_secs(3);

/// What they said at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Glimpse {
    /// Since the start of the run; 0 before it.
    pub at_seconds: f64,
    /// Requests waiting.
    pub queue_length: Option<f64>,
    /// Replicas in rotation.
    pub replicas: Option<f64>,
    /// Replicas that the scaler asks for.
    #[serde(default)]
    pub desired_replicas: Option<f64>,
}

/// All glimpses so far, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Glimpses(Arc<Mutex<Vec<Glimpse>>>);

impl Glimpses {
    /// Those of the first `length` seconds. What was seen before the start is the last of them, at 0.
    pub fn within(&self, length: f64) -> Vec<Glimpse> {
        let glimpses = self.0.lock().expect("nobody panics while holding the glimpses");
        let early = glimpses.iter().take_while(|glimpse| glimpse.at_seconds == 0.0).count();
        let counting = glimpses.iter().skip(early.saturating_sub(1));
        counting.take_while(|glimpse| glimpse.at_seconds <= length).copied().collect()
    }

    /// The last one.
    pub fn last(&self) -> Option<Glimpse> {
        self.0.lock().expect("nobody panics while holding the glimpses").last().copied()
    }

    /// Scrapes until dropped, counting time from `start`, which may be yet to come. What does not answer, or is neither, leaves a gap.
    pub async fn follow(self, start: Instant, dispatcher: String, scaler: Option<String>) {
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tick.tick().await;
            let at_seconds = start.elapsed().as_secs_f64();
            let asked = async {
                match &scaler {
                    Some(scaler) => scrape(scaler).await,
                    None => None,
                }
            };
            let (dispatcher, scaler) = tokio::join!(scrape(&dispatcher), asked);
            let glimpse = Glimpse {
                at_seconds,
                queue_length: gauge(dispatcher.as_ref(), metric::QUEUE_LENGTH, None),
                replicas: gauge(dispatcher.as_ref(), metric::REPLICAS, Some("ready")),
                desired_replicas: gauge(scaler.as_ref(), metric::DESIRED_REPLICAS, None),
            };
            if glimpse.queue_length.or(glimpse.replicas).or(glimpse.desired_replicas).is_some() {
                self.0.lock().expect("nobody panics while holding the glimpses").push(glimpse);
            }
        }
    }
}

async fn scrape(address: &str) -> Option<Scrape> {
    let (_, body) = fetch::get(address, "/metrics", INTERVAL).await.ok()?;
    read(&String::from_utf8_lossy(&body))
}

fn read(text: &str) -> Option<Scrape> {
    Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).ok()
}

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
    fn of_what_was_seen_before_the_start_the_last_counts() {
        let within = |seen: &[(f64, f64)]| {
            let glimpse = |&(at_seconds, replicas): &(f64, f64)| Glimpse {
                at_seconds,
                queue_length: None,
                replicas: Some(replicas),
                desired_replicas: None,
            };
            let glimpses = Glimpses(Arc::new(Mutex::new(seen.iter().map(glimpse).collect())));
            let pair = |glimpse: Glimpse| (glimpse.at_seconds, glimpse.replicas.unwrap_or_default());
            glimpses.within(2.0).into_iter().map(pair).collect::<Vec<_>>()
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
            # TYPE dispatcher_replicas gauge\ndispatcher_replicas{state=\"ejected\"} 1\ndispatcher_replicas{state=\"ready\"} 3\n\
            # TYPE dispatcher_capacity gauge\ndispatcher_capacity NaN\n";
        let scrape = read(text);
        let gauge = |name, state| gauge(scrape.as_ref(), name, state);
        assert_eq!(gauge(metric::QUEUE_LENGTH, None), Some(4.0));
        assert_eq!(gauge(metric::REPLICAS, Some("ready")), Some(3.0));
        assert_eq!(gauge(metric::CAPACITY, None), None);
        assert_eq!(gauge(metric::REPLICAS, None), None);
        assert!(read("<html>").is_none_or(|scrape| scrape.samples.is_empty()));
    }
}
