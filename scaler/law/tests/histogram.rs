//! Differences, sums and the variation of histograms.

use law::histogram::Histogram;

const INFINITY: f64 = f64::INFINITY;

fn histogram(buckets: &[(f64, f64)], sum: f64) -> Histogram {
    Histogram { buckets: buckets.to_vec(), sum }
}

#[test]
fn histograms_subtract_and_survive_a_restart() {
    let (then, now) = (histogram(&[(0.1, 2.0), (INFINITY, 3.0)], 0.5), histogram(&[(0.1, 6.0), (INFINITY, 8.0)], 1.5));
    assert_eq!(now.since(&then), histogram(&[(0.1, 4.0), (INFINITY, 5.0)], 1.0));
    assert_eq!(then.since(&now), then, "there are fewer samples than before, so the process has restarted");
    assert_eq!(now.since(&Histogram::default()), now);
    let other = histogram(&[(0.2, 3.0), (INFINITY, 3.0)], 0.5);
    assert_eq!(now.since(&other), histogram(&[(INFINITY, 5.0)], 1.0), "another version has other buckets");
    let same = histogram(&[(0.1, 6.0), (INFINITY, 8.0)], 1.5 - f64::EPSILON);
    assert_eq!(same.since(&now).count(), 0.0, "a sum that was added up in another order is no restart");
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
    // First, ten samples count at 0.05 s and ten at 0.15 s: the mean is 0.1 s and the deviation 0.05 s. Then all
    // samples are in one bucket.
    for (below, expected) in [(10.0, 0.5), (0.0, 0.0)] {
        let found = histogram(&[(0.1, below), (0.2, 20.0), (INFINITY, 20.0)], 2.0).variation();
        assert!((found.expect("there are samples") - expected).abs() < 1e-9, "{found:?}");
    }
}
