//! The progress of a run, as it is shown while the run lasts. Knows nothing of terminals, and reads no clock.

use crate::latencies::{Latencies, Percentiles};
use crate::sample::Sample;
use crate::server_metrics::ServerMetrics;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Length of the last part of the run whose answers the live percentiles cover.
pub const RECENT: Duration = Duration::from_secs(10);

/// Largest number of answers that are kept for the live percentiles.
const MAX_RECENT: usize = 50_000;

/// Largest number of different error codes that are counted separately. A server may send a new code with each answer.
const MAX_CODES: usize = 100;

/// The figures of one second of the run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Second {
    /// Requests that were due in this second.
    pub sent: usize,
    /// 95th percentile of the latencies of the answers that came in this second, in milliseconds; 0 without answers.
    pub p95_ms: f64,
    /// Requests in the dispatcher's queue; 0 if unknown.
    pub queue_length: f64,
    /// Replicas in rotation; 0 if unknown.
    pub replicas: f64,
}

/// The progress of a worker's part since its last report.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ProgressReport {
    /// Requests that were due.
    pub sent: usize,
    /// Requests that have ended, those of the warm-up included.
    pub ended: usize,
    /// Requests that were scheduled after the warm-up and have ended.
    pub counted: usize,
    /// Of these, the requests that were answered within the objective.
    pub within_objective: usize,
    /// Of these, the requests that failed.
    pub failed: usize,
    /// Number of these failures by error code.
    pub errors: BTreeMap<String, usize>,
    /// The latencies of the answers.
    pub latencies: Latencies,
}

/// The part of a [`Progress`] that was reported.
#[derive(Debug, Default)]
pub struct Reported {
    sent: usize,
    ended: usize,
    counted: usize,
    within_objective: usize,
    failed: usize,
    errors: BTreeMap<String, usize>,
    answered: usize,
}

/// The figures of a run so far. Attainment and errors leave the requests of the warm-up out.
#[derive(Debug, Default)]
pub struct Progress {
    warmup: Duration,
    objective: Duration,
    /// Requests that have ended, those of the warm-up included.
    pub ended: usize,
    /// Requests that were scheduled after the warm-up and have ended.
    pub counted: usize,
    /// Requests that were answered within the objective.
    pub within_objective: usize,
    /// Number of failed requests by error code, of the first 100 different codes.
    pub errors: BTreeMap<String, usize>,
    /// Number of failed requests.
    pub failed: usize,
    /// Requests that were due and have not ended.
    pub in_flight: usize,
    /// The figures of each whole second that has passed, oldest first.
    pub seconds: Vec<Second>,
    /// The metrics of the dispatcher and the scaler that were read last; `None` if none have been read.
    pub server_metrics: Option<ServerMetrics>,
    /// The time, since the start of the run, and the latency of each recent answer, oldest first.
    recent: VecDeque<(Duration, Duration)>,
    /// Answers that have come, those of the warm-up included.
    answered: usize,
    /// Requests that were due so far.
    sent: usize,
    /// Requests that were due before the second that is not over yet.
    sent_before: usize,
}

impl Progress {
    /// The progress of a run before its start.
    pub fn new(warmup: Duration, objective: Duration) -> Self {
        Self { warmup, objective, ..Self::default() }
    }

    /// Records the end of a request.
    pub fn record(&mut self, sample: &Sample) {
        self.ended += 1;
        if sample.is_answered() {
            self.answered += 1;
            self.record_answer(sample.scheduled + sample.latency, sample.latency);
        }
        if sample.scheduled < self.warmup {
            return;
        }
        self.counted += 1;
        self.within_objective += usize::from(sample.is_within(self.objective));
        if let Some(code) = sample.outcome.code() {
            self.failed += 1;
            if self.errors.len() < MAX_CODES || self.errors.contains_key(code) {
                *self.errors.entry(code.to_owned()).or_insert(0) += 1;
            }
        }
    }

