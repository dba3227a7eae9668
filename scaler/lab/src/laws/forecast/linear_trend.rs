//! A Kalman filter for a time series with a level and a slope: the local linear trend model. It knows nothing of what
//! the values are.
//!
//! Source: ai-dynamo/dynamo, components/src/dynamo/planner/core/load/predictors.py, `KalmanPredictor`, with the
//! defaults kalman_q_level = 1, kalman_q_trend = 0.1, kalman_r = 10, and the initial covariance of 1000. The setting
//! kalman_min_points has no effect there: the filter predicts from the first value on.

/// The variance by which the level changes at random from value to value: the planner's `kalman_q_level`.
const LEVEL_NOISE: f64 = 1.0;
/// The variance by which the slope changes at random: the planner's `kalman_q_trend`.
const SLOPE_NOISE: f64 = 0.1;
/// The variance of a value around the level: the planner's `kalman_r`.
const VALUE_NOISE: f64 = 10.0;
/// The variance of the level and of the slope at first.
const INITIAL_VARIANCE: f64 = 1000.0;

/// The filter after at least one value.
#[derive(Debug)]
pub(super) struct LinearTrend {
    level: f64,
    /// The growth of the level from value to value.
    slope: f64,
    level_variance: f64,
    covariance: f64,
    slope_variance: f64,
}

impl LinearTrend {
    /// The filter after its first value.
    pub(super) fn new(value: f64) -> Self {
        Self {
            level: value,
            slope: 0.0,
            level_variance: INITIAL_VARIANCE,
            covariance: 0.0,
            slope_variance: INITIAL_VARIANCE,
        }
    }

    /// Learns the next value of the series.
    pub(super) fn observe(&mut self, value: f64) {
        self.level += self.slope;
        self.level_variance += 2.0 * self.covariance + self.slope_variance + LEVEL_NOISE;
        self.covariance += self.slope_variance;
        self.slope_variance += SLOPE_NOISE;
        let total_variance = self.level_variance + VALUE_NOISE;
        let (level_gain, slope_gain) = (self.level_variance / total_variance, self.covariance / total_variance);
        let error = value - self.level;
        self.level += level_gain * error;
        self.slope += slope_gain * error;
        self.slope_variance -= slope_gain * self.covariance;
        self.level_variance *= 1.0 - level_gain;
        self.covariance *= 1.0 - level_gain;
    }

    /// The level that is expected `steps` values after the last one. It may be negative.
    pub(super) fn predict(&self, steps: f64) -> f64 {
        self.level + self.slope * steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The prediction for the value after these.
    fn predicted(values: impl IntoIterator<Item = f64>) -> f64 {
        let mut values = values.into_iter();
        let mut trend = LinearTrend::new(values.next().expect("a value"));
        values.for_each(|value| trend.observe(value));
        trend.predict(1.0)
    }

    #[test]
    fn predictions_are_those_of_the_kalman_filter() {
        let rise = (0..40).map(|n| f64::from(10 * n));
        let outlier = std::iter::repeat_n(100.0, 60).chain([200.0]);
        for (found, expected) in [
            (predicted([10.0]), 10.0),
            // The variance of the level is 2001 before the second value, and its covariance with the slope is 1000. So
            // the gains are 2001 ÷ 2011 and 1000 ÷ 2011, and the error is 10.
            (predicted([10.0, 20.0]), 10.0 + 10.0 * 3001.0 / 2011.0),
            (predicted(rise), 400.0),
            // After many values, the gains are 0.4217 for the level and 0.0760 for the slope.
            (predicted(outlier), 100.0 + 100.0 * (0.4217 + 0.0760)),
        ] {
            assert!((found - expected).abs() < 0.02, "{found} instead of {expected}");
        }
    }
}
