//! How long replicas work on a request.

use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1, LogNormal};
use std::time::Duration;

/// A distribution of service times.
#[derive(Debug, Clone)]
pub enum Work {
    /// Every request takes the same.
    Constant(Duration),
    /// Exponential with this mean; theory's favourite.
    Exponential(Duration),
    /// The logarithm is normal: a mean and a coefficient of variation, as replicas have them.
    Varied(Duration, LogNormal<f64>),
    /// Drawn from recorded service times.
    Recorded(Vec<Duration>),
}

impl Work {
    /// Log-normal with this mean and this standard deviation ÷ mean; constant if that is 0.
    ///
    /// A log-normal variable of location µ and scale σ has mean exp(µ + σ²/2) and variation √(exp(σ²) − 1).
    pub fn new(mean: Duration, variation: f64) -> Self {
        let sigma = (1.0 + variation * variation).ln().sqrt();
        let location = mean.as_secs_f64().ln() - sigma * sigma / 2.0;
        match LogNormal::new(location, sigma) {
            Ok(distribution) if sigma > 0.0 => Self::Varied(mean, distribution),
            _ => Self::Constant(mean),
        }
    }

    /// Mean, seconds.
    pub fn mean(&self) -> f64 {
        match self {
            Self::Constant(mean) | Self::Exponential(mean) | Self::Varied(mean, _) => mean.as_secs_f64(),
            Self::Recorded(times) => times.iter().sum::<Duration>().as_secs_f64() / times.len() as f64,
        }
    }

    /// One request's, nanoseconds.
    pub fn draw(&self, rng: &mut ChaCha8Rng) -> u64 {
        match self {
            Self::Constant(time) => time.as_nanos() as u64,
            Self::Exponential(mean) => {
                let factor: f64 = Exp1.sample(rng);
                (mean.as_nanos() as f64 * factor) as u64
            }
            Self::Varied(_, distribution) => (distribution.sample(rng) * 1e9) as u64,
            Self::Recorded(times) => times[rand::Rng::random_range(rng, 0..times.len())].as_nanos() as u64,
        }
    }
}
