//! The laws of other autoscalers, beside those of the production scaler.

pub mod behavior;
pub mod concurrency;
pub mod cpu;
pub mod fixed;
pub mod latency_ratio;
pub mod latency_step;
pub mod queue;
pub mod ray_serve;

use crate::pods::Pod;
use cpu::{Cpu, Parameters};
use law::observation::Observation;
use law::slo;
use law::table::{self, Kind, Law, Objective, Recommendation, Settings, Table};
use scaler::laws::rate;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const KINDS: &[Kind] = &[
    slo::KIND,
    concurrency::KIND,
    queue::KIND,
    latency_step::KIND,
    latency_ratio::KIND,
    latency_ratio::LITERAL,
    ray_serve::KIND,
    rate::KIND,
    fixed::KIND,
];

/// The laws that can scale a live system. A law that is added here can be chosen with `--policy`, also in the plant.
pub const LIVE: Table = Table {
    kinds: KINDS,
    elsewhere: "cpu is the Kubernetes HPA: run the cluster's own (kubectl autoscale deployment), or try it in the plant \
                with lab simulate --policy cpu:70",
};

/// The laws that can scale the plant.
const PLANT: Table =
    Table { kinds: KINDS, elsewhere: "and cpu[:PERCENT[:BEHAVIOR]], such as cpu:70 or cpu:70:up=0s:down=60s" };

/// A law that was chosen for the plant.
#[derive(Debug, Clone, PartialEq)]
pub enum Choice {
    /// A law that sees what the scaler sees, by its name and parameter.
    Live(String),
    /// The Kubernetes HPA, which sees what pods use of the processors, by its name and parameters as given.
    Cpu(String, Parameters),
}

impl Choice {
    /// Whether this is the production scaler's law for replicas.
    pub fn is_slo(&self) -> bool {
        matches!(self, Self::Live(name) if name == slo::KIND.name)
    }

    /// The law, remembering nothing yet.
    pub fn make(&self, settings: &Settings) -> Running {
        match self {
            Self::Live(name) => Running::Live(PLANT.make(name, settings).expect("the name was checked").1),
            Self::Cpu(_, parameters) => {
                Running::Cpu(Box::new(Cpu::new(parameters.clone(), settings.min, settings.max)))
            }
        }
    }
}

impl FromStr for Choice {
    type Err = table::Unknown;

    fn from_str(text: &str) -> Result<Self, table::Unknown> {
        if let Some(parameters) = cpu::parse(text) {
            return Ok(Self::Cpu(text.into(), parameters));
        }
        // No law's parameter depends on the settings.
        let objective = Objective { latency: Duration::from_millis(500), quantile: 0.99 };
        let settings = Settings { objective, interval: Duration::from_secs(1), min: 1, max: 1 };
        PLANT.make(text, &settings).map(|_| Self::Live(text.into()))
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Live(name) | Self::Cpu(name, _) => f.write_str(name),
        }
    }
}

/// A law that scales the plant.
#[derive(Debug)]
pub enum Running {
    /// A law that sees what the scaler sees.
    Live(Box<dyn Law>),
    /// The Kubernetes HPA.
    Cpu(Box<Cpu>),
}

impl Running {
    /// Learns from an observation, and from the pods of that instant, and recommends a number of replicas.
    pub fn decide(&mut self, seen: &Observation, pods: &[Pod]) -> Recommendation {
        match self {
            Self::Live(law) => law.decide(seen),
            Self::Cpu(law) => law.decide(seen, pods),
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
            "latency-step:0.4",
            "latency-ratio",
            "latency-ratio-literal",
            "queue",
            "queue:5s",
            "concurrency",
            "cpu",
            "cpu:50",
            "cpu:50:behavior",
            "cpu:70:up=30s/4@15s:down=1m",
            "rate:2.5",
            "ray-serve",
            "fixed:3",
        ] {
            assert_eq!(text.parse::<Choice>().expect("a law").to_string(), text);
        }
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
            "latency-step:1",
            "cpu:70:",
            "cpu:70:calm",
            "cpu::behavior",
            "cpu:behavior",
            "cpu:0:behavior",
        ] {
            let error = text.parse::<Choice>().expect_err(text).to_string();
            assert!(error.contains(&format!("{text:?} is no law")) && error.contains("cpu[:PERCENT"), "{error}");
        }
    }

    #[test]
    fn the_hpa_is_not_run_live() {
        let objective = Objective { latency: Duration::from_secs(1), quantile: 0.99 };
        let settings = Settings { objective, interval: Duration::from_secs(1), min: 1, max: 1 };
        let error = LIVE.make("cpu:70", &settings).expect_err("refused").to_string();
        assert!(error.contains("kubectl autoscale"), "{error}");
    }
}
