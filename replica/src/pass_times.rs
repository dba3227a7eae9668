//! The expected time of a forward pass by its number of images: a line that follows the measured passes. Knows nothing of
//! queues and deadlines.
//!
//! One line for all numbers of images, so that every pass tells something about every batch size. With a mean for each
//! size, one stall of a minute would make its size look too slow for any deadline, and the size would never be run and
//! measured again.

use std::time::Duration;

/// The share of a pass's error by which the line moves towards the pass.
const NEW_PASS_WEIGHT: f64 = 0.2;

/// A pass counts as at most this number of times as slow or as fast as expected. A stall of any length then makes the
/// expected times at most a fifth longer, and a lasting change is followed within some passes.
const MOST_SURPRISE: f64 = 2.0;

/// The smallest share of either part of the line in the time of a pass of one image, or of the largest batch. A part of
/// zero could never grow again, because each part grows by a factor.
const LEAST_SHARE: f64 = 0.02;

/// The shortest expected time of a pass, in seconds.
const LEAST_SECONDS: f64 = 1e-6;

/// The line `fixed + per_image × images`, in seconds. Both parts are above zero.
#[derive(Debug, Clone, Copy)]
pub struct PassTimes {
    fixed: f64,
    per_image: f64,
    max_batch: usize,
}

impl PassTimes {
    /// The line through measured passes: the number of images of each, and its time. Batches have up to `max_batch`
    /// images.
    ///
    /// A pass that was slower than a larger one counts as that one, and no pass counts as more than as many passes of the
    /// fewest images. So one stall during the measurement cannot make any batch size look useless.
    pub fn through(measured: &[(usize, Duration)], max_batch: usize) -> Self {
        let mut points: Vec<(f64, f64)> = measured
            .iter()
            .map(|&(images, time)| (images.max(1) as f64, time.as_secs_f64().max(LEAST_SECONDS)))
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut least = f64::INFINITY;
        for (_, seconds) in points.iter_mut().rev() {
            least = least.min(*seconds);
            *seconds = least;
        }
        let (fewest, shortest) = points.first().copied().unwrap_or((1.0, LEAST_SECONDS));
        points.iter_mut().for_each(|(images, seconds)| *seconds = seconds.min(shortest * *images / fewest));
        let (fixed, per_image) = least_squares(&points);
        Self { fixed, per_image, max_batch: max_batch.max(1) }.with_least_shares()
    }

    /// The largest number of images in a pass.
    pub fn max_batch(&self) -> usize {
        self.max_batch
    }

    /// The expected time of a pass of `images` images. More than the largest batch count as that.
    pub fn expected(&self, images: usize) -> Duration {
        Duration::from_secs_f64(self.seconds(images.min(self.max_batch)))
    }

    /// Moves the line towards a pass of `images` images that took `took`.
    pub fn record(&mut self, images: usize, took: Duration) {
        if !(1..=self.max_batch).contains(&images) {
            return;
        }
        let expected = self.seconds(images);
        let ratio = (took.as_secs_f64() / expected).clamp(1.0 / MOST_SURPRISE, MOST_SURPRISE);
        // Each part changes by its share in this pass. So passes of one size scale the line, and passes of several sizes
        // also turn it. The divisor makes the expected time of this pass move by the weight: the shares' changes add up
        // to shares[0]² + shares[1]².
        let shares = [self.fixed / expected, 1.0 - self.fixed / expected];
        let change = NEW_PASS_WEIGHT * (ratio - 1.0) / (shares[0] * shares[0] + shares[1] * shares[1]);
        self.fixed *= 1.0 + change * shares[0];
        self.per_image *= 1.0 + change * shares[1];
        *self = self.with_least_shares();
    }

    fn seconds(&self, images: usize) -> f64 {
        self.fixed + self.per_image * images as f64
    }

    fn with_least_shares(mut self) -> Self {
        let one = self.seconds(1).max(LEAST_SECONDS);
        self.fixed = self.fixed.max(LEAST_SHARE * one);
        self.per_image = self.per_image.max(LEAST_SHARE * one / self.max_batch as f64);
        self
    }
}

