//! The laws that a program offers, by name.

use crate::observation::Observation;
use crate::slo::Plan;
use std::fmt;
use std::time::Duration;

/// Reason of a law that acts at intervals and whose next step is not due.
pub const WAITING: &str = "waiting";

/// A scaling law with its memory. It reads no clock, socket, environment or cluster.
pub trait Law: fmt::Debug + Send {
    /// Learns from an observation and recommends a number of replicas.
    fn decide(&mut self, seen: &Observation) -> Recommendation;
}

/// A number of replicas that a law recommends, with its reason.
#[derive(Debug, Clone, PartialEq)]
pub struct Recommendation {
    /// Replicas before limits. `None` when the law has no opinion at this tick, which is not the same as a recommendation
    /// of the present number.
    pub replicas: Option<usize>,
    /// The reason's name, a label of metrics.
    pub reason: &'static str,
    /// The reason with its figures, for people.
    pub text: String,
    /// The figures behind a recommendation of the law `slo`.
    pub plan: Option<Plan>,
}

impl Recommendation {
    /// A recommendation of a law without a plan.
    pub fn new(replicas: Option<usize>, reason: &'static str, text: impl Into<String>) -> Self {
        Self { replicas, reason, text: text.into(), plan: None }
    }

    /// No opinion: the law acts at intervals, and its next step is not due.
    pub fn waiting() -> Self {
        Self::new(None, WAITING, "the next step is not due")
    }

    /// No opinion: there are no figures yet, or not enough.
    pub fn no_data() -> Self {
        Self::new(None, "no_data", "nothing measured yet")
    }
}

/// The latency objective.
#[derive(Debug, Clone, Copy)]
pub struct Objective {
    /// Requests are to be answered within this time.
    pub latency: Duration,
    /// Share of requests that are to be answered in time, between 0 and 1.
    pub quantile: f64,
}

/// The settings that every law receives.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The latency objective.
    pub objective: Objective,
    /// Time between two decisions of `slo`; the other laws have intervals of their own.
    pub interval: Duration,
    /// Fewest replicas.
    pub min: usize,
    /// Most replicas.
    pub max: usize,
}

/// Makes a law, without memory yet, with the parameter after the colon; `None` if the parameter makes no sense.
pub type Make = fn(&Settings, Option<&str>) -> Option<Box<dyn Law>>;

/// A kind of law: one line of a [`Table`].
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// The name, such as `rate`.
    pub name: &'static str,
    /// The parameter as help texts write it, such as `:REQUESTS`, or `[:INTERVAL]` if it may be left out.
    pub parameter: &'static str,
    /// Whether the law can start the first replica, so that `--min 0` makes sense.
    pub wakes: bool,
    /// Whether the law can scale dispatchers, for which no requests wait.
    pub scales_dispatchers: bool,
    /// Makes the law with the parameter after the colon; `None` if the parameter makes no sense.
    pub make: Make,
}

/// The laws that a program offers.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// The kinds, one for each law.
    pub kinds: &'static [Kind],
    /// Where other laws are, appended to the error.
    pub elsewhere: &'static str,
}

/// No such law, or a parameter that makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no law here; there are {laws}; {elsewhere}")]
pub struct Unknown {
    text: String,
    laws: String,
    elsewhere: &'static str,
}

impl Table {
    /// The law that `text` names with its parameter, such as `rate:500`, remembering nothing yet, and its kind.
    ///
    /// # Errors
    /// When the table has no such law, or the parameter makes no sense.
    pub fn make(&self, text: &str, settings: &Settings) -> Result<(Kind, Box<dyn Law>), Unknown> {
        let (name, parameter) = text.split_once(':').map_or((text, None), |(name, it)| (name, Some(it)));
        let kind = self.kinds.iter().find(|kind| kind.name == name);
        let made = kind.and_then(|kind| Some((*kind, (kind.make)(settings, parameter)?)));
        let shown = || text.chars().take(40).collect();
        made.ok_or_else(|| Unknown { text: shown(), laws: self.names(), elsewhere: self.elsewhere })
    }

    /// All names with their parameters, for help texts.
    pub fn names(&self) -> String {
        let names: Vec<String> = self.kinds.iter().map(|kind| format!("{}{}", kind.name, kind.parameter)).collect();
        names.join(", ")
    }
}
