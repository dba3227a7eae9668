//! PURE: what is seen, what is decided, and why. A policy reads no clock, socket, environment or cluster.

pub mod latency_step;
pub mod slo;

use std::fmt;
use std::time::Duration;

/// Cumulative histogram: `(upper bound, count up to it)`, the last bound infinite.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    /// Ascending in both.
    pub buckets: Vec<(f64, f64)>,
    /// Of all samples.
    pub sum: f64,
}

impl Histogram {
    /// Number of samples.
    pub fn count(&self) -> f64 {
        self.buckets.last().map_or(0.0, |bucket| bucket.1)
    }

    /// What was recorded since `earlier`; everything, if the counts went back to zero in between.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let same_shape = self.buckets.len() == earlier.buckets.len();
        if !same_shape || self.count() < earlier.count() {
            return self.clone();
        }
        let buckets = self.buckets.iter().zip(&earlier.buckets).map(|(now, then)| (now.0, (now.1 - then.1).max(0.0)));
        Self { buckets: buckets.collect(), sum: (self.sum - earlier.sum).max(0.0) }
    }

    /// Mean, if there is any sample.
    pub fn mean(&self) -> Option<f64> {
        (self.count() > 0.0).then(|| self.sum / self.count())
    }

    /// Coefficient of variation, every sample taken to lie in the middle of its bucket. The outermost bucket has no
    /// middle and counts at its lower bound.
    pub fn variation(&self) -> Option<f64> {
        let mut lower = (0.0, 0.0);
        let (mut first, mut second) = (0.0, 0.0);
        for &(bound, cumulative) in &self.buckets {
            let middle = if bound.is_finite() { (lower.0 + bound) / 2.0 } else { lower.0 };
            let count = (cumulative - lower.1).max(0.0);
            first += count * middle;
            second += count * middle * middle;
            lower = (bound, cumulative);
        }
        let count = self.count();
        let mean = first / count;
        (count > 0.0 && mean > 0.0).then(|| (second / count - mean * mean).max(0.0).sqrt() / mean)
    }
}

/// How things stood at one instant. Counters never go back: restarts of what is observed are already taken out.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// Since the scaler started.
    pub at: Duration,
    /// Requests waiting.
    pub queue_length: f64,
    /// Requests ever admitted.
    pub arrivals: f64,
    /// Dispatched → answered, seconds, ever.
    pub service: Histogram,
    /// Accepted → answered, seconds, ever.
    pub latency: Histogram,
    /// Replicas asked for, serving, and on their way.
    pub replicas: Replicas,
    /// Exec → ready, as measured; nothing until one became ready.
    pub startup: Option<Duration>,
}

/// Replicas by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Replicas {
    /// Asked for.
    pub desired: usize,
    /// Serving.
    pub ready: usize,
    /// Started, not ready yet.
    pub starting: usize,
    /// Asked for, but they cannot be placed, or keep dying before they are ready. None of them is starting.
    pub blocked: usize,
}

/// How many replicas a policy wants, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Want {
    /// Before limits; nothing when the law has no opinion at this tick, which is not a wish for what there is.
    pub replicas: Option<usize>,
    /// With the figures behind it.
    pub reason: Reason,
}

/// Why.
#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    /// There are no figures yet, or not enough.
    NoData,
    /// Nothing arrives and nothing waits.
    Idle,
    /// So many hold the objective at the present load.
    Objective {
        /// Arrivals per second that are planned for.
        arrivals_per_second: f64,
        /// Mean service time, seconds.
        service_seconds: f64,
        /// Share of requests predicted to wait too long.
        predicted_late: f64,
    },
    /// So many work off what has piled up.
    Backlog {
        /// Requests waiting.
        queue_length: f64,
        /// Arrivals per second that are planned for.
        arrivals_per_second: f64,
    },
    /// One request alone takes longer than the objective allows: no number of replicas holds it.
    Unattainable {
        /// Mean service time, seconds.
        service_seconds: f64,
    },
    /// Mean latency is over, under or between the thresholds.
    MeanLatency {
        /// Over the last minute, seconds.
        mean_seconds: f64,
    },
    /// Between two steps of a policy that acts at intervals.
    Waiting,
}

impl Reason {
    /// Its name in metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NoData => "no_data",
            Self::Idle => "idle",
            Self::Objective { .. } => "objective",
            Self::Backlog { .. } => "backlog",
            Self::Unattainable { .. } => "unattainable",
            Self::MeanLatency { .. } => "mean_latency",
            Self::Waiting => "waiting",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoData => write!(f, "nothing measured yet"),
            Self::Idle => write!(f, "nothing arrives"),
            Self::Objective { arrivals_per_second, service_seconds, predicted_late } => write!(
                f,
                "{arrivals_per_second:.1} requests/s of {:.0} ms each leave {:.2} % late",
                service_seconds * 1e3,
                predicted_late * 1e2
            ),
            Self::Backlog { queue_length, arrivals_per_second } => {
                write!(f, "{queue_length:.0} requests wait while {arrivals_per_second:.1}/s arrive")
            }
            Self::Unattainable { service_seconds } => {
                write!(f, "one request alone takes {:.0} ms, too long for the objective", service_seconds * 1e3)
            }
            Self::MeanLatency { mean_seconds } => write!(f, "mean latency is {:.0} ms", mean_seconds * 1e3),
            Self::Waiting => write!(f, "the next step is not due"),
        }
    }
}

/// A scaling law with its memory.
#[derive(Debug)]
pub enum Policy {
    /// The objective is the only knob.
    Slo(slo::Slo),
    /// One more above a threshold, one fewer below another.
    LatencyStep(latency_step::LatencyStep),
}

impl Policy {
    /// One tick.
    pub fn decide(&mut self, seen: &Observation) -> Want {
        match self {
            Self::Slo(law) => law.decide(seen),
            Self::LatencyStep(law) => law.decide(seen),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(buckets: &[(f64, f64)], sum: f64) -> Histogram {
        Histogram { buckets: buckets.to_vec(), sum }
    }

    #[test]
    fn histograms_subtract_and_survive_a_restart() {
        let infinity = f64::INFINITY;
        let then = histogram(&[(0.1, 2.0), (infinity, 3.0)], 0.5);
        let now = histogram(&[(0.1, 6.0), (infinity, 8.0)], 1.5);
        assert_eq!(now.since(&then), histogram(&[(0.1, 4.0), (infinity, 5.0)], 1.0));
        assert_eq!(then.since(&now), then, "fewer than before: it was restarted");
        assert_eq!(now.since(&Histogram::default()), now);
        assert_eq!(Histogram::default().mean(), None);
        assert_eq!(Histogram::default().variation(), None);
    }

    #[test]
    fn variation_comes_from_the_middles_of_buckets() {
        // Ten at 0.05 and ten at 0.15: mean 0.1, deviation 0.05.
        let two = histogram(&[(0.1, 10.0), (0.2, 20.0), (f64::INFINITY, 20.0)], 2.0);
        assert!((two.variation().expect("samples") - 0.5).abs() < 1e-9);
        let one = histogram(&[(0.1, 0.0), (0.2, 20.0), (f64::INFINITY, 20.0)], 3.0);
        assert_eq!(one.variation(), Some(0.0));
    }
}
