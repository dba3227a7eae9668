//! Intervals of confidence for the mean of a few runs and for the difference of two means, after Student and Welch. Pure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::f64::consts::{FRAC_2_PI, FRAC_PI_2};

/// Most degrees of freedom that are told apart. With more, the quantiles hardly change: that of 95 % is 1.962 here and
/// 1.960 at the limit.
const MAX_DEGREES: f64 = 1000.0;

/// Halvings of the interval in which a quantile is searched. After them, it is exact to the last digits of an `f64`.
const HALVINGS: usize = 60;

/// A range that contains the true value in a known share of all experiments, its confidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Interval {
    /// The interval of a mean whose variance (that of the mean, not of one value) was estimated with these degrees of
    /// freedom, and is known to be at least `least_variance`.
    fn around(mean: f64, variance: f64, degrees: f64, least_variance: f64, confidence: f64) -> Self {
        let estimated = student_quantile(confidence, degrees) * variance.sqrt();
        // A known variance has no uncertainty of its own, so its quantile is the normal one.
        let known = student_quantile(confidence, MAX_DEGREES) * least_variance.sqrt();
        let half = estimated.max(known);
        Self { low: mean - half, high: mean + half }
    }

    /// The part of the interval between `lowest` and `highest`, for a figure that has no other values.
    pub fn clamped(self, lowest: f64, highest: f64) -> Self {
        Self { low: self.low.clamp(lowest, highest), high: self.high.clamp(lowest, highest) }
    }

    /// The distance between the ends.
    pub fn width(self) -> f64 {
        self.high - self.low
    }
}

/// The number of some values, their mean, and the variance of one value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moments {
    /// The number of values.
    pub count: usize,
    /// The arithmetic mean.
    pub mean: f64,
    /// The unbiased estimate of the variance of one value. Zero for one value.
    pub variance: f64,
}

impl Moments {
    /// The moments of these values; `None` if there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len();
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        (count > 0).then(|| Self { count, mean, variance: squares / (count - 1).max(1) as f64 })
    }

    fn variance_of_mean(&self) -> f64 {
        self.variance / self.count as f64
    }
}

/// The interval of the mean of `values`, which are independent, such as one figure of several runs or the differences of
/// pairs of runs. `None` for fewer than two values, which say nothing about their spread.
///
/// The interval is at least as wide as one of a mean that is known to have the variance `least_variance`: a few values that
/// agree by chance would otherwise give an interval without width.
pub fn of_mean(values: &[f64], least_variance: f64, confidence: f64) -> Option<Interval> {
    let moments = Moments::of(values).filter(|moments| moments.count > 1)?;
    let degrees = (moments.count - 1) as f64;
    Some(Interval::around(moments.mean, moments.variance_of_mean(), degrees, least_variance, confidence))
}

/// The interval of the mean of `a` minus the mean of `b`, whose variances may differ (Welch). `None` if one of them has
/// fewer than two values. `least_variance` is the least variance of the difference; see [`of_mean`].
pub fn of_difference(a: &[f64], b: &[f64], least_variance: f64, confidence: f64) -> Option<Interval> {
    let has_spread = |moments: &Moments| moments.count > 1;
    let (a, b) = (Moments::of(a).filter(has_spread)?, Moments::of(b).filter(has_spread)?);
    let (of_a, of_b) = (a.variance_of_mean(), b.variance_of_mean());
    let variance = of_a + of_b;
    let degrees = if variance > 0.0 {
        // The equation of Welch and Satterthwaite.
        variance.powi(2) / (of_a.powi(2) / (a.count - 1) as f64 + of_b.powi(2) / (b.count - 1) as f64)
    } else {
        (a.count + b.count - 2) as f64
    };
    Some(Interval::around(a.mean - b.mean, variance, degrees, least_variance, confidence))
}

/// The number t for which a variable of Student's distribution lies between -t and t with the probability `confidence`.
/// Fewer than one degree of freedom count as one.
pub fn student_quantile(confidence: f64, degrees: f64) -> f64 {
    let degrees = degrees.clamp(1.0, MAX_DEGREES);
    let (below, above) = (degrees.floor(), degrees.ceil());
    let of_whole = |degrees: f64| quantile_of_whole(confidence, degrees as usize);
    if below == above {
        return of_whole(below);
    }
    // Quantiles are nearly linear in the inverse of the degrees.
    let weight = (1.0 / below - 1.0 / degrees) / (1.0 / below - 1.0 / above);
    (1.0 - weight) * of_whole(below) + weight * of_whole(above)
}

/// The quantile for a whole number of degrees of freedom, at least 1.
fn quantile_of_whole(confidence: f64, degrees: usize) -> f64 {
    // The search goes over the angle whose tangent is t divided by the root of the degrees, since that angle is bounded.
    let (mut low, mut high) = (0.0, FRAC_PI_2);
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if probability_within(middle, degrees) < confidence {
            low = middle;
        } else {
            high = middle;
        }
    }
    (degrees as f64).sqrt() * low.tan()
}

