//! `latency-ratio`: every 10 s, the 95th percentile of the last minute ÷ the objective.
//!
//! Source: the second course project's script. It asked for ⌈p95 ÷ target⌉ replicas, whatever there were
//! (`latency-ratio-literal`); that times the present number is the law that was meant.

use crate::quantiles::quantile;
use law::cadence::Cadence;
use law::histogram::Histogram;
use law::observation::Observation;
use law::table::{Kind, Law, Recommendation, Settings};
use law::window::Window;
use std::time::Duration;

/// The line for a table of laws.
pub const KIND: Kind = Kind {
    name: "latency-ratio",
    parameter: "",
    wakes: false,
    scales_dispatchers: false,
    make: |settings, parameter| make(settings, parameter, false),
};

/// The line of the law as it was published.
pub const LITERAL: Kind =
    Kind { name: "latency-ratio-literal", make: |settings, parameter| make(settings, parameter, true), ..KIND };

fn make(settings: &Settings, parameter: Option<&str>, is_literal: bool) -> Option<Box<dyn Law>> {
    parameter.is_none().then(|| Box::new(LatencyRatio::new(settings.objective.latency, is_literal)) as Box<dyn Law>)
}

const TICK: Duration = Duration::from_secs(10);
const WINDOW: Duration = Duration::from_secs(60);
const QUANTILE: f64 = 0.95;

/// The law and what it remembers.
#[derive(Debug)]
pub struct LatencyRatio {
    objective: Duration,
    /// As published: the present number does not count.
    is_literal: bool,
    cadence: Cadence,
    history: Window<Histogram>,
}

impl LatencyRatio {
    /// Holds the percentile at `objective`.
    pub fn new(objective: Duration, is_literal: bool) -> Self {
        Self { objective, is_literal, cadence: Cadence::new(TICK), history: Window::new(WINDOW) }
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
        let current = if self.is_literal { 1 } else { seen.replicas.desired };
        let recommended = (p95 / self.objective.as_secs_f64() * current as f64).ceil().max(1.0);
        Recommendation::new(
            Some(recommended as usize),
            "percentile",
            format!("the 95th percentile is {:.0} ms", p95 * 1e3),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use law::observation::Replicas;

    #[test]
    fn the_ratio_times_what_there_is_or_literally() {
        // 100 requests between 0.8 and 1 s: p95 by interpolation is 0.99 s.
        let buckets = |count| vec![(0.8, 0.0), (1.0, count), (f64::INFINITY, count)];
        for (is_literal, count, expected) in
            [(false, 100.0, Some(6)), (true, 100.0, Some(2)), (false, 0.0, None), (true, 0.0, None)]
        {
            let mut law = LatencyRatio::new(Duration::from_millis(500), is_literal);
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
