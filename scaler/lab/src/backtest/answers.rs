//! PURE: what dispatchers had counted at both ends of each span → how all requests of the period were answered.

use super::account::Span;
use law::histogram::{Histogram, increase};
use scaler::observe::snapshot::{Fault, MOST_COUNTED, Sample, histogram, named, sane};
use service::wire::{Code, metric};

/// Outcomes that were no answer, however fast; a deadline that passed is late by itself.
const FAILED: [Code; 3] = [Code::ReplicaFailed, Code::Poison, Code::Internal];

/// Answers, of one dispatcher since its start or of all in the period.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answers {
    /// Dispatched → answered, seconds.
    pub service: Histogram,
    /// Accepted → answered, seconds.
    pub latency: Histogram,
    /// By what became of them; nothing where that was not recorded.
    pub outcomes: Option<Outcomes>,
}

/// Requests that got no answer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Outcomes {
    /// No replica could answer.
    pub failed: f64,
    /// The deadline passed.
    pub expired: f64,
}

impl Answers {
    /// What all samples of one dispatcher say; those of other metrics are ignored.
    ///
    /// # Errors
    /// When they contradict each other or reason.
    pub fn of(samples: &[Sample]) -> Result<Self, Fault> {
        let mut outcomes = None;
        for sample in named(samples, metric::REQUESTS) {
            let Outcomes { failed, expired } = outcomes.get_or_insert_default();
            let count = sane(sample, MOST_COUNTED)?;
            match sample.labels.get("code") {
                Some(code) if code == Code::DeadlineExceeded.as_str() => *expired += count,
                Some(code) if FAILED.iter().any(|failed| code == failed.as_str()) => *failed += count,
                _ => {}
            }
        }
        Ok(Self {
            service: histogram(samples, metric::REPLICA_WORK)?,
            latency: histogram(samples, metric::REQUEST_DURATION)?,
            outcomes,
        })
    }

    /// Adds what one dispatcher answered in `span`, at whose ends it had counted `first` and `last`.
    pub fn add(&mut self, span: Span, first: &Self, last: &Self) {
        // What went back, or has other buckets now, started again unseen.
        let since = |last: &Histogram, first| if span.is_from_start { last.clone() } else { last.since(first) };
        self.service.add(&since(&last.service, &first.service));
        self.latency.add(&since(&last.latency, &first.latency));
        if let Some(last) = last.outcomes {
            let first = first.outcomes.filter(|_| !span.is_from_start).unwrap_or_default();
            let sum = self.outcomes.get_or_insert_default();
            sum.failed += increase(first.failed, last.failed);
            sum.expired += increase(first.expired, last.expired);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const INFINITY: f64 = f64::INFINITY;

    fn sample(name: &str, label: Option<(&str, &str)>, value: f64) -> Sample {
        let labels = label.map(|(name, value)| (name.into(), value.into()));
        Sample { name: name.into(), labels: labels.into_iter().collect(), value }
    }

    fn durations(name: &str, buckets: &[(&str, f64)], sum: f64) -> Vec<Sample> {
        let bucket = |&(bound, count): &(&str, f64)| sample(&format!("{name}_bucket"), Some(("le", bound)), count);
        buckets.iter().map(bucket).chain([sample(&format!("{name}_sum"), None, sum)]).collect()
    }

    fn histogram(buckets: &[(f64, f64)], sum: f64) -> Histogram {
        Histogram { buckets: buckets.to_vec(), sum }
    }

    #[test]
    fn samples_become_histograms_and_outcomes() {
        let mut samples = durations(metric::REQUEST_DURATION, &[("0.5", 8.0), ("+Inf", 9.0)], 3.0);
        assert_eq!(
            Answers::of(&samples),
            Ok(Answers { latency: histogram(&[(0.5, 8.0), (INFINITY, 9.0)], 3.0), ..Answers::default() })
        );
        for (code, count) in
            [("ok", 90.0), ("replica_failed", 3.0), ("poison", 1.0), ("deadline_exceeded", 5.0), ("overloaded", 7.0)]
        {
            samples.push(sample(metric::REQUESTS, Some(("code", code)), count));
        }
        let found = Answers::of(&samples).expect("good");
        assert_eq!(found.outcomes, Some(Outcomes { failed: 4.0, expired: 5.0 }));
        samples.push(sample(metric::REQUESTS, Some(("code", "internal")), f64::NAN));
        assert!(matches!(Answers::of(&samples), Err(Fault::Number { .. })));
        let torn = durations(metric::REPLICA_WORK, &[("0.5", 8.0), ("+Inf", 7.0)], 3.0);
        assert!(matches!(Answers::of(&torn), Err(Fault::Histogram { .. })));
    }

    fn answers(latency: Histogram, outcomes: Option<(f64, f64)>) -> Answers {
        let outcomes = outcomes.map(|(failed, expired)| Outcomes { failed, expired });
        Answers { service: latency.clone(), latency, outcomes }
    }

    #[test]
    fn spans_add_up() {
        let old = |count: f64| histogram(&[(0.1, count), (0.5, count), (INFINITY, count)], count);
        let new = |count: f64| histogram(&[(0.2, 0.0), (0.5, count), (INFINITY, count)], count);
        let span = |is_from_start| Span { first: 0, last: 9, is_from_start };
        for (what, spans, expected) in [
            (
                "what was there before is not counted",
                vec![(false, answers(old(5.0), Some((1.0, 2.0))), answers(old(9.0), Some((1.0, 4.0))))],
                answers(old(4.0), Some((0.0, 2.0))),
            ),
            (
                "but for one that started in between it is",
                vec![(true, answers(old(5.0), Some((1.0, 2.0))), answers(old(9.0), Some((1.0, 4.0))))],
                answers(old(9.0), Some((1.0, 4.0))),
            ),
            (
                "series appear with their first sample",
                vec![(false, Answers::default(), answers(old(3.0), Some((2.0, 0.0))))],
                answers(old(3.0), Some((2.0, 0.0))),
            ),
            (
                "an upgrade brings other buckets",
                vec![
                    (false, answers(old(5.0), None), answers(old(9.0), None)),
                    (true, answers(new(1.0), None), answers(new(7.0), None)),
                ],
                answers(histogram(&[(0.5, 11.0), (INFINITY, 11.0)], 11.0), None),
            ),
            (
                "an upgrade that nobody saw counts from zero",
                vec![(false, answers(old(5.0), Some((3.0, 3.0))), answers(new(7.0), Some((2.0, 4.0))))],
                answers(new(7.0), Some((2.0, 1.0))),
            ),
        ] {
            let mut sum = Answers::default();
            for (is_from_start, first, last) in &spans {
                sum.add(span(*is_from_start), first, last);
            }
            assert_eq!(sum, expected, "{what}");
        }
    }
}