    /// Records an answer that came at `at`.
    fn record_answer(&mut self, at: Duration, latency: Duration) {
        if self.recent.len() == MAX_RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((at, latency));
    }

    /// The progress since the last report, which `reported` contains. Afterwards, it contains this one, too.
    pub fn report(&self, reported: &mut Reported) -> ProgressReport {
        let answers = (self.answered - reported.answered).min(self.recent.len());
        let since = |code: &String, count: usize| count - reported.errors.get(code).copied().unwrap_or_default();
        let errors = self.errors.iter().map(|(code, &count)| (code.clone(), since(code, count)));
        let report = ProgressReport {
            sent: self.sent - reported.sent,
            ended: self.ended - reported.ended,
            counted: self.counted - reported.counted,
            within_objective: self.within_objective - reported.within_objective,
            failed: self.failed - reported.failed,
            errors: errors.filter(|(_, count)| *count > 0).collect(),
            latencies: self.recent.iter().rev().take(answers).map(|(_, latency)| *latency).collect(),
        };
        *reported = Reported {
            sent: self.sent,
            ended: self.ended,
            counted: self.counted,
            within_objective: self.within_objective,
            failed: self.failed,
            errors: self.errors.clone(),
            answered: self.answered,
        };
        report
    }

    /// Adds the report of a worker, which arrived at `now`. Its answers count as if they had come now. The report may
    /// have any numbers, since another process sent it.
    pub fn add(&mut self, report: &ProgressReport, now: Duration) {
        let add = |sum: &mut usize, more: usize| *sum = sum.saturating_add(more);
        add(&mut self.ended, report.ended);
        add(&mut self.counted, report.counted);
        add(&mut self.within_objective, report.within_objective);
        add(&mut self.failed, report.failed);
        for (code, &count) in &report.errors {
            if self.errors.len() < MAX_CODES || self.errors.contains_key(code) {
                add(self.errors.entry(code.clone()).or_insert(0), count);
            }
        }
        let each = report.latencies.counts().flat_map(|(latency, count)| std::iter::repeat_n(latency, count as usize));
        for latency in each.take(MAX_RECENT) {
            self.record_answer(now, latency);
        }
    }

    /// Advances to `now`, the time since the start of the run: `sent` requests were due so far, and `server_metrics`
    /// were read last.
    pub fn advance(&mut self, now: Duration, sent: usize, server_metrics: Option<ServerMetrics>) {
        self.sent = sent;
        self.in_flight = sent.saturating_sub(self.ended);
        self.server_metrics = server_metrics;
        while self.recent.front().is_some_and(|(at, _)| *at + RECENT < now) {
            self.recent.pop_front();
        }
        while (self.seconds.len() as u64) < now.as_secs() {
            let end = Duration::from_secs(self.seconds.len() as u64 + 1);
            let latency_in_second = |(at, latency): &(Duration, Duration)| {
                (*at <= end && *at + Duration::from_secs(1) > end).then_some(*latency)
            };
            let latencies: Latencies = self.recent.iter().filter_map(latency_in_second).collect();
            self.seconds.push(Second {
                sent: self.sent - self.sent_before,
                p95_ms: latencies.percentiles().map_or(0.0, |latency| latency.p95),
                queue_length: server_metrics.and_then(|metrics| metrics.queue_length).unwrap_or_default(),
                replicas: server_metrics.and_then(|metrics| metrics.replicas).unwrap_or_default(),
            });
            self.sent_before = self.sent;
        }
    }

    /// Percentiles of the answers of the last ten seconds; `None` without answers.
    pub fn percentiles(&self) -> Option<Percentiles> {
        self.recent.iter().map(|(_, latency)| *latency).collect::<Latencies>().percentiles()
    }

    /// Requests that were due in the last whole second. In the first second, the requests that were due so far.
    pub fn rate(&self) -> usize {
        self.seconds.last().map_or(self.sent, |second| second.sent)
    }

