//! The sections of `bench scaler`, which can be run one by one.

use super::sets::HeldOut;
use super::{course, decisions, disturbed, frontier, live, sets, sizes, startup, steady};
use crate::figure::Figure;
use anyhow::Result;
use clap::ValueEnum;
use serde_json::Value;

/// A section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Section {
    /// The course task's workload, next to the laws of other autoscalers
    Course,
    /// The workloads on which the law's constants were chosen
    Training,
    /// Workloads on which no constant was chosen
    HeldOut,
    /// Attainment against cost, of slo for several quantiles and of other laws as shipped and tuned
    Frontier,
    /// Start-up times of 1 s, 12 s and 40 s
    Startup,
    /// Start-up times that vary, readings at varying instants, replicas that die, and two dispatchers
    Disturbed,
    /// Changes of the number of replicas under steady loads
    Steady,
    /// More replicas, other service times, slots and batches
    Sizes,
    /// The time of a decision for 1,000 replicas
    Decisions,
    /// Two workloads with the real programs, and their simulations
    Live,
}

/// What a section has measured.
pub(super) struct Measured {
    /// The figures that are compared with targets.
    pub(super) figures: Vec<Figure>,
    /// All results, for the JSON.
    pub(super) details: Value,
}

impl Section {
    /// The name as in `--only`.
    pub(super) fn name(self) -> String {
        self.to_possible_value().expect("clap hides no section").get_name().to_owned()
    }

    /// The heading of the section's output.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Course => "The course task's workload, five seeds",
            Self::Training => "The set training, on which the constants were chosen, three seeds",
            Self::HeldOut => "The set held-out, on which no constant was chosen, three seeds",
            Self::Frontier => "The frontier, on the set held-out without its gamma workload, three seeds",
            Self::Startup => "Start-up times, on the set held-out, three seeds",
            Self::Disturbed => "Disturbances, on the set held-out without its gamma workload, three seeds",
            Self::Steady => "Half an hour of steady load, 17 seeds",
            Self::Sizes => "Other sizes, on the set held-out, three seeds",
            Self::Decisions => "An hour of 20,000 requests/s on 1,000 replicas",
            Self::Live => "Two workloads, live and simulated",
        }
    }

    /// Runs the section. Prints its tables, but not its figures.
    ///
    /// # Errors
    /// If a program does not start, fails or does not answer.
    pub(super) fn measure(self, held_out: &HeldOut) -> Result<Measured> {
        match self {
            Self::Course => course::measure(),
            Self::Training => sets::measure_training(),
            Self::HeldOut => sets::measure_held_out(held_out),
            Self::Frontier => frontier::measure(held_out),
            Self::Startup => startup::measure(),
            Self::Disturbed => disturbed::measure(held_out),
            Self::Steady => steady::measure(),
            Self::Sizes => sizes::measure(held_out),
            Self::Decisions => decisions::measure(),
            Self::Live => live::measure(),
        }
    }
}
