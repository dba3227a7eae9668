//! `latency-ratio`: every 10 s, recommends the desired replicas × the 95th percentile of the last minute's latency ÷
//! the objective.
//!
//! Source: the second of the two course projects that this project replaces. Its script recommended ⌈p95 ÷ objective⌉
//! replicas and ignored the number of replicas at that time. The law `latency-ratio-literal` does the same.

use crate::quantiles::quantile;
use law::cadence::Cadence;
use law::histogram::Histogram;
use law::observation::Observation;
use law::table::{Law, LawKind, Recommendation, Settings};
use law::window::Window;
use std::time::Duration;

/// The entry of the law `latency-ratio` in a table of laws.
pub const KIND: LawKind = LawKind {
    name: "latency-ratio",
    parameter: "",
    wakes: false,
    scales_dispatchers: false,
    make: |settings, parameter| make(settings, parameter, Variant::Proportional),
};

/// The entry of the law `latency-ratio-literal` in a table of laws.
pub const LITERAL: LawKind = LawKind {
    name: "latency-ratio-literal",
    make: |settings, parameter| make(settings, parameter, Variant::Literal),
    ..KIND
};

fn make(settings: &Settings, parameter: Option<&str>, variant: Variant) -> Option<Box<dyn Law>> {
    parameter.is_none().then(|| Box::new(LatencyRatio::new(settings.objective.latency, variant)) as Box<dyn Law>)
}

/// The time between two recommendations.
const TICK: Duration = Duration::from_secs(10);
/// The time over which the percentile is taken.
const WINDOW: Duration = Duration::from_secs(60);
/// The quantile of the latency that the law compares with the objective.
const QUANTILE: f64 = 0.95;

/// How the law computes the recommended replicas from the ratio of the percentile to the objective.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// The ratio × the desired replicas.
    Proportional,
    /// The ratio itself, as in the course project.
    Literal,
}

/// The law `latency-ratio` with its state between decisions.
#[derive(Debug)]
pub struct LatencyRatio {
    objective: Duration,
    variant: Variant,
    cadence: Cadence,
    /// For each observation of the last minute, the histogram of all latencies since the start.
    history: Window<Histogram>,
}

impl LatencyRatio {
    /// A law that aims at a 95th percentile of `objective`.
    pub fn new(objective: Duration, variant: Variant) -> Self {
        Self { objective, variant, cadence: Cadence::new(TICK), history: Window::new(WINDOW) }
    }
}

impl Law for LatencyRatio {
    fn decide(&mut self, seen: &Observation) -> Recommendation {
        self.history.push(seen.at, seen.latency.clone());
        if !self.cadence.is_due(seen.at) {
            return Recommendation::waiting();
        }
        let recent = self.history.oldest().map(|oldest| seen.latency.since(oldest));
        let Some(p95) = recent.and_then(|recent| quantile(&recent, QUANTILE)) else {
            return Recommendation::no_data();
        };
        let factor = match self.variant {
            Variant::Proportional => seen.replicas.desired,
            Variant::Literal => 1,
        };
        let recommended = (p95 / self.objective.as_secs_f64() * factor as f64).ceil().max(1.0);
        let text = format!("the 95th percentile is {:.0} ms", p95 * 1e3);
        Recommendation::new(Some(recommended as usize), "percentile", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use law::observation::Replicas;

    #[test]
    fn only_the_proportional_variant_multiplies_the_ratio_by_the_desired_replicas() {
        // All 100 requests took between 0.8 and 1 s. The interpolated 95th percentile is 0.99 s.
        let buckets = |count| vec![(0.8, 0.0), (1.0, count), (f64::INFINITY, count)];
        for (variant, count, expected) in [
            (Variant::Proportional, 100.0, Some(6)),
            (Variant::Literal, 100.0, Some(2)),
            (Variant::Proportional, 0.0, None),
            (Variant::Literal, 0.0, None),
        ] {
            let mut law = LatencyRatio::new(Duration::from_millis(500), variant);
            let mut last = None;
            for second in 0..=10 {
                let count = if second == 0 { 0.0 } else { count };
                let seen = Observation {
                    at: Duration::from_secs(second),
                    latency: Histogram { buckets: buckets(count), sum: 0.9 * count },
                    replicas: Replicas { desired: 3, ready: 3, ..Replicas::default() },
                    ..Observation::default()
                };
                last = law.decide(&seen).replicas;
            }
            assert_eq!(last, expected);
        }
    }
}