    /// Percentage of the ended requests that were answered within the objective; `None` if none has ended, or none was
    /// scheduled after the warm-up.
    pub fn attainment_percent(&self) -> Option<f64> {
        (self.counted > 0).then(|| 100.0 * self.within_objective as f64 / self.counted as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::tests::{ANSWERED, failed, sample};

    #[test]
    fn every_second_is_recorded_once() {
        let milliseconds = Duration::from_millis;
        let mut progress = Progress::new(Duration::ZERO, milliseconds(500));
        for (scheduled, latency) in [(100, 100), (200, 600), (900, 400)] {
            progress.record(&sample(scheduled, latency, ANSWERED));
        }
        let metrics =
            ServerMetrics { at_seconds: 1.0, queue_length: Some(4.0), replicas: Some(2.0), desired_replicas: None };
        progress.advance(milliseconds(999), 4, None);
        assert!(progress.seconds.is_empty());
        progress.advance(milliseconds(1001), 5, Some(metrics));
        progress.advance(milliseconds(1900), 7, Some(metrics));
        progress.advance(milliseconds(3000), 8, Some(metrics));
        let sent: Vec<usize> = progress.seconds.iter().map(|second| second.sent).collect();
        assert_eq!((sent, progress.rate(), progress.in_flight, progress.within_objective), (vec![5, 3, 0], 0, 5, 2));
        let p95: Vec<f64> = progress.seconds.iter().map(|second| second.p95_ms.round()).collect();
        assert_eq!((p95, progress.seconds[1].queue_length), (vec![600.0, 400.0, 0.0], 4.0));
        progress.advance(milliseconds(12_000), 8, None);
        assert_eq!(progress.percentiles(), None);
    }

    #[test]
    fn the_reports_of_workers_add_up() {
        let milliseconds = Duration::from_millis;
        let mut sum = Progress::new(Duration::ZERO, milliseconds(500));
        let mut sent = 0;
        for worker in 0..2 {
            let mut progress = Progress::new(Duration::ZERO, milliseconds(500));
            let mut reported = Reported::default();
            for second in 0..3_u64 {
                progress.record(&sample(1000 * second + 100, 100 + 100 * worker, ANSWERED));
                progress.record(&sample(1000 * second + 100, 600, ANSWERED));
                progress.record(&sample(1000 * second + 200, 1, failed("queue_full")));
                progress.advance(milliseconds(1000 * (second + 1)), 4 * (second as usize + 1), None);
                let report = progress.report(&mut reported);
                sent += report.sent;
                sum.add(&report, milliseconds(1000 * (second + 1)));
            }
            assert_eq!(progress.report(&mut reported).latencies.count(), 0, "all was reported");
        }
        sum.advance(milliseconds(3000), sent, None);
        assert_eq!((sent, sum.ended, sum.in_flight, sum.failed, sum.errors["queue_full"]), (24, 18, 6, 6, 6));
        assert_eq!(sum.attainment_percent(), Some(100.0 * 6.0 / 18.0));
        assert_eq!(sum.percentiles().map(|latency| (latency.p50.round(), latency.max.round())), Some((200.0, 600.0)));
    }

    #[test]
    fn attainment_and_errors_leave_the_warm_up_out() {
        let mut progress = Progress::new(Duration::from_secs(1), Duration::from_millis(500));
        progress.record(&sample(100, 900, ANSWERED));
        progress.record(&sample(200, 1, failed("queue_full")));
        assert_eq!((progress.ended, progress.attainment_percent(), progress.failed), (2, None, 0));
        progress.record(&sample(1100, 100, ANSWERED));
        progress.record(&sample(1200, 1, failed("queue_full")));
        assert_eq!((progress.ended, progress.attainment_percent()), (4, Some(50.0)));
        assert_eq!((progress.failed, progress.errors["queue_full"]), (1, 1));
    }
}
