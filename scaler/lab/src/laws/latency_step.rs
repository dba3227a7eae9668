//! `latency-step`: every 30 s, recommends one replica more if the mean latency of the last minute is over the
//! objective. It recommends one replica fewer if the mean is under a share of the objective: 0.5, or the parameter, as
//! in `latency-step:0.4`. Without requests in the last minute it recommends nothing.
//!
//! Source: the first of the two course projects that this project replaces. Its script queried Prometheus for
//! `rate(…_sum[1m]) / rate(…_count[1m])`.

use law::cadence::Cadence;
use law::histogram::Histogram;
use law::observation::Observation;
use law::table::{Law, LawKind, Recommendation};
use law::window::Window;
use std::time::Duration;

/// The entry of the law `latency-step` in a table of laws.
pub const KIND: LawKind = LawKind {
    name: "latency-step",
    parameter: "[:SHARE]",
    wakes: false,
    scales_dispatchers: false,
    make: |settings, parameter| {
        let lower = parameter.unwrap_or("0.5").parse().ok().filter(|share| (0.0..1.0).contains(share))?;
        let upper = settings.objective.latency;
        Some(Box::new(LatencyStep::new(upper, upper.mul_f64(lower))))
    },
};

/// The time between two steps.
const STEP: Duration = Duration::from_secs(30);

/// The time over which the mean is taken.
const WINDOW: Duration = Duration::from_secs(60);

/// The law `latency-step` with its state between decisions.
#[derive(Debug)]
pub struct LatencyStep {
    upper: Duration,
    lower: Duration,
    cadence: Cadence,
    /// For each observation of the last minute, the histogram of all latencies since the start.
    history: Window<Histogram>,
}

impl LatencyStep {
    /// A law that adds a replica if the mean latency is over `upper`, and removes one if it is under `lower`.
    pub fn new(upper: Duration, lower: Duration) -> Self {
        Self { upper, lower, cadence: Cadence::new(STEP), history: Window::new(WINDOW) }
    }
}

impl Law for LatencyStep {
    fn decide(&mut self, seen: &Observation) -> Recommendation {
        self.history.push(seen.at, seen.latency.clone());
        if !self.cadence.is_due(seen.at) {
            return Recommendation::waiting();
        }
        let Some(mean) = self.history.oldest().and_then(|oldest| seen.latency.since(oldest).mean()) else {
            return Recommendation::no_data();
        };
        let desired = seen.replicas.desired;
        let replicas = if mean > self.upper.as_secs_f64() {
            desired + 1
        } else if mean < self.lower.as_secs_f64() {
            desired.saturating_sub(1)
        } else {
            desired
        };
        Recommendation::new(Some(replicas), "mean_latency", format!("mean latency is {:.0} ms", mean * 1e3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use law::observation::Replicas;

    /// The recommendation at each observation, every 10 s, with two desired replicas. It is 2 where the law recommends
    /// nothing. Before each observation, ten requests had the given mean latency, or no request came if that is `None`.
    fn run(means: &[Option<f64>]) -> Vec<usize> {
        let mut law = LatencyStep::new(Duration::from_millis(500), Duration::from_millis(200));
        let (mut count, mut sum) = (0.0, 0.0);
        let tick = |(index, mean): (usize, &Option<f64>)| {
            if let Some(mean) = mean {
                count += 10.0;
                sum += 10.0 * mean;
            }
            law.decide(&Observation {
                at: Duration::from_secs(10 * index as u64),
                latency: Histogram { buckets: vec![(f64::INFINITY, count)], sum },
                replicas: Replicas { desired: 2, ready: 2, ..Replicas::default() },
                ..Observation::default()
            })
            .replicas
            .unwrap_or(2)
        };
        means.iter().enumerate().map(tick).collect()
    }

    #[test]
    fn the_number_changes_by_one_every_thirty_seconds() {
        assert_eq!(run(&[Some(0.9); 7]), [2, 2, 2, 3, 2, 2, 3]);
        assert_eq!(run(&[Some(0.1); 4]), [2, 2, 2, 1]);
        assert_eq!(run(&[Some(0.3); 4]), [2, 2, 2, 2]);
        assert_eq!(run(&[None; 7]), [2; 7]);
    }

    #[test]
    fn a_stabilisation_window_does_not_stop_the_law() {
        use limits::{Limiter, Limits};
        let mut law = LatencyStep::new(Duration::from_millis(500), Duration::from_millis(200));
        let mut limiter = Limiter::new(Limits { down_window: Duration::from_secs(20), ..Limits::bounds(1, 9) });
        let mut desired = 4;
        for tick in 0..100 {
            let (at, count) = (Duration::from_secs(2 * tick), tick as f64);
            let seen = Observation {
                at,
                latency: Histogram { buckets: vec![(f64::INFINITY, count)], sum: 0.1 * count },
                replicas: Replicas { desired, ready: desired, ..Replicas::default() },
                ..Observation::default()
            };
            let recommendation = law.decide(&seen);
            desired = limiter.apply(&seen, recommendation.replicas).0;
        }
        assert_eq!(
            desired, 1,
            "in 200 s of short latencies the law steps down six times, and the lower bound allows three steps"
        );
    }

    #[test]
    fn the_mean_ignores_latencies_older_than_a_minute() {
        let mut means = vec![Some(9.0); 3];
        means.extend([Some(0.1); 10]);
        assert_eq!(run(&means)[12], 1);
    }
}
