//! The laws that the program `scaler` offers.

pub mod rate;

use law::slo;
use law::table::Table;

/// The laws that `--policy` of the program `scaler` accepts.
pub const TABLE: Table = Table {
    kinds: &[slo::KIND, rate::KIND],
    elsewhere: "the laws of other autoscalers are the lab's: run `lab run` with the same flags instead of scaler",
};
