//! The figures of a load, counted request by request. Its memory does not grow with the number of requests. Pure.

use crate::latencies::Latencies;
use crate::sample::{RequestOutcome, Sample};
use crate::send_delay::{self, SendDelays};
use crate::summary::RunSummary;
use crate::usage::ReplicaUsage;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Largest number of different error codes that are counted separately. A server may send a new code with each answer.
const MAX_CODES: usize = 100;

/// The code under which the failures are counted whose codes are not counted separately.
const OTHER_CODE: &str = "other";

/// Largest number of requests of a tally that is added to another.
const MAX_REQUESTS: usize = 1 << 48;

/// Longest error code of a tally that is added to another, in bytes.
const MAX_CODE_BYTES: usize = 200;

/// The reason why a tally cannot be added to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Contradiction(&'static str);

/// The figures of a load so far. All times count from the start of the run.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
            RequestOutcome::Failed { .. } | RequestOutcome::Unfinished => {
                let code = sample.outcome.code().expect("only requests without an answer have errors");
                self.count_errors(code, 1);
            }
        }
    }

    fn count_errors(&mut self, code: &str, number: usize) {
        if let Some(count) = self.errors.get_mut(code) {
            *count += number;
        } else if self.errors.len() < MAX_CODES {
            self.errors.insert(code.to_owned(), number);
        } else {
            *self.errors.entry(OTHER_CODE.to_owned()).or_insert(0) += number;
        }
    }

    /// Adds the figures of `part`, another part of the same load. The sum of all parts is the tally of the load. The
    /// end of the run stays unchanged.
    ///
    /// # Errors
    /// If `part` has another objective, or its figures contradict each other. Nothing is added then.
    pub fn add(&mut self, part: &Self) -> Result<(), Contradiction> {
        part.check(self.objective)?;
        self.offered += part.offered;
        self.within_objective += part.within_objective;
        self.labelled += part.labelled;
        self.right += part.right;
        self.answered_within_run += part.answered_within_run;
        self.good_within_run += part.good_within_run;
        for (code, &number) in &part.errors {
            self.count_errors(code, number);
        }
        self.latencies.add(&part.latencies);
        self.send_delays.add(&part.send_delays);
        self.late_sends += part.late_sends;
        self.sent_bytes += part.sent_bytes;
        self.received_bytes += part.received_bytes;
        Ok(())
    }

    /// Checks the figures, which may come from another process.
    fn check(&self, objective: Duration) -> Result<(), Contradiction> {
        let ensure = |holds: bool, message| if holds { Ok(()) } else { Err(Contradiction(message)) };
        ensure(self.objective == objective, "its objective is another")?;
        ensure(self.offered <= MAX_REQUESTS, "it has more requests than any load")?;
        let codes = self.errors.keys();
        let is_code = |code: &String| code.len() <= MAX_CODE_BYTES && !code.contains(char::is_control);
        ensure(codes.len() <= MAX_CODES + 1 && codes.into_iter().all(is_code), "its error codes are no error codes")?;
        let failed = self.errors.values().try_fold(0_usize, |sum, &number| sum.checked_add(number));
        let answered = failed.and_then(|failed| self.offered.checked_sub(failed));
        let answered = answered.ok_or(Contradiction("it has more errors than requests"))?;
        let parts_hold = self.latencies.count() == answered as u64
            && self.send_delays.count() == self.offered as u64
            && self.within_objective <= answered
            && self.labelled <= answered
            && self.right <= self.labelled
            && self.answered_within_run <= answered
            && self.good_within_run <= self.answered_within_run
            && self.late_sends <= self.offered
            && self.sent_bytes.max(self.received_bytes) <= self.offered as u64 * u64::from(u32::MAX);
        ensure(parts_hold, "its counts contradict each other")
    }

    /// Number of requests that have ended.
    pub fn offered(&self) -> usize {
        self.offered
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
    use proptest::prelude::*;

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

    /// Some requests of all outcomes.
    fn samples() -> impl Strategy<Value = Vec<Sample>> {
        let outcome = prop_oneof![
            Just(ANSWERED),
            Just(RequestOutcome::Answered { right: Some(true) }),
            Just(RequestOutcome::Answered { right: Some(false) }),
            Just(RequestOutcome::Unfinished),
            (0..5_u8).prop_map(|code| RequestOutcome::Failed { code: format!("code_{code}").into() }),
        ];
        let one = (0..9000_u64, 0..3000_u64, 0..20_u64, outcome).prop_map(|(at, latency, delay, outcome)| Sample {
            send_delay: Duration::from_millis(delay),
            ..sample(at, latency, outcome)
        });
        prop::collection::vec(one, 0..200)
    }

    proptest! {
        #[test]
        fn parts_that_were_sent_as_json_add_up_to_the_whole(all in samples(), count in 1..5_usize) {
            let end = Duration::from_secs(8);
            let whole = tally(&all, end);
            let mut sum = tally(&[], end);
            for part in 0..count {
                let own: Vec<Sample> = all.iter().skip(part).step_by(count).cloned().collect();
                let sent = serde_json::to_string(&tally(&own, end)).expect("JSON");
                let received: Tally = serde_json::from_str(&sent).expect("a tally");
                sum.add(&received).expect("consistent");
            }
            prop_assert_eq!(sum.summary(None), whole.summary(None));
            prop_assert_eq!(sum.send_delays(), whole.send_delays());
            prop_assert!(sum.latencies().counts().eq(whole.latencies().counts()));
        }
    }

    #[test]
    fn a_tally_whose_figures_contradict_each_other_is_not_added() {
        let good = tally(&[sample(0, 10, ANSWERED), sample(0, 1, failed("x"))], Duration::from_secs(1));
        let bad: [fn(&mut Tally); 9] = [
            |tally| tally.objective = Duration::from_secs(9),
            |tally| tally.offered = usize::MAX,
            |tally| tally.offered = 3,
            |tally| tally.errors.extend([("y".to_owned(), usize::MAX)]),
            |tally| tally.errors.extend([("\u{1b}[2J".to_owned(), 0)]),
            |tally| tally.errors.extend((0..200).map(|code| (code.to_string(), 0))),
            |tally| tally.right = 1,
            |tally| tally.late_sends = 3,
            |tally| tally.sent_bytes = u64::MAX,
        ];
        let mut sum = tally(&[], Duration::from_secs(1));
        for (index, change) in bad.into_iter().enumerate() {
            let mut changed = good.clone();
            change(&mut changed);
            assert!(sum.add(&changed).is_err(), "{index}");
        }
        assert_eq!(sum.offered(), 0);
        assert_eq!(sum.add(&good), Ok(()));
        assert_eq!(sum.offered(), 2);
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
