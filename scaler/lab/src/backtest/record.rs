//! PURE: what Prometheus had of each dispatcher and of the scaler at each point of a period.

use super::period::Period;
use super::range::Series;
use scaler::observe::prometheus::{NAME, endpoint};
use scaler::observe::snapshot::MOST_COUNTED;
use service::wire::metric;
use std::collections::{BTreeMap, BTreeSet};

/// What is asked for at every point.
pub const NAMES: [&str; 6] = [
    metric::ENQUEUED,
    metric::SHED,
    metric::CAPACITY,
    metric::REPLICAS,
    metric::DESIRED_REPLICAS,
    metric::READY_REPLICAS,
];

/// One dispatcher at one point; counters since its own start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Figures {
    /// Requests ever admitted.
    pub enqueued: Option<f64>,
    /// Requests ever refused; the series appears with the first.
    pub shed: f64,
    /// Requests that all replicas in rotation take at once.
    pub capacity: Option<f64>,
    /// Replicas in rotation.
    pub ready: Option<f64>,
}

/// By number of the point.
pub type Points<T> = BTreeMap<usize, T>;

/// Everything.
#[derive(Debug)]
pub struct Record {
    period: Period,
    /// By the labels that tell one from another.
    pub dispatchers: BTreeMap<String, Points<Figures>>,
    desired: Points<f64>,
    ready: Points<f64>,
}

/// Replicas at one point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Replicas {
    /// Asked for.
    pub desired: f64,
    /// Serving.
    pub ready: f64,
}

/// Why an answer cannot be used.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Unusable {
    /// Negative, infinite, not a number, or beyond reason.
    #[error(
        "{series} was {value} at {at}, expected 0 to {MOST_COUNTED:.0e}; leave that time out by --since or --until"
    )]
    Number {
        /// With labels.
        series: String,
        /// As it was recorded.
        value: f64,
        /// When.
        at: String,
    },
    /// Two series where there can only be one.
    #[error(
        "{series} is there more than once at {at}; do several Prometheuses scrape the dispatchers? Name one by \
         --prometheus-selector"
    )]
    Duplicate {
        /// With labels.
        series: String,
        /// When.
        at: String,
    },
}

impl Record {
    /// Nothing is known yet.
    pub fn new(period: Period) -> Self {
        Self { period, dispatchers: BTreeMap::new(), desired: BTreeMap::new(), ready: BTreeMap::new() }
    }

    /// Enters an answer about [`NAMES`] whose first point is number `first`.
    ///
    /// # Errors
    /// When it holds what no dispatcher says.
    pub fn enter(&mut self, first: usize, answer: &[Series]) -> Result<(), Unusable> {
        let mut seen = BTreeSet::new();
        for Series { metric: labels, values } in answer {
            let shown = || format!("{}{}", labels.get(NAME).map_or("", String::as_str), endpoint(labels));
            let at = |index| self.period.shown(index).to_string();
            let values = values.iter().map(|&(point, value)| (first + point, value));
            if let Some((index, value)) = values.clone().find(|(_, value)| !(0.0..=MOST_COUNTED).contains(value)) {
                return Err(Unusable::Number { series: shown(), value, at: at(index) });
            }
            let name = labels.get(NAME).map(String::as_str);
            let gauge = match name {
                Some(metric::DESIRED_REPLICAS) => Some(&mut self.desired),
                Some(metric::READY_REPLICAS) => Some(&mut self.ready),
                _ => None,
            };
            if let Some(gauge) = gauge {
                // Every scaler of a target exports it; one that leads knows most.
                for (index, value) in values {
                    let most = gauge.entry(index).or_insert(value);
                    *most = most.max(value);
                }
                continue;
            }
            let is_new = seen.insert(labels);
            let figures = self.dispatchers.entry(endpoint(labels)).or_default();
            for (index, value) in values {
                let figures = figures.entry(index).or_default();
                let before = match name {
                    Some(metric::ENQUEUED) => figures.enqueued.replace(value),
                    Some(metric::CAPACITY) => figures.capacity.replace(value),
                    Some(metric::REPLICAS) if labels.get("state").is_some_and(|state| state == "ready") => {
                        figures.ready.replace(value)
                    }
                    Some(metric::SHED) => {
                        figures.shed += value;
                        None
                    }
                    _ => None,
                };
                if before.is_some() || !is_new {
                    return Err(Unusable::Duplicate { series: shown(), at: at(index) });
                }
            }
        }
        Ok(())
    }

    /// Replicas, where they are known: as the scaler says, or else as the dispatchers do.
    pub fn replicas(&self) -> Points<Replicas> {
        let mut ready: Points<f64> = BTreeMap::new();
        for (&index, figures) in self.dispatchers.values().flatten() {
            if let Some(seen) = figures.ready {
                // They share the replicas.
                let most = ready.entry(index).or_insert(seen);
                *most = most.max(seen);
            }
        }
        ready.extend(&self.ready);
        let replicas = ready.into_iter().map(|(index, ready)| {
            let desired = self.desired.get(&index).copied().unwrap_or(ready);
            (index, Replicas { desired, ready })
        });
        replicas.collect()
    }

