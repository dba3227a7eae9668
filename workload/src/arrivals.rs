//! The send time of each request of a workload. Pure: workload, arrival process and seed determine the times.

use crate::Workload;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Gamma};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// An arrival process: the rule by which arrivals are spread over time.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ArrivalProcess {
    /// A Poisson process: arrivals are independent of each other, as those of many users are.
    Poisson,
    /// Evenly spaced arrivals.
    Uniform,
    /// Random times within each second. Each second has exactly the number of arrivals that the workload gives. If the
    /// numbers have fractions, their cumulative sum is rounded.
    Replayed,
    /// Gaps between arrivals that follow a gamma distribution with this coefficient of variation (CV). Above 1,
    /// arrivals come in bursts. Below 1, they are more regular than those of a Poisson process.
    Gamma(f64),
}

/// The smallest coefficient of variation that is accepted. Below it, arrivals hardly differ from uniform arrivals.
pub const MIN_CV: f64 = 0.01;

/// The largest coefficient of variation that is accepted. Above it, nearly all arrivals come at once.
pub const MAX_CV: f64 = 10.0;

/// A text that names no arrival process. Holds the first 40 characters of the text.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no arrival process; give poisson, uniform, replayed, or gamma:CV with a CV from {MIN_CV} to {MAX_CV}"
)]
pub struct Error(String);

impl FromStr for ArrivalProcess {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let error = || Error(text.chars().take(40).collect());
        match text {
            "poisson" => Ok(Self::Poisson),
            "uniform" => Ok(Self::Uniform),
            "replayed" => Ok(Self::Replayed),
            _ => {
                let cv = text.strip_prefix("gamma:").and_then(|cv| cv.parse().ok()).ok_or_else(error)?;
                if (MIN_CV..=MAX_CV).contains(&cv) { Ok(Self::Gamma(cv)) } else { Err(error()) }
            }
        }
    }
}

impl fmt::Display for ArrivalProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poisson => f.write_str("poisson"),
            Self::Uniform => f.write_str("uniform"),
            Self::Replayed => f.write_str("replayed"),
            Self::Gamma(cv) => write!(f, "gamma:{cv}"),
        }
    }
}

impl TryFrom<String> for ArrivalProcess {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<ArrivalProcess> for String {
    fn from(process: ArrivalProcess) -> Self {
        process.to_string()
    }
}

/// An iterator over the send times of a workload, ascending. Each is a time since the start.
///
/// A process with a rate of one request per unit of time is mapped through the inverse of the cumulative load Λ(t).
/// The resulting process has the rate of the workload at every instant (time change of a Poisson process; Çinlar,
/// *Introduction to Stochastic Processes*, 1975, pp. 94–101). [`ArrivalProcess::Replayed`] is the exception: its times
/// are drawn uniformly within each second.
#[derive(Debug)]
pub struct ArrivalTimes {
    workload: Workload,
    process: ArrivalProcess,
    rng: ChaCha8Rng,
    /// The next point of the process of rate one, as a number of requests since the start.
    next: f64,
    /// The current second of the workload, from 0. The next point lies in this second or in a later one.
    second: usize,
    /// The cumulative load before the current second, in requests.
    before: f64,
    /// [`ArrivalProcess::Replayed`] only: the number of requests still to come in the current second.
    left: usize,
    /// [`ArrivalProcess::Replayed`] only: the time of the last request, in seconds from the beginning of the current
    /// second, 0 to 1.
    within: f64,
}

impl ArrivalTimes {
    /// The send times of `workload`. The same arguments give the same times.
    pub fn new(workload: Workload, process: ArrivalProcess, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // Uniform arrivals begin after half a gap. After a whole gap, the last request would fall on the end of the
        // workload, and would be lost.
        let next = match process {
            ArrivalProcess::Uniform | ArrivalProcess::Replayed => 0.5,
            ArrivalProcess::Poisson | ArrivalProcess::Gamma(_) => gap(process, &mut rng),
        };
        let left = workload.per_second.first().map_or(0, |rate| rate.round() as usize);
        Self { workload, process, rng, next, second: 0, before: 0.0, left, within: 0.0 }
    }

    /// The next send time for [`ArrivalProcess::Replayed`], in seconds since the start; `None` after the last.
    fn next_replayed(&mut self) -> Option<f64> {
        while self.left == 0 {
            self.before += self.workload.per_second.get(self.second)?;
            self.second += 1;
            let rate = self.workload.per_second.get(self.second)?;
            // Rounds the cumulative load, not each rate: with 0.4 requests per second, every rate would round to no
            // request at all.
            self.left = ((self.before + rate).round() - self.before.round()) as usize;
            self.within = 0.0;
        }
        // The earliest of `left` uniform times has the distribution function 1 − (1 − x)^left. Drawing the earliest
        // time again and again gives ascending times without sorting.
        let earliest = 1.0 - (1.0 - self.rng.random::<f64>()).powf(1.0 / self.left as f64);
        self.within += (1.0 - self.within) * earliest;
        self.left -= 1;
        Some(self.second as f64 + self.within)
    }

