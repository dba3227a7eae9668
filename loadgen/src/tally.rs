//! The figures of a load, counted request by request. Its memory does not grow with the number of requests. Pure.

use crate::latencies::Latencies;
use crate::sample::{RequestOutcome, Sample};
use crate::send_delay::{self, SendDelays};
use crate::summary::RunSummary;
use crate::usage::ReplicaUsage;
use std::collections::BTreeMap;
use std::time::Duration;

/// Largest number of different error codes that are counted separately. A server may send a new code with each answer.
const MAX_CODES: usize = 100;

/// The code under which the failures are counted whose codes are not counted separately.
const OTHER_CODE: &str = "other";

/// The figures of a load so far. All times count from the start of the run.
#[derive(Debug, Clone)]
pub struct Tally {
    objective: Duration,
    /// The end of the run. Answers that come later do not count into the rates.
    end: Duration,
    offered: usize,
    within_objective: usize,
    labelled: usize,
    right: usize,
    answered_within_run: usize,
    good_within_run: usize,
    errors: BTreeMap<String, usize>,
    /// The latencies of the answered requests.
    latencies: Latencies,
    send_delays: Latencies,
    late_sends: usize,
    sent_bytes: u64,
    received_bytes: u64,
}

impl Tally {
    /// The figures of a run without requests, which ends at `end`.
    pub fn new(objective: Duration, end: Duration) -> Self {
        Self {
            objective,
            end,
            offered: 0,
            within_objective: 0,
            labelled: 0,
            right: 0,
            answered_within_run: 0,
            good_within_run: 0,
            errors: BTreeMap::new(),
            latencies: Latencies::default(),
            send_delays: Latencies::default(),
            late_sends: 0,
            sent_bytes: 0,
            received_bytes: 0,
        }
    }

    /// Counts a request that has ended.
    pub fn record(&mut self, sample: &Sample) {
        self.offered += 1;
        self.sent_bytes += u64::from(sample.sent_bytes);
        self.received_bytes += u64::from(sample.received_bytes);
        self.send_delays.record(sample.send_delay);
        self.late_sends += usize::from(sample.send_delay > send_delay::late_after(self.objective));
        match &sample.outcome {
            RequestOutcome::Answered { right } => {
                self.latencies.record(sample.latency);
                self.within_objective += usize::from(sample.is_within(self.objective));
                self.labelled += usize::from(right.is_some());
                self.right += usize::from(*right == Some(true));
                let is_within_run = sample.scheduled + sample.latency <= self.end;
                self.answered_within_run += usize::from(is_within_run);
                self.good_within_run += usize::from(is_within_run && sample.is_good(self.objective));
            }
            RequestOutcome::Failed { .. } | RequestOutcome::Unfinished => self.count_error(&sample.outcome),
        }
    }

    fn count_error(&mut self, outcome: &RequestOutcome) {
        let code = outcome.code().expect("only requests without an answer have errors");
        if let Some(count) = self.errors.get_mut(code) {
            *count += 1;
        } else if self.errors.len() < MAX_CODES {
            self.errors.insert(code.to_owned(), 1);
        } else {
            *self.errors.entry(OTHER_CODE.to_owned()).or_insert(0) += 1;
        }
    }

    /// Moves the end of the run to `end`, at which the user stopped it. Later answers do not count into the rates.
    pub fn stop(&mut self, end: Duration) {
        self.end = self.end.min(end);
    }

    /// Answers that came before the end of the run, within the objective, and are not known to be wrong.
    pub fn good_within_run(&self) -> usize {
        self.good_within_run
    }

    /// The latencies of the answered requests.
    pub fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    /// The latency of all offered requests at `quantile` (0 to 1), in milliseconds. A failed request counts as
    /// infinitely slow, so the result is `None` if the quantile lies among the failed requests.
    pub fn latency_of_offered(&self, quantile: f64) -> Option<f64> {
        self.latencies.at_quantile_of_offered(quantile, self.offered)
    }

    /// How late requests were sent.
    pub fn send_delays(&self) -> SendDelays {
        SendDelays::new(&self.send_delays, self.late_sends, self.offered, send_delay::late_after(self.objective))
    }

