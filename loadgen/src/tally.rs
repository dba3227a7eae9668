//! How a run goes so far: what is shown while it lasts. Knows nothing of terminals.

use crate::latencies::{Latencies, Percentiles};
use crate::sample::{Outcome, Sample};
use crate::watch::Glimpse;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// What the live percentiles look back over.
pub const RECENT: Duration = Duration::from_secs(10);

/// Answers kept for that, at most.
const MAX_RECENT: usize = 50_000;

/// One second of the run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Second {
    /// Requests that were due.
    pub sent: usize,
    /// Of the answers that came in it, milliseconds.
    pub p95_ms: f64,
    /// As seen in it.
    pub queue_length: f64,
    /// As seen in it.
    pub replicas: f64,
}

/// The state of a run.
#[derive(Debug, Default)]
pub struct Tally {
    /// Ended requests.
    pub ended: usize,
    /// Of those, answered within the objective.
    pub within: usize,
    /// Failures by code.
    pub errors: BTreeMap<String, usize>,
    /// Due, not ended.
    pub in_flight: usize,
    /// The seconds that have passed, oldest first.
    pub seconds: Vec<Second>,
    /// What the dispatcher said last.
    pub glimpse: Option<Glimpse>,
    /// When each answer came and how long it took.
    recent: VecDeque<(Duration, Duration)>,
    sent: usize,
    sent_before: usize,
}

impl Tally {
    /// One request has ended.
    pub fn note(&mut self, sample: &Sample, objective: Duration) {
        self.ended += 1;
        self.within += usize::from(sample.is_within(objective));
        match &sample.outcome {
            Outcome::Failed { code } => *self.errors.entry(code.clone().into_owned()).or_insert(0) += 1,
            Outcome::Answered { .. } => {
                if self.recent.len() == MAX_RECENT {
                    self.recent.pop_front();
                }
                self.recent.push_back((sample.scheduled + sample.latency, sample.latency));
            }
        }
    }

    /// So much time has passed, so many requests were due, and this was seen last.
    pub fn advance(&mut self, now: Duration, sent: usize, glimpse: Option<Glimpse>) {
        self.sent = sent;
        self.in_flight = sent.saturating_sub(self.ended);
        self.glimpse = glimpse;
        while self.recent.front().is_some_and(|(at, _)| *at + RECENT < now) {
            self.recent.pop_front();
        }
        while (self.seconds.len() as u64) < now.as_secs() {
            let end = Duration::from_secs(self.seconds.len() as u64 + 1);
            let came = |(at, latency): &(Duration, Duration)| {
                (*at <= end && *at + Duration::from_secs(1) > end).then_some(*latency)
            };
            let latencies: Latencies = self.recent.iter().filter_map(came).collect();
            self.seconds.push(Second {
                sent: self.sent - self.sent_before,
                p95_ms: latencies.percentiles().map_or(0.0, |latency| latency.p95),
                queue_length: glimpse.and_then(|glimpse| glimpse.queue_length).unwrap_or_default(),
                replicas: glimpse.and_then(|glimpse| glimpse.replicas).unwrap_or_default(),
            });
            self.sent_before = self.sent;
        }
    }

    /// Of the answers of the last ten seconds; nothing without any.
    pub fn percentiles(&self) -> Option<Percentiles> {
        self.recent.iter().map(|(_, latency)| *latency).collect::<Latencies>().percentiles()
    }

    /// Failed requests.
    pub fn failed(&self) -> usize {
        self.errors.values().sum()
    }

    /// Requests due in the last whole second.
    pub fn rate(&self) -> usize {
        self.seconds.last().map_or(self.sent, |second| second.sent)
    }

    /// Per cent of the ended requests that were answered within the objective.
    pub fn attainment(&self) -> f64 {
        if self.ended == 0 { 0.0 } else { 100.0 * self.within as f64 / self.ended as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_is_noted_once() {
        let milliseconds = Duration::from_millis;
        let sample = |scheduled, latency| Sample {
            scheduled: milliseconds(scheduled),
            send_delay: Duration::ZERO,
            latency: milliseconds(latency),
            sent_bytes: 1,
            received_bytes: 1,
            outcome: Outcome::Answered { right: None },
        };
        let mut tally = Tally::default();
        for (scheduled, latency) in [(100, 100), (200, 600), (900, 400)] {
            tally.note(&sample(scheduled, latency), milliseconds(500));
        }
        let glimpse = Glimpse { at_seconds: 1.0, queue_length: Some(4.0), replicas: Some(2.0), desired_replicas: None };
        tally.advance(milliseconds(999), 4, None);
        assert!(tally.seconds.is_empty());
        tally.advance(milliseconds(1001), 5, Some(glimpse));
        tally.advance(milliseconds(1900), 7, Some(glimpse));
        tally.advance(milliseconds(3000), 8, Some(glimpse));
        let sent: Vec<usize> = tally.seconds.iter().map(|second| second.sent).collect();
        assert_eq!((sent, tally.rate(), tally.in_flight, tally.within), (vec![5, 3, 0], 0, 5, 2));
        let p95: Vec<f64> = tally.seconds.iter().map(|second| second.p95_ms.round()).collect();
        assert_eq!((p95, tally.seconds[1].queue_length), (vec![600.0, 400.0, 0.0], 4.0));
        tally.advance(milliseconds(12_000), 8, None);
        assert_eq!(tally.percentiles(), None);
    }
}