/// The probability that a variable of Student's distribution lies between -t and t, where `angle` is the arc tangent of
/// t / √degrees. Abramowitz and Stegun, 26.7.3 and 26.7.4: a finite sum for whole degrees of freedom.
fn probability_within(angle: f64, degrees: usize) -> f64 {
    let (sine, cosine) = angle.sin_cos();
    let is_odd = degrees % 2 == 1;
    let mut power = degrees % 2;
    let mut term = if is_odd { cosine } else { 1.0 };
    let mut sum = 0.0;
    while power + 2 <= degrees {
        sum += term;
        term *= (power + 1) as f64 / (power + 2) as f64 * cosine * cosine;
        power += 2;
    }
    if is_odd { FRAC_2_PI * (angle + sine * sum) } else { sine * sum }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_are_those_of_published_tables() {
        for (confidence, degrees, expected) in [
            (0.95, 1.0, 12.706),
            (0.95, 2.0, 4.303),
            (0.95, 3.0, 3.182),
            (0.95, 4.0, 2.776),
            (0.95, 8.0, 2.306),
            (0.95, 9.0, 2.262),
            (0.95, 30.0, 2.042),
            (0.95, 100.0, 1.984),
            (0.99, 1.0, 63.657),
            (0.99, 4.0, 4.604),
            (0.99, 8.0, 3.355),
            (0.99, 99.0, 2.626),
            (0.9, 5.0, 2.015),
            (0.95, 1e6, 1.962),
            (0.95, 0.5, 12.706),
        ] {
            let found = student_quantile(confidence, degrees);
            assert!((found - expected).abs() < 6e-4, "{confidence}, {degrees}: {found} is not {expected}");
        }
    }

    #[test]
    fn the_interval_of_a_mean_is_that_of_a_textbook() {
        // Mean 5, standard deviation 1.5811, and so a standard error of 0.7071.
        let values = [3.0, 4.0, 5.0, 6.0, 7.0];
        let interval = of_mean(&values, 0.0, 0.95).expect("there are five values");
        assert!((interval.low - 3.0368).abs() < 1e-3 && (interval.high - 6.9632).abs() < 1e-3, "{interval:?}");
        let moments = Moments::of(&values).expect("there are values");
        assert_eq!((moments.mean, moments.variance), (5.0, 2.5));
    }

    #[test]
    fn one_value_has_no_interval() {
        assert_eq!((of_mean(&[], 0.0, 0.95), of_mean(&[7.0], 0.0, 0.95)), (None, None));
        assert_eq!(of_difference(&[1.0], &[1.0, 2.0], 0.0, 0.95), None);
        assert_eq!(of_difference(&[1.0, 2.0], &[], 0.0, 0.95), None);
    }

    #[test]
    fn values_that_agree_by_chance_have_an_interval_of_the_least_variance() {
        let interval = of_mean(&[2.0, 2.0, 2.0], 0.01, 0.95).expect("there are three values");
        assert!((interval.width() - 2.0 * 1.962 * 0.1).abs() < 1e-3, "{interval:?}");
        let interval = of_difference(&[2.0; 3], &[1.0; 3], 0.01, 0.95).expect("there are three values");
        assert!((interval.width() - 2.0 * 1.962 * 0.1).abs() < 1e-3, "{interval:?}");
    }

    #[test]
    fn equal_variances_have_the_degrees_of_both_samples() {
        // Both samples have the same spread, so the degrees are 2 + 2.
        let (a, b) = ([9.0, 11.0, 10.0 + 3_f64.sqrt()], [-1.0, 1.0, 3_f64.sqrt()]);
        let interval = of_difference(&a, &b, 0.0, 0.95).expect("there are three values");
        let error = (2.0 * Moments::of(&a).expect("there are values").variance_of_mean()).sqrt();
        let quantile = interval.width() / 2.0 / error;
        assert!((quantile - 2.776).abs() < 1e-3, "{quantile}");
    }

    proptest! {
        #[test]
        fn an_interval_contains_its_mean_and_grows_with_the_confidence(
            values in prop::collection::vec(-1e6..1e6_f64, 2..40),
        ) {
            let mean = Moments::of(&values).expect("there are values").mean;
            let narrow = of_mean(&values, 0.0, 0.8).expect("there are two");
            let wide = of_mean(&values, 0.0, 0.99).expect("there are two");
            prop_assert!(narrow.low <= mean && mean <= narrow.high);
            prop_assert!(wide.low <= narrow.low && narrow.high <= wide.high);
        }

        #[test]
        fn a_difference_changes_its_sign_with_the_order(
            a in prop::collection::vec(-1e3..1e3_f64, 2..9),
            b in prop::collection::vec(-1e3..1e3_f64, 2..9),
        ) {
            let forward = of_difference(&a, &b, 0.0, 0.95).expect("there are two");
            let backward = of_difference(&b, &a, 0.0, 0.95).expect("there are two");
            prop_assert!((forward.low + backward.high).abs() < 1e-6 && (forward.high + backward.low).abs() < 1e-6);
        }

        #[test]
        fn quantiles_fall_with_the_degrees_and_rise_with_the_confidence(
            degrees in 1.0..200.0_f64, confidence in 0.5..0.995_f64,
        ) {
            let quantile = student_quantile(confidence, degrees);
            prop_assert!(student_quantile(confidence, degrees + 0.3) < quantile);
            prop_assert!(student_quantile(confidence + 0.004, degrees) > quantile);
        }
    }
}
