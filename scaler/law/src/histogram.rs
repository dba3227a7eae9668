//! A cumulative histogram, in the form in which Prometheus exports histograms.

/// A cumulative histogram of times in seconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    /// Pairs of a bucket's upper bound and the number of samples up to it. Both ascend, and the last bound is infinite.
    pub buckets: Vec<(f64, f64)>,
    /// The sum of all samples, in seconds.
    pub sum: f64,
}

impl Histogram {
    /// The number of samples.
    pub fn count(&self) -> f64 {
        self.buckets.last().map_or(0.0, |bucket| bucket.1)
    }

    /// The mean of the samples, in seconds; `None` without samples.
    pub fn mean(&self) -> Option<f64> {
        (self.count() > 0.0).then(|| self.sum / self.count())
    }

    /// The samples that were recorded since `earlier`. If there are fewer samples than in `earlier`, the counting process
    /// has restarted, so all samples are returned. Only the bounds that both histograms have remain. A sum that is lower by a rounding error is no
    /// restart: when one of several processes leaves, their sums are added up in another order.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        if self.count() < earlier.count() {
            return self.clone();
        }
        let is_first = earlier.buckets.is_empty();
        let before = |bound: f64| earlier.buckets.iter().find(|then| then.0 == bound).map(|then| then.1);
        let steps = self.buckets.iter().filter_map(|&(bound, count)| {
            let before = if is_first { 0.0 } else { before(bound)? };
            Some((bound, (count - before).max(0.0)))
        });
        Self { buckets: steps.collect(), sum: (self.sum - earlier.sum).max(0.0) }
    }

    /// The samples that were recorded since `earlier`; `None` if a count or the sum is lower than in `earlier`, or if
    /// the buckets are others.
    #[must_use]
    pub fn checked_since(&self, earlier: &Self) -> Option<Self> {
        // A process exports a histogram from its first sample on. Before that, `earlier` has no buckets.
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

    /// Adds the samples of `other`. Only the bounds that both histograms have remain, since processes of two versions
    /// may have different buckets.
    pub fn add(&mut self, other: &Self) {
        if other.buckets.is_empty() {
            return;
        }
        if self.buckets.is_empty() {
            self.clone_from(other);
            return;
        }
        self.buckets.retain_mut(|(bound, count)| {
            let same = other.buckets.iter().find(|(other, _)| other == bound);
            *count += same.map_or(0.0, |(_, more)| *more);
            same.is_some()
        });
        self.sum += other.sum;
    }

    /// The coefficient of variation: standard deviation ÷ mean. Every sample counts at the middle of its bucket. The
    /// last bucket has no middle, so its samples count at its lower bound. `None` without samples.
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

/// The increase of a counter that starts at zero when its process starts. If the value is lower than before, the
/// process has restarted, and the whole value has been counted since.
pub fn increase(then: f64, now: f64) -> f64 {
    if now < then { now } else { now - then }
}
