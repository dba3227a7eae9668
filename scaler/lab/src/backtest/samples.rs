//! PURE: the samples that Prometheus recorded of each dispatcher and of the scaler at each point of a period.

use super::period::Period;
use super::range::RecordedSeries;
use scaler::observe::prometheus::{NAME, endpoint};
use scaler::observe::snapshot::MOST_COUNTED;
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

/// One dispatcher at one point. Counters count since the dispatcher's start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DispatcherSample {
    /// Requests that were admitted.
    pub enqueued: Option<f64>,
    /// Requests that were refused; 0 where there is no series, since it appears with the first refusal.
    pub shed: f64,
    /// Requests that all replicas in rotation hold at once.
    pub capacity: Option<f64>,
    /// Replicas in rotation.
    pub ready: Option<f64>,
}

/// Values by the number of the point.
pub type PointMap<T> = BTreeMap<usize, T>;

/// All samples of a period.
#[derive(Debug)]
pub struct RecordedSamples {
    period: Period,
    /// Samples of each dispatcher, by the labels that identify it.
    pub dispatchers: BTreeMap<String, PointMap<DispatcherSample>>,
    desired: PointMap<f64>,
    ready: PointMap<f64>,
}

/// Numbers of replicas at one point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReplicaCounts {
    /// Replicas that were asked for.
    pub desired: f64,
    /// Replicas that served.
    pub ready: f64,
}

/// A reason why an answer cannot be used.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Unusable {
    /// A value is negative, infinite, not a number, or too large.
    #[error(
        "{series} was {value} at {at}, expected 0 to {MOST_COUNTED:.0e}; leave that time out by --since or --until"
    )]
    Number {
        /// Name and labels of the series.
        series: String,
        /// The value as it was recorded.
        value: f64,
        /// Time of the value.
        at: String,
    },
    /// There are two series of which there can be only one.
    #[error(
        "{series} is there more than once at {at}; do several Prometheuses scrape the dispatchers? Name one by \
         --prometheus-selector"
    )]
    Duplicate {
        /// Name and labels of the series.
        series: String,
        /// Time of the second value.
        at: String,
    },
}

impl RecordedSamples {
    /// Makes an empty set for this period.
    pub fn new(period: Period) -> Self {
        Self { period, dispatchers: BTreeMap::new(), desired: BTreeMap::new(), ready: BTreeMap::new() }
    }

    /// Enters an answer about [`NAMES`] whose first point is number `first`.
    ///
    /// # Errors
    /// When a value is implausible, or a series is there twice.
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

    /// Replicas at the points where they are known: from the scaler, or else from the dispatchers.
    pub fn replicas(&self) -> PointMap<ReplicaCounts> {
        let mut ready: PointMap<f64> = BTreeMap::new();
        for (&index, sample) in self.dispatchers.values().flatten() {
            if let Some(seen) = sample.ready {
                // The dispatchers share the replicas, so their numbers are not added up.
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

    /// Requests that a replica holds at once: the median over all points, since capacity and replicas do not change at
    /// the same instant.
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
    /// Enters the value of a series. Returns false if the sample had that value already.
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

/// Every scaler of a target exports the gauge, and those that do not lead export less; so the highest value counts.
fn enter_highest(gauge: &mut PointMap<f64>, values: &[(usize, f64)]) {
    for &(index, value) in values {
        let highest = gauge.entry(index).or_insert(value);
        *highest = highest.max(value);
    }
}

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
    fn replicas_are_those_of_the_scaler_or_else_of_the_dispatchers() {
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
        let replicas: Vec<_> = found.replicas().into_iter().map(|(at, it)| (at, it.desired, it.ready)).collect();
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
    fn implausible_series_are_refused_by_name_and_time() {
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
