//! Pure: (rates, process, seed) → when each request is to be sent.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;

/// How arrivals are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Process {
    /// Independent of each other, as many users are
    Poisson,
    /// Evenly spaced
    Uniform,
}

/// A stretch of constant rate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch {
    /// How long.
    pub(crate) length: Duration,
    /// Arrivals a second.
    pub(crate) rate: f64,
}

/// Send times since the start, ascending: points of a process of rate one, mapped through the inverse of the cumulative
/// load.
pub(crate) fn schedule(stretches: &[Stretch], process: Process, seed: u64) -> Vec<Duration> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut gap = || match process {
        // Inverse of the exponential distribution; 1 − u keeps the logarithm finite.
        Process::Poisson => -(1.0 - rng.random::<f64>()).ln(),
        Process::Uniform => 1.0,
    };
    let (mut times, mut next) = (Vec::new(), gap());
    let (mut start, mut before) = (Duration::ZERO, 0.0);
    for stretch in stretches {
        let load = stretch.rate * stretch.length.as_secs_f64();
        while next < before + load {
            times.push(start + Duration::from_secs_f64((next - before) / stretch.rate));
            next += gap();
        }
        before += load;
        start += stretch.length;
    }
    times
}
