//! Distributions of service times: how long a replica that does nothing else takes for a request.

use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1, LogNormal};
use std::time::Duration;

/// A distribution of service times.
#[derive(Debug, Clone)]
pub enum ServiceTimeDistribution {
    /// All requests take equally long.
    Constant(Duration),
    /// Exponential with this mean, for comparisons with queueing theory.
    Exponential(Duration),
    /// Log-normal with this mean, as measured replicas are.
    LogNormal(Duration, LogNormal<f64>),
    /// Each time is drawn from these recorded times, with equal chances.
    Recorded(Vec<Duration>),
}

impl ServiceTimeDistribution {
    /// A log-normal distribution with this mean and this coefficient of variation (standard deviation ÷ mean); constant
    /// if the coefficient is 0.
    ///
    /// A log-normal variable of location µ and scale σ has mean exp(µ + σ²/2) and coefficient of variation √(exp(σ²) −
    /// 1).
    pub fn new(mean: Duration, variation: f64) -> Self {
        let sigma = (1.0 + variation * variation).ln().sqrt();
        let location = mean.as_secs_f64().ln() - sigma * sigma / 2.0;
        match LogNormal::new(location, sigma) {
            Ok(distribution) if sigma > 0.0 => Self::LogNormal(mean, distribution),
            _ => Self::Constant(mean),
        }
    }

    /// Mean, seconds.
    pub fn mean(&self) -> f64 {
        match self {
            Self::Constant(mean) | Self::Exponential(mean) | Self::LogNormal(mean, _) => mean.as_secs_f64(),
            Self::Recorded(times) => times.iter().sum::<Duration>().as_secs_f64() / times.len() as f64,
        }
    }

    /// The service time of one request, nanoseconds.
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
