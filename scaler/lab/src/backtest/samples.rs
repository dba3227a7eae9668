//! The samples that Prometheus has recorded of each dispatcher and of the scaler at each point of a period. Pure.

use super::period::Period;
use super::range::RecordedSeries;
use readings::prometheus::{NAME, endpoint};
use readings::snapshot::MOST_COUNTED;
use service::wire::metric;
use std::collections::{BTreeMap, BTreeSet};

/// The metrics that are read at every point.
pub const NAMES: [&str; 6] = [
    metric::ENQUEUED,
    metric::SHED,
    metric::CAPACITY,
    metric::REPLICAS,
    metric::DESIRED_REPLICAS,
    metric::READY_REPLICAS,
];

/// The figures of one dispatcher at one point. Counters count since the dispatcher's start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DispatcherSample {
    /// The number of requests that were admitted; `None` if it was not recorded.
    pub enqueued: Option<f64>,
    /// The number of requests that were refused. It is 0 without a series, since the series appears with the first
    /// refusal.
    pub shed: f64,
    /// The number of slots of all replicas in rotation; `None` if it was not recorded.
    pub capacity: Option<f64>,
    /// The number of replicas in rotation; `None` if it was not recorded.
    pub ready: Option<f64>,
}

/// A map from the number of a point to the value at that point. Points without a value are left out.
pub type PointMap<T> = BTreeMap<usize, T>;

/// The recorded samples of a period.
#[derive(Debug)]
pub struct RecordedSamples {
    period: Period,
    /// The samples of each dispatcher. The key is the labels that identify the dispatcher.
    pub dispatchers: BTreeMap<String, PointMap<DispatcherSample>>,
    desired: PointMap<f64>,
    ready: PointMap<f64>,
}

/// The numbers of replicas at one point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReplicaCounts {
    /// The number of desired replicas.
    pub desired: f64,
    /// The number of ready replicas.
    pub ready: f64,
}

/// The reason why recorded samples cannot be used.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Unusable {
    /// A value is negative, infinite, not a number, or too large.
    #[error(
        "{series} was {value} at {at}, which is not between 0 and {MOST_COUNTED:.0e}; leave out that time with --since \
         or --until"
    )]
    Number {
        /// The name and the labels of the series.
        series: String,
        /// The recorded value.
        value: f64,
        /// The time of the value.
        at: String,
    },
    /// Two series exist where only one is possible.
    #[error(
        "{series} was recorded more than once at {at}, perhaps because several Prometheus servers scrape the \
         dispatchers; select the series of one server with --prometheus-selector"
    )]
    Duplicate {
        /// The name and the labels of the series.
        series: String,
        /// The time of the second value.
        at: String,
    },
}

impl RecordedSamples {
    /// An empty set of samples for this period.
    pub fn new(period: Period) -> Self {
        Self { period, dispatchers: BTreeMap::new(), desired: BTreeMap::new(), ready: BTreeMap::new() }
    }

