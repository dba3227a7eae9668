//! `fixed:REPLICAS`: always recommends the same number of replicas. It is a baseline for comparisons.
//!
//! Source: this project.

use law::observation::Observation;
use law::table::{Law, LawKind, Recommendation};

/// The entry of the law `fixed` in a table of laws.
pub const KIND: LawKind = LawKind {
    name: "fixed",
    parameter: ":REPLICAS",
    wakes: false,
    scales_dispatchers: true,
    make: |_, parameter| {
        let replicas = parameter?.parse().ok().filter(|&replicas| replicas <= 100_000)?;
        Some(Box::new(Fixed(replicas)))
    },
};

/// The law `fixed`. Holds the number of replicas that it recommends.
#[derive(Debug)]
pub struct Fixed(pub usize);

impl Law for Fixed {
    fn decide(&mut self, _seen: &Observation) -> Recommendation {
        Recommendation::new(Some(self.0), "fixed", "the number is fixed")
    }
}
