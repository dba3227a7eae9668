//! `fixed:REPLICAS`: always the same number, to compare with.

use law::observation::Observation;
use law::table::{Kind, Law, Recommendation};

/// The line for a table of laws.
pub const KIND: Kind = Kind {
    name: "fixed",
    parameter: ":REPLICAS",
    wakes: false,
    scales_dispatchers: true,
    make: |_, parameter| {
        let replicas = parameter?.parse().ok().filter(|&replicas| replicas <= 100_000)?;
        Some(Box::new(Fixed(replicas)))
    },
};

/// Recommends so many replicas.
#[derive(Debug)]
pub struct Fixed(pub usize);

impl Law for Fixed {
    fn decide(&mut self, _seen: &Observation) -> Recommendation {
        Recommendation::new(Some(self.0), "fixed", "always so many")
    }
}