/// The line with the least squares of the errors relative to the times. Neither part is below zero.
fn least_squares(points: &[(f64, f64)]) -> (f64, f64) {
    let sum =
        |term: &dyn Fn(f64, f64) -> f64| points.iter().map(|&(images, seconds)| term(images, seconds)).sum::<f64>();
    // The sums of the normal equations, in which each point has the weight 1 / seconds².
    let weight = sum(&|_, t| 1.0 / (t * t));
    let (x, xx) = (sum(&|n, t| n / (t * t)), sum(&|n, t| n * n / (t * t)));
    let (y, xy) = (sum(&|_, t| 1.0 / t), sum(&|n, t| n / t));
    let determinant = weight * xx - x * x;
    // One size alone does not tell the slope: all of its time then counts as time for its images.
    let slope = if determinant > 1e-9 * weight * xx { (weight * xy - x * y) / determinant } else { f64::INFINITY };
    let intercept = (y - slope * x) / weight;
    if slope < 0.0 {
        (y / weight, 0.0)
    } else if intercept >= 0.0 {
        (intercept, slope)
    } else {
        (0.0, xy / xx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn check(times: &PassTimes, expected: &[(usize, u64)]) {
        for &(images, milliseconds) in expected {
            let (found, wanted) = (times.expected(images).as_secs_f64(), milliseconds as f64 / 1e3);
            assert!((found / wanted - 1.0).abs() < 0.05, "{images}: {found} s instead of {wanted} s, {times:?}");
        }
    }

    #[test]
    fn few_measured_sizes_tell_the_times_of_all() {
        for (measured, expected) in [
            (&[(1, ms(40)), (2, ms(75)), (4, ms(145))][..], &[(1, 40), (3, 110), (8, 285), (64, 2245)][..]),
            // A device for which the number of images hardly matters.
            (&[(1, ms(30)), (8, ms(30))], &[(1, 30), (4, 30)]),
            (&[(1, ms(40))], &[(1, 40), (64, 2560)]),
            // A stall of a minute at one of the sizes.
            (&[(1, ms(40)), (2, ms(60_000)), (4, ms(160))], &[(1, 40), (2, 80), (4, 160), (64, 2560)]),
            (&[(1, ms(60_000)), (2, ms(80)), (4, ms(160))], &[(1, 71), (2, 94), (4, 141)]),
            (&[(1, ms(40)), (2, ms(80)), (4, ms(60_000))], &[(1, 40), (2, 80), (4, 160), (64, 2560)]),
        ] {
            check(&PassTimes::through(measured, 64), expected);
        }
        assert_eq!(PassTimes::through(&[], 4).max_batch(), 4);
    }

    #[test]
    fn a_stall_counts_little_and_a_lasting_change_counts_fully() {
        let mut times = PassTimes::through(&[(1, ms(40)), (8, ms(320))], 8);
        times.record(8, Duration::from_secs(60));
        check(&times, &[(1, 48), (8, 384)]);
        for _ in 0..30 {
            times.record(1, ms(40));
        }
        // Passes of one image have told that the larger size is as fast as before.
        check(&times, &[(1, 40), (8, 320)]);
        for _ in 0..40 {
            times.record(4, ms(800));
        }
        check(&times, &[(1, 200), (4, 800), (8, 1600)]);
        let before = times.expected(8);
        times.record(0, ms(1));
        times.record(9, ms(1));
        assert_eq!(times.expected(8), before, "no batch has these sizes");
    }

    proptest! {
        #[test]
        fn the_line_turns_towards_passes_of_several_sizes(
            (fixed, per_image) in (0.001..0.05_f64, 0.001..0.05_f64),
            slower in 0.3..3.0_f64,
            sizes in prop::collection::vec((1..=2_usize, 14..=16_usize), 500),
        ) {
            let mut times = PassTimes { fixed: fixed * slower, per_image, max_batch: 16 };
            for images in sizes.into_iter().flat_map(|(few, many)| [few, many]) {
                times.record(images, Duration::from_secs_f64(fixed + per_image * images as f64));
            }
            for images in [1, 16] {
                let (found, wanted) = (times.seconds(images), fixed + per_image * images as f64);
                prop_assert!((found / wanted - 1.0).abs() < 0.2, "{}: {} s instead of {} s", images, found, wanted);
            }
        }

        #[test]
        fn expected_times_are_positive_and_grow_with_the_images(
            measured in prop::collection::vec((1..=64_usize, 0..90_000_u64), 0..6),
            passes in prop::collection::vec((0..=70_usize, 0..90_000_u64), 0..200),
        ) {
            let measured: Vec<_> = measured.into_iter().map(|(images, time)| (images, ms(time))).collect();
            let mut times = PassTimes::through(&measured, 64);
            for (images, time) in passes {
                times.record(images, ms(time));
            }
            for images in 1..64 {
                let (fewer, more) = (times.seconds(images), times.seconds(images + 1));
                prop_assert!(fewer > 0.0 && more > fewer && more.is_finite(), "{:?}", times);
            }
        }
    }
}
