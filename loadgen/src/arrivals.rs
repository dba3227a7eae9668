//! PURE: (workload, process, seed) → when each request is to be sent.

use crate::workload::Workload;
use clap::ValueEnum;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Duration;

/// How arrivals are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Process {
    /// Independent of each other, as many users are
    Poisson,
    /// Evenly spaced
    Uniform,
}

/// Send times since the start, ascending.
///
/// Points of a process of rate one are mapped through the inverse of the cumulative load Λ(t), which makes a process
/// whose rate at every instant is the workload's (time change of a Poisson process).
pub fn schedule(workload: &Workload, process: Process, seed: u64) -> Vec<Duration> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut gap = || match process {
        // Inverse of the exponential distribution; 1 − u keeps the logarithm finite.
        Process::Poisson => -(1.0 - rng.random::<f64>()).ln(),
        Process::Uniform => 1.0,
    };
    // Half a gap at the start, so that evenly spaced arrivals lie in the middle of their shares.
    let mut next = match process {
        Process::Poisson => gap(),
        Process::Uniform => 0.5,
    };
    let mut times = Vec::with_capacity(workload.total() as usize);
    let mut before = 0.0;
    for (second, &rate) in workload.per_second.iter().enumerate() {
        while next < before + rate {
            times.push(Duration::from_secs_f64(second as f64 + (next - before) / rate));
            next += gap();
        }
        before += rate;
    }
    times
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn uniform_arrivals_are_evenly_spaced() {
        let workload = Workload { per_second: vec![2.0, 0.0, 4.0] };
        let times: Vec<f64> = schedule(&workload, Process::Uniform, 1).iter().map(Duration::as_secs_f64).collect();
        assert_eq!(times, [0.25, 0.75, 2.125, 2.375, 2.625, 2.875]);
    }

    #[test]
    fn poisson_gaps_are_exponential() {
        // Kolmogorov–Smirnov against 1 − e^(−gap): 1.63 / √n is the bound that chance exceeds once in a hundred times.
        let workload = Workload::constant(50.0, Duration::from_secs(200));
        let times = schedule(&workload, Process::Poisson, 7);
        let mut gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() * 50.0).collect();
        gaps.sort_by(f64::total_cmp);
        let n = gaps.len() as f64;
        let distance = gaps.iter().enumerate().map(|(rank, gap)| {
            let exact = 1.0 - (-gap).exp();
            (exact - rank as f64 / n).abs().max(((rank + 1) as f64 / n - exact).abs())
        });
        assert!(distance.fold(0.0, f64::max) < 1.63 / n.sqrt());
        assert!((n / 10_000.0 - 1.0).abs() < 0.05, "{n} arrivals");
    }

    proptest! {
        #[test]
        fn times_ascend_within_seconds_that_have_load(
            rates in prop::collection::vec(0..20_u32, 1..30),
            seed: u64,
            poisson: bool,
        ) {
            let workload = Workload { per_second: rates.iter().map(|&rate| f64::from(rate)).collect() };
            let process = if poisson { Process::Poisson } else { Process::Uniform };
            let times = schedule(&workload, process, seed);
            prop_assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
            for time in &times {
                let second = (time.as_secs_f64() - 1e-9).max(0.0) as usize;
                prop_assert!(workload.per_second[second] > 0.0);
            }
            prop_assert_eq!(&times, &schedule(&workload, process, seed));
            if !poisson {
                prop_assert_eq!(times.len() as u32, rates.iter().sum::<u32>());
            }
        }
    }
}