    /// Requests that a replica takes at once: the median, since figures are torn while replicas come and go.
    pub fn slots(&self) -> Option<u32> {
        let figures = self.dispatchers.values().flat_map(BTreeMap::values);
        let mut ratios: Vec<f64> = figures
            .filter_map(|figures| Some(figures.capacity? / figures.ready?))
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn series(name: &str, labels: &[(&str, &str)], values: &[(usize, f64)]) -> Series {
        let labels = labels.iter().copied().chain([(NAME, name)]);
        Series { metric: labels.map(|(name, value)| (name.into(), value.into())).collect(), values: values.to_vec() }
    }

    const PERIOD: Period = Period { start: 1_800_000_000, step: 15, steps: 100 };

    fn record(answer: &[Series]) -> Result<Record, Unusable> {
        let mut record = Record::new(PERIOD);
        record.enter(0, answer).map(|()| record)
    }

    #[test]
    fn series_become_figures_of_each_dispatcher() {
        let (a, b) = (("instance", "a:1"), ("instance", "b:1"));
        let mut record = record(&[
            series(metric::ENQUEUED, &[a], &[(0, 5.0), (2, 7.0)]),
            series(metric::SHED, &[a, ("reason", "length")], &[(2, 1.0)]),
            series(metric::SHED, &[a, ("reason", "overloaded")], &[(2, 3.0)]),
            series(metric::CAPACITY, &[a], &[(2, 8.0)]),
            series(metric::REPLICAS, &[a, ("state", "ejected")], &[(2, 9.0)]),
            series(metric::REPLICAS, &[a, ("state", "ready")], &[(2, 2.0)]),
            series(metric::ENQUEUED, &[b], &[(2, 1e9)]),
        ])
        .expect("good");
        record.enter(50, &[series(metric::ENQUEUED, &[b], &[(0, 1e9)])]).expect("good");
        let (a, b) = (&record.dispatchers["{instance=\"a:1\"}"], &record.dispatchers["{instance=\"b:1\"}"]);
        assert_eq!(a[&0], Figures { enqueued: Some(5.0), ..Figures::default() });
        assert_eq!(a[&2], Figures { enqueued: Some(7.0), shed: 4.0, capacity: Some(8.0), ready: Some(2.0) });
        assert_eq!(b.keys().copied().collect::<Vec<_>>(), [2, 50]);
    }

    #[test]
    fn replicas_are_the_scalers_where_it_tells_them_and_the_dispatchers_elsewhere() {
        let ready = |instance, values: &[(usize, f64)]| {
            series(metric::REPLICAS, &[("instance", instance), ("state", "ready")], values)
        };
        let record = record(&[
            ready("a", &[(0, 1.0), (1, 2.0), (2, 2.0)]),
            ready("b", &[(1, 3.0)]),
            series(metric::READY_REPLICAS, &[("instance", "s")], &[(2, 4.0), (3, 4.0)]),
            series(metric::READY_REPLICAS, &[("instance", "t")], &[(2, 5.0)]),
            series(metric::DESIRED_REPLICAS, &[("instance", "s")], &[(3, 6.0)]),
        ])
        .expect("good");
        let replicas: Vec<_> = record.replicas().into_iter().map(|(at, it)| (at, it.desired, it.ready)).collect();
        assert_eq!(replicas, [(0, 1.0, 1.0), (1, 3.0, 3.0), (2, 5.0, 5.0), (3, 6.0, 4.0)]);
    }

    #[test]
    fn slots_are_what_most_points_say() {
        let slots = |points: &[(f64, f64)]| {
            let numbered =
                |which: fn(&(f64, f64)) -> f64| -> Vec<(usize, f64)> { points.iter().map(which).enumerate().collect() };
            let record = record(&[
                series(metric::CAPACITY, &[], &numbered(|point| point.0)),
                series(metric::REPLICAS, &[("state", "ready")], &numbered(|point| point.1)),
            ]);
            record.expect("good").slots()
        };
        assert_eq!(slots(&[]), None);
        assert_eq!(slots(&[(0.0, 0.0), (4.0, 0.0), (0.0, 4.0)]), None);
        assert_eq!(slots(&[(8.0, 2.0), (8.0, 3.0), (12.0, 3.0), (4.0, 1.0)]), Some(4));
        assert_eq!(slots(&[(1.0, 4.0)]), Some(1));
    }

    #[test]
    fn what_no_dispatcher_says_is_refused_by_name_and_time() {
        let a = ("instance", "a:1");
        for value in [f64::NAN, -1.0, f64::INFINITY, 1e17] {
            let error = record(&[series(metric::SHED, &[a], &[(0, 1.0), (4, value)])]).expect_err("absurd");
            let text = error.to_string();
            assert!(text.contains("dispatcher_shed_total{instance=\"a:1\"}") && text.contains("08:01:00Z"), "{text}");
        }
        for (one, other) in [(&[a][..], &[a][..]), (&[a, ("replica", "x")], &[a, ("replica", "y")])] {
            let twice = [one, other].map(|labels| series(metric::ENQUEUED, labels, &[(3, 1.0)]));
            let error = record(&twice).expect_err("twice").to_string();
            assert!(error.contains("more than once at 2027-01-15T08:00:45Z"), "{error}");
        }
        let shed = series(metric::SHED, &[a, ("reason", "length")], &[(3, 1.0)]);
        assert!(matches!(record(&[shed.clone(), shed]), Err(Unusable::Duplicate { .. })));
    }
}