    /// The next send time for all processes but [`ArrivalProcess::Replayed`], in seconds since the start; `None` after
    /// the last.
    fn next_timed(&mut self) -> Option<f64> {
        let mut rate = *self.workload.per_second.get(self.second)?;
        while self.next >= self.before + rate {
            self.before += rate;
            self.second += 1;
            rate = *self.workload.per_second.get(self.second)?;
        }
        let seconds = self.second as f64 + (self.next - self.before) / rate;
        self.next += gap(self.process, &mut self.rng);
        Some(seconds)
    }
}

impl Iterator for ArrivalTimes {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let seconds = match self.process {
            ArrivalProcess::Replayed => self.next_replayed(),
            ArrivalProcess::Poisson | ArrivalProcess::Uniform | ArrivalProcess::Gamma(_) => self.next_timed(),
        }?;
        Some(Duration::from_nanos((seconds * 1e9).round() as u64))
    }
}

/// Draws the gap between two neighbouring points of the process of rate one, in requests.
fn gap(process: ArrivalProcess, rng: &mut ChaCha8Rng) -> f64 {
    match process {
        // The inverse of the exponential distribution. 1 − u is never 0, so the logarithm is finite.
        ArrivalProcess::Poisson => -(1.0 - rng.random::<f64>()).ln(),
        // Shape k = 1 / CV² and scale θ = CV²: the mean is k θ = 1, and the coefficient of variation is 1 / √k = CV.
        ArrivalProcess::Gamma(cv) => {
            Gamma::new(1.0 / (cv * cv), cv * cv).expect("CV lies between MIN_CV and MAX_CV").sample(rng)
        }
        ArrivalProcess::Uniform | ArrivalProcess::Replayed => 1.0,
    }
}

/// All send times of `workload`, ascending. Each is a time since the start. The same arguments give the same times.
pub fn schedule(workload: &Workload, process: ArrivalProcess, seed: u64) -> Vec<Duration> {
    ArrivalTimes::new(workload.clone(), process, seed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn uniform_arrivals_are_evenly_spaced() {
        let workload = Workload { per_second: vec![2.0, 0.0, 4.0] };
        let times: Vec<f64> =
            schedule(&workload, ArrivalProcess::Uniform, 1).iter().map(Duration::as_secs_f64).collect();
        assert_eq!(times, [0.25, 0.75, 2.125, 2.375, 2.625, 2.875]);
    }

    #[test]
    fn poisson_gaps_are_exponential() {
        // A Kolmogorov–Smirnov test against the distribution function 1 − e^(−gap). The distance of a true sample
        // exceeds 1.63 / √n with a probability of 1 %.
        let workload = Workload::constant(50.0, Duration::from_secs(200));
        let times = schedule(&workload, ArrivalProcess::Poisson, 7);
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

    #[test]
    fn gamma_gaps_have_the_requested_mean_and_variation() {
        let workload = Workload::constant(50.0, Duration::from_secs(2000));
        for cv in [0.2, 1.0, 2.5] {
            let times = schedule(&workload, ArrivalProcess::Gamma(cv), 3);
            let gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
            assert!((50.0 * mean - 1.0).abs() < 0.03, "{cv}: {mean}");
            assert!((variance.sqrt() / mean / cv - 1.0).abs() < 0.05, "{cv}: {}", variance.sqrt() / mean);
        }
    }

    #[test]
    fn arrival_processes_are_parsed_and_printed_by_name() {
        for name in ["poisson", "uniform", "replayed", "gamma:2.5"] {
            assert_eq!(name.parse::<ArrivalProcess>().map(|process| process.to_string()).as_deref(), Ok(name));
        }
        for name in ["", "Poisson", "gamma", "gamma:", "gamma:0", "gamma:-1", "gamma:NaN", "gamma:inf"] {
            let error = name.parse::<ArrivalProcess>().expect_err("refused").to_string();
            assert!(error.contains("gamma:CV"), "{name}: {error}");
        }
    }

    proptest! {
        #[test]
        fn send_times_ascend_and_lie_in_seconds_that_have_load(
            rates in prop::collection::vec(0..20_u32, 1..30),
            seed: u64,
            process in prop::sample::select(
                vec![
                    ArrivalProcess::Poisson,
                    ArrivalProcess::Uniform,
                    ArrivalProcess::Replayed,
                    ArrivalProcess::Gamma(2.0),
                ]
            ),
        ) {
            let workload = Workload { per_second: rates.iter().map(|&rate| f64::from(rate)).collect() };
            let times = schedule(&workload, process, seed);
            prop_assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
            for time in &times {
                // Times are rounded to nanoseconds, so one may lie at the border of two seconds.
                let seconds = [time.saturating_sub(Duration::from_nanos(1)), *time].map(|time| time.as_secs() as usize);
                let has_load = |&second: &usize| workload.per_second.get(second).is_some_and(|&rate| rate > 0.0);
                prop_assert!(seconds.iter().any(has_load), "{time:?}");
            }
            prop_assert_eq!(&times, &schedule(&workload, process, seed));
            if matches!(process, ArrivalProcess::Uniform | ArrivalProcess::Replayed) {
                prop_assert_eq!(times.len() as u32, rates.iter().sum::<u32>());
            }
            if process == ArrivalProcess::Replayed {
                let second = |time: &&Duration| time.as_secs() == 0;
                prop_assert_eq!(times.iter().filter(second).count() as u32, rates[0]);
            }
        }
    }
}
