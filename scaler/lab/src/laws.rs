//! The laws of other autoscalers, and the tables that list these laws together with those of the production scaler.
//!
//! A new law needs one file here with a type that implements [`Law`] and a constant of type [`LawKind`], a `mod` line,
//! and a line in `KINDS`.

pub mod behavior;
pub mod concurrency;
pub mod cpu;
pub mod fixed;
pub mod forecast;
pub mod hpa;
pub mod latency_ratio;
pub mod latency_step;
pub mod queue;
pub mod ray_serve;
pub mod windows;

use crate::pods::Pod;
use cpu::{Cpu, CpuParameters};
use hpa::Hpa;
use law::observation::Observation;
use law::slo;
use law::table::{self, Law, LawKind, Objective, Recommendation, Settings, Table};
use scaler::laws::rate;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const KINDS: &[LawKind] = &[
    slo::KIND,
    AT_ONCE,
    windows::KIND,
    concurrency::KIND,
    queue::KIND,
    latency_step::KIND,
    latency_ratio::KIND,
    latency_ratio::LITERAL,
    ray_serve::KIND,
    forecast::KIND,
    rate::KIND,
    fixed::KIND,
];

/// The law `slo` that does not know how many replicas the platform adds per second.
const AT_ONCE: LawKind = LawKind {
    name: "slo-at-once",
    make: |settings, parameter| {
        (slo::KIND.make)(&Settings { starts_per_second: f64::INFINITY, ..*settings }, parameter)
    },
    ..slo::KIND
};

/// The laws that can scale a live system: all but `cpu`.
pub const LIVE: Table = Table {
    kinds: KINDS,
    elsewhere: "cpu is the Kubernetes HPA: start an HPA in the cluster (kubectl autoscale deployment), or simulate one \
                with lab simulate --policy cpu:70",
};

/// The laws that can scale the plant: those of [`LIVE`]. The law `cpu` can scale the plant, too, but it needs figures
/// of pods, which an [`Observation`] does not have. [`LawChoice`] therefore has it beside this table.
const PLANT: Table =
    Table { kinds: KINDS, elsewhere: "and cpu[:PERCENT[:BEHAVIOR]], such as cpu:70 or cpu:70:up=0s:down=60s" };

/// The law that `--policy` chooses for the plant.
#[derive(Debug, Clone, PartialEq)]
pub enum LawChoice {
    /// A law of the table `PLANT`. Holds the text of the flag, such as `queue:5s`.
    Live(String),
    /// The Kubernetes HPA. Holds the text of the flag, such as `cpu:70`, and the parameters that the text gives.
    Cpu(String, CpuParameters),
    /// The Kubernetes HPA with the specification of an object of a cluster. Holds the name of the row, such as
    /// `hpa shop/replica`.
    Hpa(String, Hpa),
}

impl LawChoice {
    /// Whether the law is made for the production scaler's limits: whether it is `slo`, or what `slo` was before.
    pub fn needs_limits(&self) -> bool {
        let names = [slo::KIND.name, AT_ONCE.name, windows::KIND.name];
        matches!(self, Self::Live(name) if names.contains(&name.as_str()))
    }

    /// Whether the law can start the first replica. A law that cannot would leave `--min 0` without any replica for
    /// ever.
    pub fn starts_first_replica(&self) -> bool {
        match self {
            Self::Live(text) => parse_kind(text).is_ok_and(|kind| kind.wakes),
            Self::Cpu(..) | Self::Hpa(..) => false,
        }
    }

    /// The fewest and the most replicas of the law, if it has bounds of its own.
    pub fn bounds(&self) -> Option<(usize, usize)> {
        match self {
            Self::Hpa(_, hpa) => Some((hpa.min, hpa.max)),
            Self::Live(_) | Self::Cpu(..) => None,
        }
    }

