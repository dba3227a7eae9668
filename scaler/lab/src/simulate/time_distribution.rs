//! Distributions of times: of service times, of start-up times, and of the lives of replicas.

use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1, LogNormal};
use std::time::Duration;

/// A distribution of times.
#[derive(Debug, Clone)]
pub enum TimeDistribution {
    /// Always the same time.
    Constant(Duration),
    /// An exponential distribution with this mean.
    Exponential(Duration),
    /// A log-normal distribution and its mean. Measured service times of replicas are about log-normal.
    LogNormal(Duration, LogNormal<f64>),
    /// The distribution of these recorded times: each is drawn with the same probability.
    Recorded(Vec<Duration>),
}

impl TimeDistribution {
    /// A log-normal distribution with this mean and this coefficient of variation (standard deviation ÷ mean). If the
    /// coefficient is 0, a constant.
    ///
    /// A log-normal variable with the location µ and the scale σ has the mean exp(µ + σ²/2) and the coefficient of
    /// variation √(exp(σ²) − 1).
    pub fn new(mean: Duration, variation: f64) -> Self {
        let sigma = (1.0 + variation * variation).ln().sqrt();
        let location = mean.as_secs_f64().ln() - sigma * sigma / 2.0;
        match LogNormal::new(location, sigma) {
            Ok(distribution) if sigma > 0.0 => Self::LogNormal(mean, distribution),
            _ => Self::Constant(mean),
        }
    }

    /// The mean of the distribution, in seconds.
    pub fn mean(&self) -> f64 {
        match self {
            Self::Constant(mean) | Self::Exponential(mean) | Self::LogNormal(mean, _) => mean.as_secs_f64(),
            Self::Recorded(times) => times.iter().sum::<Duration>().as_secs_f64() / times.len() as f64,
        }
    }

    /// Draws a time, in nanoseconds.
    pub fn draw(&self, rng: &mut ChaCha8Rng) -> u64 {
        match self {
            Self::Constant(time) => time.as_nanos() as u64,
            Self::Exponential(mean) => {
                let factor: f64 = Exp1.sample(rng);
                (mean.as_nanos() as f64 * factor) as u64
            }
            Self::LogNormal(_, distribution) => (distribution.sample(rng) * 1e9) as u64,
            Self::Recorded(times) => times[rand::Rng::random_range(rng, 0..times.len())].as_nanos() as u64,
        }
    }
}
