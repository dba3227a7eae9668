//! PURE: the counts of dispatchers at both ends of each span → how all requests of the period were answered.

use super::counter_history::Span;
use law::histogram::{Histogram, increase};
use scaler::observe::snapshot::{FigureFault, MOST_COUNTED, MetricSample, histogram, named, sane};
use service::wire::{Code, metric};

/// Codes of failures. They count as not in time even if they came quickly; an expired request is late by itself.
const FAILED: [Code; 3] = [Code::ReplicaFailed, Code::Poison, Code::Internal];

/// Latencies and failures, of one dispatcher since its start or of all dispatchers in the period.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answers {
    /// Times that a replica worked for an answer, seconds.
    pub service: Histogram,
    /// Times from accepted to answered, seconds.
    pub latency: Histogram,
    /// Requests without an answer; `None` where they were not recorded.
    pub unanswered: Option<Unanswered>,
}

/// Numbers of requests without an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Unanswered {
    /// Requests that no replica could answer.
    pub failed: f64,
    /// Requests whose deadline passed.
    pub expired: f64,
}

impl Answers {
    /// The answers that all samples of one dispatcher tell. Samples of other metrics are ignored.
    ///
    /// # Errors
    /// When a number is not plausible, or a histogram contradicts itself.
    pub fn of(samples: &[MetricSample]) -> Result<Self, FigureFault> {
        let mut unanswered = None;
        for sample in named(samples, metric::REQUESTS) {
            let Unanswered { failed, expired } = unanswered.get_or_insert_default();
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
            unanswered,
        })
    }

    /// Adds the answers of one dispatcher in `span`. `first` and `last` are its counts at the ends of the span.
    pub fn add(&mut self, span: Span, first: &Self, last: &Self) {
        // `since` also covers an upgrade between two points, after which counts are lower or buckets differ.
        let since = |last: &Histogram, first| {
            let step = if span.is_from_start { None } else { last.checked_since(first) };
            step.unwrap_or_else(|| last.clone())
        };
        self.service.add(&since(&last.service, &first.service));
        self.latency.add(&since(&last.latency, &first.latency));
        if let Some(last) = last.unanswered {
            let first = first.unanswered.filter(|_| !span.is_from_start).unwrap_or_default();
            let sum = self.unanswered.get_or_insert_default();
            sum.failed += increase(first.failed, last.failed);
            sum.expired += increase(first.expired, last.expired);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const INFINITY: f64 = f64::INFINITY;

    fn sample(name: &str, label: Option<(&str, &str)>, value: f64) -> MetricSample {
        let labels = label.map(|(name, value)| (name.into(), value.into()));
        MetricSample { name: name.into(), labels: labels.into_iter().collect(), value }
    }

    fn durations(name: &str, buckets: &[(&str, f64)], sum: f64) -> Vec<MetricSample> {
        let bucket = |&(bound, count): &(&str, f64)| sample(&format!("{name}_bucket"), Some(("le", bound)), count);
        buckets.iter().map(bucket).chain([sample(&format!("{name}_sum"), None, sum)]).collect()
    }

    fn histogram(buckets: &[(f64, f64)], sum: f64) -> Histogram {
        Histogram { buckets: buckets.to_vec(), sum }
    }

    #[test]
    fn samples_become_histograms_and_counts() {
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
        assert_eq!(found.unanswered, Some(Unanswered { failed: 4.0, expired: 5.0 }));
        samples.push(sample(metric::REQUESTS, Some(("code", "internal")), f64::NAN));
        assert!(matches!(Answers::of(&samples), Err(FigureFault::Number { .. })));
        let torn = durations(metric::REPLICA_WORK, &[("0.5", 8.0), ("+Inf", 7.0)], 3.0);
        assert!(matches!(Answers::of(&torn), Err(FigureFault::Histogram { .. })));
    }

    fn answers(latency: Histogram, unanswered: Option<(f64, f64)>) -> Answers {
        let unanswered = unanswered.map(|(failed, expired)| Unanswered { failed, expired });
        Answers { service: latency.clone(), latency, unanswered }
    }

    #[test]
    fn answers_of_spans_add_up() {
        let old = |count: f64| histogram(&[(0.1, count), (0.5, count), (INFINITY, count)], count);
        let new = |count: f64| histogram(&[(0.2, 0.0), (0.5, count), (INFINITY, count)], count);
        let span = |is_from_start| Span { first: 0, last: 9, is_from_start };
        for (what, spans, expected) in [
            (
                "counts from before the span are ignored",
                vec![(false, answers(old(5.0), Some((1.0, 2.0))), answers(old(9.0), Some((1.0, 4.0))))],
                answers(old(4.0), Some((0.0, 2.0))),
            ),
            (
                "counts from a start within the period belong to the span",
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
                "an upgrade between two points counts from zero",
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
