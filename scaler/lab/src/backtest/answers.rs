//! How all requests of the period were answered, from the counts of the dispatchers at both ends of each span. Pure.

use super::counter_history::CountingSpan;
use law::histogram::{Histogram, increase};
use readings::snapshot::{FigureFault, MOST_COUNTED, MetricSample, histogram, named, sane};
use service::wire::{Code, metric};

/// The codes of answers to requests that no replica could answer. Such an answer may come quickly, but the request has
/// not met the objective.
const FAILED: [Code; 3] = [Code::ReplicaFailed, Code::Poison, Code::Internal];

/// Work, latencies and failures: of one dispatcher since its start, or of all dispatchers in the period.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RecordedAnswers {
    /// The work of the requests, in seconds.
    pub work: Histogram,
    /// Latencies: from acceptance to answer, in seconds.
    pub latency: Histogram,
    /// The requests without an answer; `None` if they were not recorded.
    pub unanswered: Option<Unanswered>,
}

/// Numbers of requests without an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Unanswered {
    /// The number of requests that no replica could answer.
    pub failed: f64,
    /// The number of requests whose deadline passed.
    pub expired: f64,
}

impl RecordedAnswers {
    /// The answers of one dispatcher since its start, from its samples. Samples of other metrics are ignored.
    ///
    /// # Errors
    /// If a number is implausible, or a histogram contradicts itself.
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
            work: histogram(samples, metric::REPLICA_WORK)?,
            latency: histogram(samples, metric::REQUEST_DURATION)?,
            unanswered,
        })
    }

    /// Adds the answers of one dispatcher in `span`. `first` and `last` are the dispatcher's counts at the first and
    /// the last point of the span.
    pub fn add(&mut self, span: CountingSpan, first: &Self, last: &Self) {
        // `checked_since` is `None` if counts are lower or buckets differ. Then the dispatcher was upgraded between two
        // points, and its counts began at zero.
        let since = |last: &Histogram, first| {
            let step = if span.is_from_start { None } else { last.checked_since(first) };
            step.unwrap_or_else(|| last.clone())
        };
        self.work.add(&since(&last.work, &first.work));
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
            RecordedAnswers::of(&samples),
            Ok(RecordedAnswers {
                latency: histogram(&[(0.5, 8.0), (INFINITY, 9.0)], 3.0),
                ..RecordedAnswers::default()
            })
        );
        for (code, count) in
            [("ok", 90.0), ("replica_failed", 3.0), ("poison", 1.0), ("deadline_exceeded", 5.0), ("overloaded", 7.0)]
        {
            samples.push(sample(metric::REQUESTS, Some(("code", code)), count));
        }
        let found = RecordedAnswers::of(&samples).expect("good");
        assert_eq!(found.unanswered, Some(Unanswered { failed: 4.0, expired: 5.0 }));
        samples.push(sample(metric::REQUESTS, Some(("code", "internal")), f64::NAN));
        assert!(matches!(RecordedAnswers::of(&samples), Err(FigureFault::Number { .. })));
        let torn = durations(metric::REPLICA_WORK, &[("0.5", 8.0), ("+Inf", 7.0)], 3.0);
        assert!(matches!(RecordedAnswers::of(&torn), Err(FigureFault::Histogram { .. })));
    }

    fn answers(latency: Histogram, unanswered: Option<(f64, f64)>) -> RecordedAnswers {
        let unanswered = unanswered.map(|(failed, expired)| Unanswered { failed, expired });
        RecordedAnswers { work: latency.clone(), latency, unanswered }
    }

    #[test]
    fn answers_of_spans_add_up() {
        let old = |count: f64| histogram(&[(0.1, count), (0.5, count), (INFINITY, count)], count);
        let new = |count: f64| histogram(&[(0.2, 0.0), (0.5, count), (INFINITY, count)], count);
        let span = |is_from_start| CountingSpan { first: 0, last: 9, is_from_start };
        for (what, spans, expected) in [
            (
                "counts from before the span are ignored",
                vec![(false, answers(old(5.0), Some((1.0, 2.0))), answers(old(9.0), Some((1.0, 4.0))))],
                answers(old(4.0), Some((0.0, 2.0))),
            ),
            (
                "if a process starts within the period, all its counts belong to the span",
                vec![(true, answers(old(5.0), Some((1.0, 2.0))), answers(old(9.0), Some((1.0, 4.0))))],
                answers(old(9.0), Some((1.0, 4.0))),
            ),
            (
                "a series that is missing at the first point counted nothing before it",
                vec![(false, RecordedAnswers::default(), answers(old(3.0), Some((2.0, 0.0))))],
                answers(old(3.0), Some((2.0, 0.0))),
            ),
            (
                "spans with different buckets keep the bounds that both have",
                vec![
                    (false, answers(old(5.0), None), answers(old(9.0), None)),
                    (true, answers(new(1.0), None), answers(new(7.0), None)),
                ],
                answers(histogram(&[(0.5, 11.0), (INFINITY, 11.0)], 11.0), None),
            ),
            (
                "lower counts or other buckets within a span count from zero",
                vec![(false, answers(old(5.0), Some((3.0, 3.0))), answers(new(7.0), Some((2.0, 4.0))))],
                answers(new(7.0), Some((2.0, 1.0))),
            ),
        ] {
            let mut sum = RecordedAnswers::default();
            for (is_from_start, first, last) in &spans {
                sum.add(span(*is_from_start), first, last);
            }
            assert_eq!(sum, expected, "{what}");
        }
    }
}