    /// Adds the answer to a query for [`NAMES`]. `first` is the number of the answer's first point.
    ///
    /// # Errors
    /// If a value is implausible, or a series exists twice.
    pub fn enter(&mut self, first: usize, answer: &[RecordedSeries]) -> Result<(), Unusable> {
        let mut seen = BTreeSet::new();
        for RecordedSeries { metric: labels, values } in answer {
            let values: Vec<(usize, f64)> = values.iter().map(|&(point, value)| (first + point, value)).collect();
            if let Some(&(index, value)) = values.iter().find(|(_, value)| !(0.0..=MOST_COUNTED).contains(value)) {
                return Err(Unusable::Number {
                    series: series_name(labels),
                    value,
                    at: self.period.timestamp(index).to_string(),
                });
            }
            match labels.get(NAME).map(String::as_str) {
                Some(metric::DESIRED_REPLICAS) => enter_highest(&mut self.desired, &values),
                Some(metric::READY_REPLICAS) => enter_highest(&mut self.ready, &values),
                name => {
                    let is_new = seen.insert(labels);
                    let samples = self.dispatchers.entry(endpoint(labels)).or_default();
                    for (index, value) in values {
                        let is_first = samples.entry(index).or_default().enter(name, labels, value);
                        if !is_first || !is_new {
                            let at = self.period.timestamp(index).to_string();
                            return Err(Unusable::Duplicate { series: series_name(labels), at });
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The numbers of replicas at the points at which they are known. They come from the scaler, or from the
    /// dispatchers where the scaler has none.
    pub fn replicas(&self) -> PointMap<ReplicaCounts> {
        let mut ready: PointMap<f64> = BTreeMap::new();
        for (&index, sample) in self.dispatchers.values().flatten() {
            if let Some(seen) = sample.ready {
                // The dispatchers share the replicas. A sum would count each replica several times.
                let highest = ready.entry(index).or_insert(seen);
                *highest = highest.max(seen);
            }
        }
        ready.extend(&self.ready);
        let replicas = ready.into_iter().map(|(index, ready)| {
            let desired = self.desired.get(&index).copied().unwrap_or(ready);
            (index, ReplicaCounts { desired, ready })
        });
        replicas.collect()
    }

    /// The number of requests that a replica holds at once; `None` if it was not recorded. It is the median of capacity
    /// ÷ replicas over all points. At a single point the ratio may be wrong, since the two do not change at the same
    /// instant.
    pub fn slots(&self) -> Option<u32> {
        let samples = self.dispatchers.values().flat_map(BTreeMap::values);
        let mut ratios: Vec<f64> = samples
            .filter_map(|sample| Some(sample.capacity? / sample.ready?))
            .filter(|ratio| ratio.is_finite() && *ratio > 0.0)
            .collect();
        if ratios.is_empty() {
            return None;
        }
        let middle = ratios.len() / 2;
        let (_, median, _) = ratios.select_nth_unstable_by(middle, f64::total_cmp);
        Some(median.round().clamp(1.0, f64::from(u32::MAX)) as u32)
    }
}

impl DispatcherSample {
    /// Adds the value of a series to the sample. Returns false if another series has already given this value.
    fn enter(&mut self, name: Option<&str>, labels: &BTreeMap<String, String>, value: f64) -> bool {
        let before = match name {
            Some(metric::ENQUEUED) => self.enqueued.replace(value),
            Some(metric::CAPACITY) => self.capacity.replace(value),
            Some(metric::REPLICAS) if labels.get("state").is_some_and(|state| state == "ready") => {
                self.ready.replace(value)
            }
            Some(metric::SHED) => {
                self.shed += value;
                None
            }
            _ => None,
        };
        before.is_none()
    }
}

/// Adds the values of a scaler's gauge. Every scaler of a target exports it. The highest value counts, since a scaler
/// that is not the leader may export a lower one.
fn enter_highest(gauge: &mut PointMap<f64>, values: &[(usize, f64)]) {
    for &(index, value) in values {
        let highest = gauge.entry(index).or_insert(value);
        *highest = highest.max(value);
    }
}

/// The name and the labels of a series, for a message.
fn series_name(labels: &BTreeMap<String, String>) -> String {
    format!("{}{}", labels.get(NAME).map_or("", String::as_str), endpoint(labels))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn series(name: &str, labels: &[(&str, &str)], values: &[(usize, f64)]) -> RecordedSeries {
        let labels = labels.iter().copied().chain([(NAME, name)]);
        RecordedSeries {
            metric: labels.map(|(name, value)| (name.into(), value.into())).collect(),
            values: values.to_vec(),
        }
    }

    const PERIOD: Period = Period { start: 1_800_000_000, step: 15, steps: 100 };

    fn samples(answer: &[RecordedSeries]) -> Result<RecordedSamples, Unusable> {
        let mut samples = RecordedSamples::new(PERIOD);
        samples.enter(0, answer).map(|()| samples)
    }

    #[test]
    fn series_become_samples_of_each_dispatcher() {
        let (a, b) = (("instance", "a:1"), ("instance", "b:1"));
        let mut found = samples(&[
            series(metric::ENQUEUED, &[a], &[(0, 5.0), (2, 7.0)]),
            series(metric::SHED, &[a, ("reason", "length")], &[(2, 1.0)]),
            series(metric::SHED, &[a, ("reason", "overloaded")], &[(2, 3.0)]),
            series(metric::CAPACITY, &[a], &[(2, 8.0)]),
            series(metric::REPLICAS, &[a, ("state", "ejected")], &[(2, 9.0)]),
            series(metric::REPLICAS, &[a, ("state", "ready")], &[(2, 2.0)]),
            series(metric::ENQUEUED, &[b], &[(2, 1e9)]),
        ])
        .expect("good");
        found.enter(50, &[series(metric::ENQUEUED, &[b], &[(0, 1e9)])]).expect("good");
        let (a, b) = (&found.dispatchers["{instance=\"a:1\"}"], &found.dispatchers["{instance=\"b:1\"}"]);
        assert_eq!(a[&0], DispatcherSample { enqueued: Some(5.0), ..DispatcherSample::default() });
        assert_eq!(a[&2], DispatcherSample { enqueued: Some(7.0), shed: 4.0, capacity: Some(8.0), ready: Some(2.0) });
        assert_eq!(b.keys().copied().collect::<Vec<_>>(), [2, 50]);
    }

    #[test]
    fn replicas_come_from_the_scaler_or_else_from_the_dispatchers() {
        let ready = |instance, values: &[(usize, f64)]| {
            series(metric::REPLICAS, &[("instance", instance), ("state", "ready")], values)
        };
        let found = samples(&[
            ready("a", &[(0, 1.0), (1, 2.0), (2, 2.0)]),
            ready("b", &[(1, 3.0)]),
            series(metric::READY_REPLICAS, &[("instance", "s")], &[(2, 4.0), (3, 4.0)]),
            series(metric::READY_REPLICAS, &[("instance", "t")], &[(2, 5.0)]),
            series(metric::DESIRED_REPLICAS, &[("instance", "s")], &[(3, 6.0)]),
        ])
        .expect("good");
        let replicas: Vec<_> =
            found.replicas().into_iter().map(|(at, counts)| (at, counts.desired, counts.ready)).collect();
        assert_eq!(replicas, [(0, 1.0, 1.0), (1, 3.0, 3.0), (2, 5.0, 5.0), (3, 6.0, 4.0)]);
    }

    #[test]
    fn slots_are_the_median_of_all_points() {
        let slots = |points: &[(f64, f64)]| {
            let numbered =
                |which: fn(&(f64, f64)) -> f64| -> Vec<(usize, f64)> { points.iter().map(which).enumerate().collect() };
            let found = samples(&[
                series(metric::CAPACITY, &[], &numbered(|point| point.0)),
                series(metric::REPLICAS, &[("state", "ready")], &numbered(|point| point.1)),
            ]);
            found.expect("good").slots()
        };
        assert_eq!(slots(&[]), None);
        assert_eq!(slots(&[(0.0, 0.0), (4.0, 0.0), (0.0, 4.0)]), None);
        assert_eq!(slots(&[(8.0, 2.0), (8.0, 3.0), (12.0, 3.0), (4.0, 1.0)]), Some(4));
        assert_eq!(slots(&[(1.0, 4.0)]), Some(1));
    }

    #[test]
    fn errors_name_the_implausible_series_and_its_time() {
        let a = ("instance", "a:1");
        for value in [f64::NAN, -1.0, f64::INFINITY, 1e17] {
            let error = samples(&[series(metric::SHED, &[a], &[(0, 1.0), (4, value)])]).expect_err("absurd");
            let text = error.to_string();
            assert!(text.contains("dispatcher_shed_total{instance=\"a:1\"}") && text.contains("08:01:00Z"), "{text}");
        }
        for (one, other) in [(&[a][..], &[a][..]), (&[a, ("replica", "x")], &[a, ("replica", "y")])] {
            let twice = [one, other].map(|labels| series(metric::ENQUEUED, labels, &[(3, 1.0)]));
            let error = samples(&twice).expect_err("twice").to_string();
            assert!(error.contains("more than once at 2027-01-15T08:00:45Z"), "{error}");
        }
        let shed = series(metric::SHED, &[a, ("reason", "length")], &[(3, 1.0)]);
        assert!(matches!(samples(&[shed.clone(), shed]), Err(Unusable::Duplicate { .. })));
    }
}