    /// Makes the law in its initial state, without any observation.
    pub fn make(&self, settings: &Settings) -> PlantLaw {
        match self {
            Self::Live(text) => PlantLaw::Live(PLANT.make(text, settings).expect("from_str has checked the text").1),
            Self::Cpu(_, parameters) | Self::Hpa(_, Hpa { parameters, .. }) => {
                PlantLaw::Cpu(Box::new(Cpu::new(parameters.clone(), settings.min, settings.max)))
            }
        }
    }
}

/// The kind of law that `text` names.
///
/// # Errors
/// If no law has that name, or the law's parameter cannot be parsed or is out of range.
fn parse_kind(text: &str) -> Result<LawKind, table::UnknownLaw> {
    // These settings have no effect: the kind, and whether the parameter is valid, depend on `text` only.
    let objective = Objective { latency: Duration::from_millis(500), quantile: 0.99 };
    let settings = Settings {
        objective,
        interval: Duration::from_secs(1),
        delay: Duration::ZERO,
        starts_per_second: f64::INFINITY,
        min: 1,
        max: 1,
    };
    PLANT.make(text, &settings).map(|(kind, _)| kind)
}

impl FromStr for LawChoice {
    type Err = table::UnknownLaw;

    fn from_str(text: &str) -> Result<Self, table::UnknownLaw> {
        match cpu::parse(text) {
            Some(parameters) => Ok(Self::Cpu(text.into(), parameters)),
            None => parse_kind(text).map(|_| Self::Live(text.into())),
        }
    }
}

impl fmt::Display for LawChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Live(text) | Self::Cpu(text, _) | Self::Hpa(text, _) => f.write_str(text),
        }
    }
}

/// A law that scales the plant. It keeps its state from decision to decision.
#[derive(Debug)]
pub enum PlantLaw {
    /// A law of the table `PLANT`.
    Live(Box<dyn Law>),
    /// The Kubernetes HPA.
    Cpu(Box<Cpu>),
}

impl PlantLaw {
    /// Records an observation and the pods at the same time, and recommends a number of replicas.
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
    fn laws_are_parsed_and_printed_with_their_parameters() {
        for text in [
            "slo",
            "slo-at-once",
            "windows",
            "latency-step",
            "latency-step:0.4",
            "latency-ratio",
            "latency-ratio-literal",
            "queue",
            "queue:5s",
            "concurrency",
            "concurrency:0.5",
            "cpu",
            "cpu:50",
            "cpu:50:behavior",
            "cpu:70:up=30s/4@15s:down=1m",
            "cpu:70:up=tolerance=0:down=1m/tolerance=0",
            "rate:2.5",
            "ray-serve",
            "forecast",
            "forecast:10s",
            "forecast:10s:0.8",
            "fixed:3",
        ] {
            assert_eq!(text.parse::<LawChoice>().expect("a law").to_string(), text);
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
            "forecast:0s",
            "forecast:10s:0",
            "forecast:10s:1.1",
            "forecast:10s:x",
            "rate",
            "rate:0",
            "rate:NaN",
            "fixed",
            "fixed:-1",
            "slo:1",
            "concurrency:0",
            "concurrency:1.1",
            "concurrency:x",
            "latency-step:1",
            "cpu:70:",
            "cpu:70:calm",
            "cpu:70:tolerance=0",
            "cpu::behavior",
            "cpu:behavior",
            "cpu:0:behavior",
        ] {
            let error = text.parse::<LawChoice>().expect_err(text).to_string();
            assert!(error.contains(&format!("{text:?} is no law")) && error.contains("cpu[:PERCENT"), "{error}");
        }
    }

    #[test]
    fn the_hpa_cannot_scale_a_live_system() {
        let objective = Objective { latency: Duration::from_secs(1), quantile: 0.99 };
        let settings = Settings {
            objective,
            interval: Duration::from_secs(1),
            delay: Duration::ZERO,
            starts_per_second: f64::INFINITY,
            min: 1,
            max: 1,
        };
        let error = LIVE.make("cpu:70", &settings).expect_err("refused").to_string();
        assert!(error.contains("kubectl autoscale"), "{error}");
    }
}
