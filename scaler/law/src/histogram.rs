//! A cumulative histogram, as Prometheus has them.

/// Cumulative histogram of times in seconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    /// `(upper bound, count of the samples up to it)`, both ascending; the last bound is infinite.
    pub buckets: Vec<(f64, f64)>,
    /// Sum of all samples.
    pub sum: f64,
}

impl Histogram {
    /// Number of samples.
    pub fn count(&self) -> f64 {
        self.buckets.last().map_or(0.0, |bucket| bucket.1)
    }

    /// Mean of the samples; `None` without samples.
    pub fn mean(&self) -> Option<f64> {
        (self.count() > 0.0).then(|| self.sum / self.count())
    }

    /// The samples that were recorded since `earlier`; all samples if there are fewer of them, or if the buckets are others,
    /// since the process that counts has restarted then. A sum that is a rounding error lower is no restart: the sum over
    /// several processes is added up in another order when one of them leaves.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        if self.buckets.len() != earlier.buckets.len() || self.count() < earlier.count() {
            return self.clone();
        }
        let steps = self.buckets.iter().zip(&earlier.buckets).map(|(now, then)| (now.0, (now.1 - then.1).max(0.0)));
        Self { buckets: steps.collect(), sum: (self.sum - earlier.sum).max(0.0) }
    }

    /// The samples that were recorded since `earlier`; `None` if a count or the sum is lower than it was, or if the buckets
    /// are others.
    #[must_use]
    pub fn checked_since(&self, earlier: &Self) -> Option<Self> {
        // A histogram appears with its first sample.
        if earlier.buckets.is_empty() {
            return Some(self.clone());
        }
        let is_same = self.buckets.len() == earlier.buckets.len();
        let steps = self.buckets.iter().zip(&earlier.buckets);
        let steps = steps.map(|(now, then)| (now.0 == then.0 && now.1 >= then.1).then_some((now.0, now.1 - then.1)));
        let buckets = steps.collect::<Option<Vec<_>>>()?;
        let sum = self.sum - earlier.sum;
        (is_same && sum >= 0.0).then_some(Self { buckets, sum })
    }

    /// Adds the samples of `other`. Processes of two versions may have different buckets: only the bounds that both have
    /// remain.
    pub fn add(&mut self, other: &Self) {
        if other.buckets.is_empty() {
            return;
        }
        if self.buckets.is_empty() {
            self.clone_from(other);
            return;
        }
        self.buckets.retain_mut(|(bound, count)| {
            let same = other.buckets.iter().find(|(its, _)| its == bound);
            *count += same.map_or(0.0, |(_, more)| *more);
            same.is_some()
        });
        self.sum += other.sum;
    }

    /// Coefficient of variation (standard deviation ÷ mean), every sample taken to lie in the middle of its bucket. The last
    /// bucket has no middle and counts at its lower bound. `None` without samples.
    pub fn variation(&self) -> Option<f64> {
        let mut lower = (0.0, 0.0);
        let (mut first, mut second) = (0.0, 0.0);
        for &(bound, cumulative) in &self.buckets {
            let middle = if bound.is_finite() { (lower.0 + bound) / 2.0 } else { lower.0 };
            let count = (cumulative - lower.1).max(0.0);
            first += count * middle;
            second += count * middle * middle;
            lower = (bound, cumulative);
        }
        let count = self.count();
        let mean = first / count;
        (count > 0.0 && mean > 0.0).then(|| (second / count - mean * mean).max(0.0).sqrt() / mean)
    }
}

/// The increase of a counter that starts at zero when its process starts: a value that is lower than before has been counted
/// since a restart.
pub fn increase(then: f64, now: f64) -> f64 {
    if now < then { now } else { now - then }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFINITY: f64 = f64::INFINITY;

    fn histogram(buckets: &[(f64, f64)], sum: f64) -> Histogram {
        Histogram { buckets: buckets.to_vec(), sum }
    }

    #[test]
    fn histograms_subtract_and_survive_a_restart() {
        let (then, now) =
            (histogram(&[(0.1, 2.0), (INFINITY, 3.0)], 0.5), histogram(&[(0.1, 6.0), (INFINITY, 8.0)], 1.5));
        assert_eq!(now.since(&then), histogram(&[(0.1, 4.0), (INFINITY, 5.0)], 1.0));
        assert_eq!(then.since(&now), then, "fewer than before: the process has restarted");
        assert_eq!(now.since(&Histogram::default()), now);
        let same = histogram(&[(0.1, 6.0), (INFINITY, 8.0)], 1.5 - f64::EPSILON);
        assert_eq!(same.since(&now).count(), 0.0, "the sum was only added up in another order");
        assert_eq!((Histogram::default().mean(), Histogram::default().variation()), (None, None));
    }

    #[test]
    fn histograms_with_different_buckets_keep_the_bounds_that_both_have() {
        let mut total = histogram(&[(0.1, 1.0), (0.2, 2.0), (0.5, 3.0), (INFINITY, 4.0)], 1.0);
        total.add(&histogram(&[(0.2, 5.0), (0.3, 6.0), (INFINITY, 7.0)], 2.0));
        total.add(&Histogram::default());
        assert_eq!(total, histogram(&[(0.2, 7.0), (INFINITY, 11.0)], 3.0));
    }

    #[test]
    fn variation_comes_from_the_middles_of_buckets() {
        // Ten at 0.05 and ten at 0.15: mean 0.1, deviation 0.05. Then all in one bucket.
        for (below, expected) in [(10.0, 0.5), (0.0, 0.0)] {
            let found = histogram(&[(0.1, below), (0.2, 20.0), (INFINITY, 20.0)], 2.0).variation();
            assert!((found.expect("samples") - expected).abs() < 1e-9, "{found:?}");
        }
    }
}
