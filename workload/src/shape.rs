//! Workloads that are described by a shape, such as `square:low=7,high=35,period=60,length=600`. Pure.

use crate::arrivals::{MAX_CV, MIN_CV};
use crate::{MAX_PER_SECOND, MAX_SECONDS, Workload};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Gamma, StandardNormal};
use std::f64::consts::TAU;
use std::fmt;
use std::str::FromStr;

/// The kind of a shape: how the load moves between its lowest and its highest rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShapeKind {
    /// The lowest rate throughout.
    Constant,
    /// A linear rise from the lowest rate to the highest, over the whole workload.
    Ramp,
    /// The lowest rate in the first half of the workload, and the highest rate in the second half.
    Step,
    /// The highest rate for one period that begins in the middle of the workload, and the lowest rate otherwise.
    Spike,
    /// A sine wave between the lowest rate and the highest, which begins at the lowest.
    Sine,
    /// The lowest rate and the highest rate alternately, each for half a period. The lowest rate comes first.
    Square,
    /// A linear rise over each period, from the lowest rate to the highest. Then the load falls to the lowest rate at
    /// once.
    Sawtooth,
    /// The highest rate and the lowest rate alternately, each for an exponentially distributed time with a mean of half
    /// a period. The highest rate comes first.
    OnOff,
    /// One of four rates at random, each for an exponentially distributed time with a mean of half a period. The four
    /// rates are evenly spaced from the lowest to the highest.
    Markov,
    /// Every second, a rate of its own. The excess over the lowest rate follows a gamma distribution. Its mean is half
    /// of the difference between the highest rate and the lowest, and its coefficient of variation (CV) is given. The
    /// highest rate is no bound.
    Gamma,
    /// Flash crowds: the load leaps at random times, on average once in a period, by a random part of the difference
    /// between the lowest and the highest rate. Each leap decays exponentially, with a time constant of a quarter of a
    /// period.
    Flash,
    /// A random walk between the lowest and the highest rate. Over one period, the standard deviation of the change is
    /// half of the difference between the two rates.
    Walk,
}

/// The kinds of shapes with their names.
const KINDS: [(&str, ShapeKind); 12] = [
    ("constant", ShapeKind::Constant),
    ("ramp", ShapeKind::Ramp),
    ("step", ShapeKind::Step),
    ("spike", ShapeKind::Spike),
    ("sine", ShapeKind::Sine),
    ("square", ShapeKind::Square),
    ("sawtooth", ShapeKind::Sawtooth),
    ("on-off", ShapeKind::OnOff),
    ("markov", ShapeKind::Markov),
    ("gamma", ShapeKind::Gamma),
    ("flash", ShapeKind::Flash),
    ("walk", ShapeKind::Walk),
];

/// A workload that is described by a shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// The kind of the shape.
    pub kind: ShapeKind,
    /// The lowest rate, in requests per second.
    pub low: f64,
    /// The highest rate, in requests per second.
    pub high: f64,
    /// The period, in seconds.
    pub period: f64,
    /// The length of the workload, in seconds.
    pub length: usize,
    /// The seed of the shapes with random rates.
    pub seed: u64,
    /// The coefficient of variation of [`ShapeKind::Gamma`].
    pub cv: f64,
}

impl Shape {
    /// The workload of this shape. The rate of each second is the shape's rate in the middle of that second.
    pub fn workload(&self) -> Workload {
        let shares: Vec<f64> = match self.kind {
            ShapeKind::OnOff => self.switching(1),
            ShapeKind::Markov => self.switching(3),
            ShapeKind::Gamma => self.gamma(),
            ShapeKind::Flash => self.flash(),
            ShapeKind::Walk => self.walk(),
            _ => (0..self.length).map(|second| self.share(second)).collect(),
        };
        let rate = |share: f64| (self.low + (self.high - self.low) * share).min(MAX_PER_SECOND);
        Workload { per_second: shares.into_iter().map(rate).collect() }
    }

