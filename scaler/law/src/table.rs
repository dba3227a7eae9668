//! The laws that a program offers, by name.

use crate::observation::Observation;
use crate::slo::Plan;
use std::fmt;
use std::time::Duration;

/// The reason of a recommendation while the law's next step is not due.
pub const WAITING: &str = "waiting";

/// A scaling law with its state between decisions. It reads no clock, socket, environment or cluster.
pub trait Law: fmt::Debug + Send {
    /// Learns from an observation and recommends a number of replicas.
    fn decide(&mut self, seen: &Observation) -> Recommendation;
}

/// A number of replicas that a law recommends, with its reason.
#[derive(Debug, Clone, PartialEq)]
pub struct Recommendation {
    /// The recommended replicas. `None` if the law has no opinion at this tick. Unlike a recommendation of the present
    /// number, `None` does not count in the stabilisation window.
    pub replicas: Option<usize>,
    /// The name of the reason, which is also a label of metrics.
    pub reason: &'static str,
    /// The reason with its figures, for people.
    pub text: String,
    /// The figures behind a recommendation of the law `slo`.
    pub plan: Option<Plan>,
}

impl Recommendation {
    /// A recommendation without a plan.
    pub fn new(replicas: Option<usize>, reason: &'static str, text: impl Into<String>) -> Self {
        Self { replicas, reason, text: text.into(), plan: None }
    }

    /// The answer of a law that acts at intervals and whose next step is not due: no opinion.
    pub fn waiting() -> Self {
        Self::new(None, WAITING, "the law's next step is not due")
    }

    /// The answer of a law that has no figures yet, or not enough of them: no opinion.
    pub fn no_data() -> Self {
        Self::new(None, "no_data", "there are not enough figures yet")
    }
}

/// The latency objective.
#[derive(Debug, Clone, Copy)]
pub struct Objective {
    /// The time within which a request should be answered.
    pub latency: Duration,
    /// The share of requests that should be answered within the objective's time, between 0 and 1. The law `slo` takes it
    /// for a price: a late request costs as much as the work for 1 ÷ (1 − quantile) requests.
    pub quantile: f64,
}

/// The settings that every law receives.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The latency objective.
    pub objective: Objective,
    /// The time between two decisions of the law `slo`. The other laws have intervals of their own.
    pub interval: Duration,
    /// The time from a recommendation until the number of replicas changes: zero if the scaler itself changes it.
    pub delay: Duration,
    /// The most replicas that the platform adds per second; infinite if it adds any number at once.
    pub starts_per_second: f64,
    /// The fewest replicas that may run.
    pub min: usize,
    /// The most replicas that may run.
    pub max: usize,
}

/// Makes a law that has observed nothing yet. The argument is the parameter, which is the text after the colon. `None`
/// if the law does not accept the parameter.
pub type Make = fn(&Settings, Option<&str>) -> Option<Box<dyn Law>>;

/// A law that a program offers: one line of a [`Table`].
#[derive(Debug, Clone, Copy)]
pub struct LawKind {
    /// The law's name, such as `rate`.
    pub name: &'static str,
    /// The parameter as help texts show it, such as `:REQUESTS`, or `[:INTERVAL]` if it may be left out.
    pub parameter: &'static str,
    /// Whether the law can start the first replica. Only such a law permits `--min 0`.
    pub wakes: bool,
    /// Whether the law can scale dispatchers, whose observations have no queue length.
    pub scales_dispatchers: bool,
    /// Makes the law from its parameter.
    pub make: Make,
}

/// The laws that a program offers.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// One entry for each law.
    pub kinds: &'static [LawKind],
    /// The end of the error for an unknown law. It says where other laws are.
    pub elsewhere: &'static str,
}

/// The table has no such law, or the law does not accept the parameter.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no law, or its parameter is not accepted; the laws here are {laws}; {elsewhere}")]
pub struct UnknownLaw {
    text: String,
    laws: String,
    elsewhere: &'static str,
}

impl Table {
    /// The law that `text` names with its parameter, such as `rate:500`, and its entry. The law has observed nothing
    /// yet.
    ///
    /// # Errors
    /// If the table has no such law, or the law does not accept the parameter.
    pub fn make(&self, text: &str, settings: &Settings) -> Result<(LawKind, Box<dyn Law>), UnknownLaw> {
        let (name, parameter) = text.split_once(':').map_or((text, None), |(name, parameter)| (name, Some(parameter)));
        let kind = self.kinds.iter().find(|kind| kind.name == name);
        let made = kind.and_then(|kind| Some((*kind, (kind.make)(settings, parameter)?)));
        let quoted = || text.chars().take(40).collect();
        made.ok_or_else(|| UnknownLaw { text: quoted(), laws: self.names(), elsewhere: self.elsewhere })
    }

    /// All names with their parameters, separated by commas, for help texts.
    pub fn names(&self) -> String {
        let names: Vec<String> = self.kinds.iter().map(|kind| format!("{}{}", kind.name, kind.parameter)).collect();
        names.join(", ")
    }
}