    /// The figures of a run from its start to its end.
    pub fn summary(&self, usage: Option<ReplicaUsage>) -> RunSummary {
        let failed = self.errors.values().sum::<usize>();
        let share = |part: usize, whole: usize| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let per_second = |count: usize| if self.end.is_zero() { 0.0 } else { count as f64 / self.end.as_secs_f64() };
        RunSummary {
            offered: self.offered,
            answered: self.offered - failed,
            answered_within_run: self.answered_within_run,
            failed,
            errors: self.errors.clone(),
            accuracy: (self.labelled > 0).then(|| share(self.right, self.labelled)),
            attainment: share(self.within_objective, self.offered),
            goodput_per_second: per_second(self.good_within_run),
            throughput_per_second: per_second(self.answered_within_run),
            latency_ms: self.latencies.percentiles(),
            offered_latency_ms: self.latencies.percentiles_of_offered(self.offered),
            sent_bytes: self.sent_bytes,
            received_bytes: self.received_bytes,
            usage,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::tests::{ANSWERED, failed, sample};

    const OBJECTIVE: Duration = Duration::from_millis(500);

    fn tally(samples: &[Sample], end: Duration) -> Tally {
        let mut tally = Tally::new(OBJECTIVE, end);
        samples.iter().for_each(|sample| tally.record(sample));
        tally
    }

    #[test]
    fn the_summary_counts_the_requests_of_a_run() {
        let run = [
            sample(100, 50, RequestOutcome::Answered { right: Some(true) }),
            sample(200, 60, RequestOutcome::Answered { right: Some(false) }),
            sample(900, 700, RequestOutcome::Answered { right: Some(true) }),
            sample(2100, 1, failed("queue_full")),
            sample(2400, 40, ANSWERED),
        ];
        let summary = tally(&run, Duration::from_secs(4)).summary(None);
        assert_eq!((summary.offered, summary.answered, summary.failed), (5, 4, 1));
        assert_eq!(summary.errors.get("queue_full"), Some(&1));
        assert_eq!(summary.attainment, 3.0 / 5.0);
        assert_eq!(summary.accuracy, Some(2.0 / 3.0));
        // Two answers are good: the right answer in time, and the answer to an image without a label.
        assert_eq!((summary.goodput_per_second, summary.throughput_per_second), (0.5, 1.0));
        assert_eq!((summary.sent_bytes, summary.received_bytes), (5000, 50));
        assert!(summary.latency_ms.is_some_and(|latency| (latency.max - 700.0).abs() < 1.0));
        assert_eq!(tally(&[], Duration::ZERO).summary(None), RunSummary::default());
    }

    #[test]
    fn goodput_and_throughput_count_the_answers_that_came_within_the_run() {
        let run = [sample(900, 50, ANSWERED), sample(900, 200, ANSWERED), sample(950, 700, ANSWERED)];
        let mut tally = tally(&run, Duration::from_secs(1));
        let summary = tally.summary(None);
        assert_eq!((summary.answered, summary.answered_within_run), (3, 1));
        assert_eq!((summary.goodput_per_second, summary.throughput_per_second), (1.0, 1.0));
        // After a stop, the run ends earlier.
        tally.stop(Duration::from_millis(960));
        tally.record(&sample(900, 70, ANSWERED));
        assert_eq!(tally.summary(None).answered_within_run, 1);
    }

    #[test]
    fn percentiles_of_all_offered_requests_count_failures_as_infinitely_slow() {
        let answered = (0..98).map(|at| sample(at, 100, ANSWERED));
        let failed = (0..2).map(|at| sample(at, 1, failed("queue_full")));
        let run: Vec<Sample> = answered.chain(failed).collect();
        let summary = tally(&run, Duration::from_secs(1)).summary(None);
        let offered = summary.offered_latency_ms;
        assert!(summary.latency_ms.is_some_and(|latency| latency.p99 < 101.0));
        assert!(offered.p95.is_some_and(|p95| p95 < 101.0));
        assert_eq!((offered.p99, offered.p999, offered.max), (None, None, None));
    }

    #[test]
    fn the_number_of_error_codes_is_bounded() {
        let mut tally = Tally::new(OBJECTIVE, Duration::from_secs(1));
        for code in 0..1000 {
            let outcome = RequestOutcome::Failed { code: format!("code_{code}").into() };
            tally.record(&sample(0, 1, outcome));
        }
        let summary = tally.summary(None);
        assert_eq!((summary.failed, summary.errors.len()), (1000, MAX_CODES + 1));
        assert_eq!(summary.errors[OTHER_CODE], 900);
    }
}