    /// The rate of a shape without randomness, as a share of the way from the lowest rate to the highest, 0 to 1.
    fn share(&self, second: usize) -> f64 {
        let (middle, length) = (second as f64 + 0.5, self.length as f64);
        let phase = (middle / self.period).fract();
        match self.kind {
            ShapeKind::Ramp => middle / length,
            ShapeKind::Step => f64::from(2 * second >= self.length),
            ShapeKind::Spike => f64::from((0.0..self.period).contains(&(middle - length / 2.0))),
            ShapeKind::Sine => 0.5 - 0.5 * (TAU * phase).cos(),
            ShapeKind::Square => f64::from(phase >= 0.5),
            ShapeKind::Sawtooth => phase,
            _ => 0.0,
        }
    }

    /// The shares of a rate that switches at random times between `steps` + 1 evenly spaced rates.
    fn switching(&self, steps: u32) -> Vec<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let (mut level, mut until) = (0_u32, 0.0);
        let share = |second: usize| {
            while until <= second as f64 {
                level = if steps == 1 { 1 - level } else { rng.random_range(0..=steps) };
                until += exponential(&mut rng) * self.period / 2.0;
            }
            f64::from(level) / f64::from(steps)
        };
        (0..self.length).map(share).collect()
    }

    /// The shares of a rate that is drawn anew in each second. Their mean is 0.5.
    fn gamma(&self) -> Vec<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        // Shape k = 1 / CV² and scale θ = CV² / 2: the mean is k θ = 0.5, and the CV is 1 / √k.
        let squared = self.cv * self.cv;
        let distribution = Gamma::new(1.0 / squared, squared / 2.0).expect("the CV was checked when it was parsed");
        (0..self.length).map(|_| distribution.sample(&mut rng)).collect()
    }

    /// The shares of a rate that leaps and decays.
    fn flash(&self) -> Vec<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let (mut share, mut next) = (0.0_f64, exponential(&mut rng) * self.period);
        let step = |second: usize| {
            share *= (-4.0 / self.period).exp();
            while next <= second as f64 {
                share = (share + rng.random::<f64>()).min(1.0);
                next += exponential(&mut rng) * self.period;
            }
            share
        };
        (0..self.length).map(step).collect()
    }

    /// The shares of a random walk that is reflected at 0 and at 1.
    fn walk(&self) -> Vec<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut share = 0.5_f64;
        let step = |_| {
            let normal: f64 = StandardNormal.sample(&mut rng);
            share = (share + 0.5 * normal / self.period.sqrt()).abs();
            share = (1.0 - (1.0 - share).abs()).max(0.0);
            share
        };
        (0..self.length).map(step).collect()
    }
}

/// Draws from the exponential distribution with the mean 1.
fn exponential(rng: &mut ChaCha8Rng) -> f64 {
    -(1.0 - rng.random::<f64>()).ln()
}

/// The reason why a text is no shape.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shape {text:?} is invalid: {reason}; an example is square:low=7,high=35,period=60,length=600")]
pub struct Error {
    text: String,
    reason: String,
}

