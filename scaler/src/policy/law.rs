//! The laws by name.

use super::Policy;
use super::behavior::Behavior;
use super::concurrency::Concurrency;
use super::cpu::Cpu;
use super::latency_ratio::LatencyRatio;
use super::latency_step::LatencyStep;
use super::ongoing::Ongoing;
use super::queue::Queue;
use super::rate::Rate;
use super::slo::{Objective, Slo};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A law's name and its own parameter, if it has one: `slo`, `cpu:70`, `queue:5s`, …
#[derive(Debug, Clone, PartialEq)]
pub enum Law {
    /// `slo`
    Slo,
    /// `latency-step`
    LatencyStep,
    /// `latency-ratio`, or `latency-ratio-literal` as it was published
    LatencyRatio {
        /// Without regard to the present number.
        is_literal: bool,
    },
    /// `queue:INTERVAL`
    Queue(Duration),
    /// `concurrency`
    Concurrency,
    /// `cpu:PERCENT`, or `cpu:PERCENT:BEHAVIOR`
    Cpu {
        /// Of what replicas request.
        percent: u32,
        /// As given; without one the HPA has other rules than with the defaults of one.
        behavior: Option<Behavior>,
    },
    /// `ray-serve`
    RayServe,
    /// `rate:REQUESTS`
    Rate(f64),
    /// `fixed:REPLICAS`
    Fixed(usize),
}

/// What every law is told.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    /// The promise.
    pub objective: Objective,
    /// For `latency-step`: below this mean, one fewer.
    pub lower_latency: Duration,
    /// Between two decisions of `slo`; the others have their own.
    pub interval: Duration,
    /// Bounds, which the HPA's law looks at itself.
    pub min: usize,
    /// And from above.
    pub max: usize,
}

impl Law {
    /// The law, remembering nothing yet.
    pub fn policy(&self, frame: &Frame) -> Policy {
        match *self {
            Self::Slo => Policy::Slo(Box::new(Slo::new(frame.objective, frame.interval, frame.max))),
            Self::LatencyStep => Policy::LatencyStep(LatencyStep::new(frame.objective.latency, frame.lower_latency)),
            Self::LatencyRatio { is_literal } => {
                Policy::LatencyRatio(LatencyRatio::new(frame.objective.latency, is_literal))
            }
            Self::Queue(interval) => Policy::Queue(Queue::new(interval)),
            Self::Concurrency => Policy::Concurrency(Concurrency::default()),
            Self::Cpu { percent, ref behavior } => {
                Policy::Cpu(Cpu::new(f64::from(percent), behavior.clone(), frame.min, frame.max))
            }
            Self::RayServe => Policy::Ongoing(Ongoing::default()),
            Self::Rate(target) => Policy::Rate(Rate::new(target)),
            Self::Fixed(replicas) => Policy::Fixed(replicas),
        }
    }

    /// Whether it wants to know what replicas do with their processors.
    pub fn measures(&self) -> bool {
        matches!(self, Self::Cpu { .. })
    }
}

/// No such law, or a parameter that makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no law; there are slo, latency-step, latency-ratio, latency-ratio-literal, queue[:INTERVAL], concurrency, \
     cpu[:PERCENT[:BEHAVIOR]] such as cpu:70:up=0s:down=60s, rate:REQUESTS, ray-serve and fixed:REPLICAS"
)]
pub struct Unknown(String);

impl FromStr for Law {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        let unknown = || Unknown(text.chars().take(40).collect());
        let (name, parameter) = match text.split_once(':') {
            Some((name, parameter)) => (name, Some(parameter)),
            None => (text, None),
        };
        Ok(match (name, parameter) {
            ("slo", None) => Self::Slo,
            ("latency-step", None) => Self::LatencyStep,
            ("latency-ratio", None) => Self::LatencyRatio { is_literal: false },
            ("latency-ratio-literal", None) => Self::LatencyRatio { is_literal: true },
            ("queue", None) => Self::Queue(Duration::from_secs(30)),
            ("queue", Some(interval)) => {
                let interval = humantime::parse_duration(interval).map_err(|_| unknown())?;
                Self::Queue(Some(interval).filter(|interval| !interval.is_zero()).ok_or_else(unknown)?)
            }
            ("concurrency", None) => Self::Concurrency,
            ("cpu", None) => Self::Cpu { percent: 70, behavior: None },
            ("cpu", Some(parameters)) => {
                let (percent, behavior) = match parameters.split_once(':') {
                    Some((percent, behavior)) => (percent, Some(behavior.parse().map_err(|_| unknown())?)),
                    None => (parameters, None),
                };
                let percent = percent.parse().ok().filter(|percent| (1..=1000).contains(percent));
                Self::Cpu { percent: percent.ok_or_else(unknown)?, behavior }
            }
            ("ray-serve", None) => Self::RayServe,
            ("rate", Some(target)) => {
                Self::Rate(target.parse().ok().filter(|target| (0.001..1e9).contains(target)).ok_or_else(unknown)?)
            }
            ("fixed", Some(replicas)) => {
                Self::Fixed(replicas.parse().ok().filter(|&replicas| replicas <= 100_000).ok_or_else(unknown)?)
            }
            _ => return Err(unknown()),
        })
    }
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slo => write!(f, "slo"),
            Self::LatencyStep => write!(f, "latency-step"),
            Self::LatencyRatio { is_literal: false } => write!(f, "latency-ratio"),
            Self::LatencyRatio { is_literal: true } => write!(f, "latency-ratio-literal"),
            Self::Queue(interval) => write!(f, "queue:{}", humantime::format_duration(*interval)),
            Self::Concurrency => write!(f, "concurrency"),
            Self::Cpu { percent, behavior: None } => write!(f, "cpu:{percent}"),
            Self::Cpu { percent, behavior: Some(behavior) } => write!(f, "cpu:{percent}:{behavior}"),
            Self::RayServe => write!(f, "ray-serve"),
            Self::Rate(target) => write!(f, "rate:{target}"),
            Self::Fixed(replicas) => write!(f, "fixed:{replicas}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_parameters_are_read_and_written() {
        for text in [
            "slo",
            "latency-step",
            "latency-ratio",
            "latency-ratio-literal",
            "queue:5s",
            "concurrency",
            "cpu:50",
            "cpu:50:behavior",
            "cpu:70:up=30s/4@15s:down=1m",
            "rate:2.5",
        ] {
            assert_eq!(text.parse::<Law>().expect("a law").to_string(), text);
        }
        assert_eq!("queue".parse(), Ok(Law::Queue(Duration::from_secs(30))));
        assert_eq!("cpu".parse(), Ok(Law::Cpu { percent: 70, behavior: None }));
        for text in [
            "",
            "magic",
            "cpu:",
            "cpu:0",
            "cpu:-5",
            "cpu:x",
            "queue:0s",
            "queue:x",
            "rate",
            "rate:0",
            "rate:NaN",
            "fixed",
            "fixed:-1",
            "slo:1",
            "cpu:70:",
            "cpu:70:calm",
            "cpu::behavior",
            "cpu:behavior",
            "cpu:0:behavior",
        ] {
            assert_eq!(text.parse::<Law>(), Err(Unknown(text.into())));
        }
    }
}
