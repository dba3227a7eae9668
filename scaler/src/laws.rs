//! The laws of the production scaler.

pub mod rate;

use law::slo;
use law::table::Table;

/// A law that is added here can be chosen with `--policy`.
pub const TABLE: Table = Table {
    kinds: &[slo::KIND, rate::KIND],
    elsewhere: "the laws of other autoscalers are the lab's: run `lab run` with the same flags instead of scaler",
};