impl FromStr for Shape {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let error = |reason: String| Error { text: text.chars().take(80).collect(), reason };
        let (name, parameters) = text.split_once(':').unwrap_or((text, ""));
        let kind = KINDS.iter().find(|(known, _)| *known == name).map(|&(_, kind)| kind).ok_or_else(|| {
            let known: Vec<&str> = KINDS.iter().map(|(known, _)| *known).collect();
            error(format!("there is no such shape; the shapes are {}", known.join(", ")))
        })?;
        let mut shape = Self { kind, low: 7.0, high: 35.0, period: 120.0, length: 600, seed: 1, cv: 1.0 };
        for parameter in parameters.split(',').filter(|parameter| !parameter.is_empty()) {
            let (key, value) = parameter
                .split_once('=')
                .ok_or_else(|| error(format!("{parameter:?} is not of the form KEY=VALUE")))?;
            let number = |range: std::ops::RangeInclusive<f64>| {
                let parsed = value.parse().ok().filter(|number| range.contains(number));
                parsed.ok_or_else(|| {
                    error(format!("{key} ({value}) must lie between {} and {}", range.start(), range.end()))
                })
            };
            match key {
                "low" => shape.low = number(0.0..=MAX_PER_SECOND)?,
                "high" => shape.high = number(0.0..=MAX_PER_SECOND)?,
                "period" => shape.period = number(1.0..=MAX_SECONDS as f64)?,
                "length" => shape.length = number(1.0..=MAX_SECONDS as f64)? as usize,
                "seed" => {
                    shape.seed = value.parse().map_err(|_| error(format!("seed ({value}) must be a whole number")))?;
                }
                "cv" => shape.cv = number(MIN_CV..=MAX_CV)?,
                _ => return Err(error(format!("{key:?} is none of low, high, period, length, seed, cv"))),
            }
        }
        Ok(shape)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = KINDS.iter().find(|(_, kind)| *kind == self.kind).map_or("", |(name, _)| name);
        let Self { low, high, period, length, seed, cv, .. } = self;
        write!(f, "{name}:low={low},high={high},period={period},length={length},seed={seed}")?;
        if self.kind == ShapeKind::Gamma { write!(f, ",cv={cv}") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_shape_has_the_expected_rates() {
        let rates = |text: &str| text.parse::<Shape>().expect(text).workload().per_second;
        assert_eq!(rates("constant:low=3,length=2"), [3.0, 3.0]);
        assert_eq!(rates("ramp:low=0,high=4,length=4"), [0.5, 1.5, 2.5, 3.5]);
        assert_eq!(rates("step:low=1,high=2,length=4"), [1.0, 1.0, 2.0, 2.0]);
        assert_eq!(rates("spike:low=1,high=9,period=2,length=6"), [1.0, 1.0, 1.0, 9.0, 9.0, 1.0]);
        assert_eq!(rates("square:low=1,high=2,period=4,length=6"), [1.0, 1.0, 2.0, 2.0, 1.0, 1.0]);
        assert_eq!(rates("sawtooth:low=0,high=2,period=2,length=4"), [0.5, 1.5, 0.5, 1.5]);
        let sine = rates("sine:low=0,high=10,period=100,length=100");
        assert!(sine[0] < 0.1 && sine[49] > 9.9 && sine[99] < 0.1, "{sine:?}");
        let on_off = rates("on-off:low=1,high=5,period=20,length=20000");
        assert!(on_off.iter().all(|&rate| rate == 1.0 || rate == 5.0));
        let mean = on_off.iter().sum::<f64>() / 20_000.0;
        assert!((mean - 3.0).abs() < 0.2, "{mean}");
        assert_ne!(on_off, rates("on-off:low=1,high=5,period=20,length=20000,seed=2"));
        let gamma = rates("gamma:low=2,high=42,cv=2,length=100000");
        let (mean, variation) = mean_and_variation(&gamma.iter().map(|rate| rate - 2.0).collect::<Vec<_>>());
        assert!((mean - 20.0).abs() < 0.5 && (variation - 2.0).abs() < 0.1, "{mean} {variation}");
        for text in ["flash:low=5,high=50,period=60,length=5000", "walk:low=5,high=50,period=60,length=5000"] {
            let (found, others) = (rates(text), rates(&format!("{text},seed=2")));
            assert!(found.iter().all(|rate| (5.0..=50.0).contains(rate)) && found != others, "{text}");
            let (_, variation) = mean_and_variation(&found);
            assert!(variation > 0.3, "{text}: {variation}");
        }
        assert_eq!(rates("markov:low=0,high=3,period=9,length=99").iter().fold(0.0, |a: f64, &b| a.max(b)), 3.0);
    }

    fn mean_and_variation(values: &[f64]) -> (f64, f64) {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
        (mean, variance.sqrt() / mean)
    }

    #[test]
    fn errors_name_the_invalid_part_of_a_shape() {
        for (text, word) in [
            ("", "no such shape"),
            ("circle", "the shapes are constant, ramp"),
            ("sine:low", "not of the form KEY=VALUE"),
            ("sine:low=-1", "low (-1) must lie"),
            ("sine:low=NaN", "low (NaN) must lie"),
            ("sine:period=0", "period (0) must lie"),
            ("sine:length=1e9", "length (1e9) must lie"),
            ("gamma:cv=0", "cv (0) must lie"),
            ("sine:colour=3", "\"colour\" is none of"),
            ("sine:seed=x", "seed (x) must be"),
        ] {
            let error = text.parse::<Shape>().expect_err("refused").to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        let shape: Shape = "square:low=1,high=2.5,period=3,length=4,seed=5".parse().expect("a shape");
        assert_eq!(shape.to_string().parse(), Ok(shape));
    }
}
