//! Watches the dispatcher while a run goes on: queue length and ready replicas, once a second.

use prometheus_parse::{Scrape, Value};
use serde::{Deserialize, Serialize};
use service::fetch;
use service::wire::metric;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What the dispatcher said at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Glimpse {
    /// Since the start of the run.
    pub at_seconds: f64,
    /// Requests waiting.
    pub queue_length: f64,
    /// Replicas in rotation.
    pub replicas: f64,
}

/// All glimpses so far, oldest first.
pub type Glimpses = Arc<Mutex<Vec<Glimpse>>>;

/// Scrapes `address` every second until dropped. What does not answer, or is no dispatcher, leaves a gap.
pub async fn follow(address: String, glimpses: Glimpses) {
    let start = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        let at_seconds = start.elapsed().as_secs_f64();
        let Ok((_, body)) = fetch::get(&address, "/metrics", Duration::from_secs(1)).await else { continue };
        if let Some((queue_length, replicas)) = read(&String::from_utf8_lossy(&body)) {
            let glimpse = Glimpse { at_seconds, queue_length, replicas };
            glimpses.lock().expect("nobody panics while holding the glimpses").push(glimpse);
        }
    }
}

fn read(text: &str) -> Option<(f64, f64)> {
    let scrape = Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).ok()?;
    let gauge = |name: &str, state: Option<&str>| {
        scrape.samples.iter().find_map(|sample| match sample.value {
            Value::Gauge(value) if sample.metric == name && sample.labels.get("state") == state => Some(value),
            _ => None,
        })
    };
    Some((gauge(metric::QUEUE_LENGTH, None)?, gauge(metric::REPLICAS, Some("ready"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_are_found_by_name_and_state() {
        let text = "# TYPE dispatcher_queue_length gauge\ndispatcher_queue_length 4\n\
            # TYPE dispatcher_replicas gauge\ndispatcher_replicas{state=\"ejected\"} 1\ndispatcher_replicas{state=\"ready\"} 3\n";
        assert_eq!(read(text), Some((4.0, 3.0)));
        assert_eq!(read("<html>"), None);
    }
}
