//! Quantiles of a cumulative histogram. The samples of a bucket count as spread evenly over the bucket.

use law::histogram::Histogram;

/// The value below which the share `quantile` of the samples lies, in the unit of the bounds. `quantile` is between 0
/// and 1. If the value lies in the last bucket, which has no upper bound, the result is the lower bound of that bucket.
/// `None` without samples.
///
/// Source: the function `histogram_quantile` of Prometheus.
pub fn quantile(histogram: &Histogram, quantile: f64) -> Option<f64> {
    let buckets = &histogram.buckets;
    let rank = quantile * histogram.count();
    let index = buckets.iter().position(|bucket| bucket.1 >= rank && bucket.1 > 0.0)?;
    let (lower, below) = if index == 0 { (0.0, 0.0) } else { buckets[index - 1] };
    let (upper, upto) = buckets[index];
    let share = (rank - below) / (upto - below);
    Some(if upper.is_finite() { lower + (upper - lower) * share } else { lower })
}

/// The number of samples that are at most `bound`. `None` if `bound` lies in the last bucket, which has no upper bound.
pub fn up_to(histogram: &Histogram, bound: f64) -> Option<f64> {
    let buckets = &histogram.buckets;
    let index = buckets.iter().position(|bucket| bucket.0 >= bound)?;
    let (lower, below) = if index == 0 { (0.0, 0.0) } else { buckets[index - 1] };
    let (upper, upto) = buckets[index];
    upper.is_finite().then(|| below + (upto - below) * (bound - lower) / (upper - lower))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_up_to_a_bound_are_exact_at_bucket_bounds_and_interpolated_between_them() {
        let histogram = Histogram { buckets: vec![(0.1, 10.0), (0.5, 30.0), (f64::INFINITY, 40.0)], sum: 9.0 };
        for (bound, expected) in
            [(0.1, Some(10.0)), (0.5, Some(30.0)), (0.05, Some(5.0)), (0.3, Some(20.0)), (0.0, Some(0.0)), (0.51, None)]
        {
            let found = up_to(&histogram, bound);
            let is_near = |(found, expected): (f64, f64)| (found - expected).abs() < 1e-9;
            assert!(found == expected || found.zip(expected).is_some_and(is_near), "{bound}: {found:?}");
        }
        assert_eq!(up_to(&Histogram::default(), 0.5), None);
    }
}
