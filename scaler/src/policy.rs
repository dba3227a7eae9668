//! PURE: what is seen, what is decided, and why. A policy reads no clock, socket, environment or cluster.

pub mod arrivals;
pub mod behavior;
pub mod cadence;
pub mod concurrency;
pub mod cpu;
pub mod highest;
pub mod latency_ratio;
pub mod latency_step;
pub mod law;
pub mod memory;
pub mod ongoing;
pub mod queue;
pub mod rate;
pub mod slo;
pub mod window;

use slo::Workings;
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

    /// Below which a share `quantile` of the samples lies, spread evenly within each bucket; the bound below the last
    /// bucket if it lies beyond. As Prometheus' `histogram_quantile`.
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let rank = quantile * self.count();
        let index = self.buckets.iter().position(|bucket| bucket.1 >= rank && bucket.1 > 0.0)?;
        let (lower, below) = if index == 0 { (0.0, 0.0) } else { self.buckets[index - 1] };
        let (upper, upto) = self.buckets[index];
        let share = (rank - below) / (upto - below);
        Some(if upper.is_finite() { lower + (upper - lower) * share } else { lower })
    }

    /// How many of the samples are `bound` or less, spread evenly within each bucket; nothing if the last bucket's
    /// samples would have to be told apart, since they have no upper bound.
    pub fn up_to(&self, bound: f64) -> Option<f64> {
        let index = self.buckets.iter().position(|bucket| bucket.0 >= bound)?;
        let (lower, below) = if index == 0 { (0.0, 0.0) } else { self.buckets[index - 1] };
        let (upper, upto) = self.buckets[index];
        upper.is_finite().then(|| below + (upto - below) * (bound - lower) / (upper - lower))
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
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observation {
    /// Since the scaler started.
    pub at: Duration,
    /// Requests waiting.
    pub queue_length: f64,
    /// Requests sent to replicas, unanswered.
    pub in_flight: f64,
    /// Time that requests have spent waiting and in flight, ever, added up: seconds. Its slope is the mean number of
    /// requests in the system. Live it is the sum of all latencies (Little's law), which counts a request as it ends.
    pub request_seconds: f64,
    /// Requests that all replicas in rotation take at once.
    pub capacity: f64,
    /// Requests ever offered, refused ones included.
    pub arrivals: f64,
    /// Dispatched → answered, seconds, ever.
    pub service: Histogram,
    /// What a replica worked for an answer, seconds, ever: dispatched → answered, but not while it answered others. The
    /// mean is what one replica needs for a request at the present load, however many it takes at once.
    pub work: Histogram,
    /// Accepted → answered, seconds, ever.
    pub latency: Histogram,
    /// Replicas asked for, serving, and on their way.
    pub replicas: Replicas,
    /// Exec → ready, as measured; nothing until one became ready.
    pub startup: Option<Duration>,
    /// One by one, where a law looks at processors.
    pub pods: Vec<Pod>,
    /// Why nothing is known of them, and what to do about it.
    pub unmeasured: Option<String>,
}

impl Observation {
    /// Requests that one replica takes at once; 1 while none is ready.
    pub fn slots(&self) -> f64 {
        if self.replicas.ready == 0 { 1.0 } else { (self.capacity / self.replicas.ready as f64).max(1.0) }
    }
}

/// A replica as Kubernetes sees it. Times are ages at the observation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pod {
    /// Since it was started.
    pub age: Duration,
    /// How far it is.
    pub stage: Stage,
    /// Cores that it requests.
    pub request: f64,
    /// What it last used of the processor; nothing before the first sample.
    pub usage: Option<Usage>,
}

impl Pod {
    /// The same, so much later.
    #[must_use]
    pub fn later(self, by: Duration) -> Self {
        let stage = match self.stage {
            Stage::Pending => Stage::Pending,
            Stage::Unready(since) => Stage::Unready(since + by),
            Stage::Ready(since) => Stage::Ready(since + by),
        };
        let usage = self.usage.map(|usage| Usage { age: usage.age + by, ..usage });
        Self { age: self.age + by, stage, usage, ..self }
    }
}

/// How far a pod is, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Waits for a place, or for its program.
    Pending,
    /// Runs, and is not ready or no longer.
    Unready(Duration),
    /// Serves.
    Ready(Duration),
}

/// A sample of processor use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// Cores, a mean over the window.
    pub cores: f64,
    /// Since the window ended.
    pub age: Duration,
    /// Its length.
    pub window: Duration,
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

impl Want {
    /// The next step of a law that acts at intervals is not due.
    fn waiting() -> Self {
        Self { replicas: None, reason: Reason::Waiting }
    }
}

/// Why.
#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    /// There are no figures yet, or not enough.
    NoData,
    /// Nothing arrives and nothing waits.
    Idle,
    /// Nothing runs, and somebody waits.
    Waking {
        /// Requests waiting.
        queue_length: f64,
    },
    /// So many hold the objective at the present load.
    Objective(Workings),
    /// So many will be needed if a sudden rise goes on.
    Rising(Workings),
    /// So many work off what has piled up.
    Backlog(Workings),
    /// Fewer would do at present, but so many were needed not long ago, or may be again by chance.
    Kept(Workings),
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
    /// A percentile of latency over the objective.
    Percentile {
        /// Over the last minute, seconds.
        seconds: f64,
    },
    /// Requests waiting, per replica.
    Queue {
        /// Requests waiting.
        queue_length: f64,
    },
    /// Requests waiting and in flight, per replica.
    Concurrency {
        /// Mean over the stable window, or while panicking over the short one.
        requests: f64,
        /// A burst has been less than a stable window ago.
        is_panicking: bool,
    },
    /// Requests waiting and in flight, over the last half minute.
    Ongoing {
        /// Their mean.
        requests: f64,
    },
    /// Processor use over its target.
    Processor {
        /// Percent of what is requested.
        utilisation: f64,
    },
    /// What processors do cannot be known.
    Unmeasured {
        /// Why not, and what to do about it.
        why: String,
    },
    /// Requests per second, for each.
    Rate {
        /// Of all.
        arrivals_per_second: f64,
        /// Percent of what the present ones are meant for.
        share: f64,
    },
    /// Always the same.
    Fixed,
    /// Between two steps of a policy that acts at intervals.
    Waiting,
}

impl Reason {
    /// What the law had in mind, where it says.
    pub fn workings(&self) -> Option<Workings> {
        match self {
            Self::Objective(workings) | Self::Rising(workings) | Self::Backlog(workings) | Self::Kept(workings) => {
                Some(*workings)
            }
            _ => None,
        }
    }

    /// Its name in metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NoData => "no_data",
            Self::Idle => "idle",
            Self::Waking { .. } => "waking",
            Self::Objective(_) => "objective",
            Self::Rising(_) => "rising",
            Self::Backlog(_) => "backlog",
            Self::Kept(_) => "kept",
            Self::Unattainable { .. } => "unattainable",
            Self::MeanLatency { .. } => "mean_latency",
            Self::Percentile { .. } => "percentile",
            Self::Queue { .. } => "queue",
            Self::Concurrency { .. } => "concurrency",
            Self::Ongoing { .. } => "ongoing",
            Self::Processor { .. } => "processor",
            Self::Unmeasured { .. } => "unmeasured",
            Self::Rate { .. } => "rate",
            Self::Fixed => "fixed",
            Self::Waiting => "waiting",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoData => write!(f, "nothing measured yet"),
            Self::Idle => write!(f, "nothing arrives"),
            Self::Waking { queue_length } => write!(f, "{queue_length:.0} requests wait for the first replica"),
            Self::Objective(law) => write!(
                f,
                "{:.1} requests/s of {:.0} ms each leave {:.2} % late",
                law.arrivals_per_second,
                law.service_seconds * 1e3,
                law.predicted_late * 1e2
            ),
            Self::Rising(law) => write!(
                f,
                "arrivals have risen to {:.1}/s and may reach {:.1}/s before a new replica serves in {:.1} s",
                law.arrivals_per_second, law.planned_per_second, law.lead_seconds
            ),
            Self::Backlog(law) => {
                write!(f, "{:.0} requests wait while {:.1}/s arrive", law.queue_length, law.arrivals_per_second)
            }
            Self::Kept(law) => write!(
                f,
                "{} would do for {:.1} requests/s, but so many were needed lately or may be by chance",
                law.needed, law.arrivals_per_second
            ),
            Self::Unattainable { service_seconds } => {
                write!(f, "one request alone takes {:.0} ms, too long for the objective", service_seconds * 1e3)
            }
            Self::MeanLatency { mean_seconds } => write!(f, "mean latency is {:.0} ms", mean_seconds * 1e3),
            Self::Percentile { seconds } => write!(f, "the 95th percentile is {:.0} ms", seconds * 1e3),
            Self::Queue { queue_length } => write!(f, "{queue_length:.0} requests wait"),
            Self::Concurrency { requests, is_panicking: false } => write!(f, "{requests:.1} requests, calmly"),
            Self::Concurrency { requests, is_panicking: true } => write!(f, "{requests:.1} requests, panicking"),
            Self::Ongoing { requests } => write!(f, "{requests:.1} requests over half a minute"),
            Self::Processor { utilisation } => write!(f, "{utilisation:.0} % of the processors in use"),
            Self::Unmeasured { why } => write!(f, "{why}"),
            Self::Rate { arrivals_per_second, share } => {
                write!(f, "{arrivals_per_second:.1} requests/s, {share:.0} % of what the present ones are meant for")
            }
            Self::Fixed => write!(f, "always so many"),
            Self::Waiting => write!(f, "the next step is not due"),
        }
    }
}

/// A scaling law with its memory.
#[derive(Debug)]
pub enum Policy {
    /// The objective is the only knob.
    Slo(Box<slo::Slo>),
    /// One more above a threshold, one fewer below another.
    LatencyStep(latency_step::LatencyStep),
    /// A percentile over the objective.
    LatencyRatio(latency_ratio::LatencyRatio),
    /// So many waiting requests for each replica.
    Queue(queue::Queue),
    /// Knative's.
    Concurrency(concurrency::Concurrency),
    /// The HPA's.
    Cpu(cpu::Cpu),
    /// Ray Serve's.
    Ongoing(ongoing::Ongoing),
    /// So many requests a second for each.
    Rate(rate::Rate),
    /// Always so many.
    Fixed(usize),
    /// Several; the one that wants most counts.
    Highest(highest::Highest),
}

impl Policy {
    /// One law, or several of which the one that wants most counts.
    pub fn highest(laws: &[law::Law], frame: &law::Frame) -> Self {
        match laws {
            [only] => only.policy(frame),
            _ => Self::Highest(highest::Highest::new(laws.iter().map(|law| law.policy(frame)).collect())),
        }
    }

    /// One tick.
    pub fn decide(&mut self, seen: &Observation) -> Want {
        match self {
            Self::Slo(law) => law.decide(seen),
            Self::LatencyStep(law) => law.decide(seen),
            Self::LatencyRatio(law) => law.decide(seen),
            Self::Queue(law) => law.decide(seen),
            Self::Concurrency(law) => law.decide(seen),
            Self::Cpu(law) => law.decide(seen),
            Self::Ongoing(law) => law.decide(seen),
            Self::Rate(law) => law.decide(seen),
            Self::Highest(laws) => laws.decide(seen),
            Self::Fixed(replicas) => Want { replicas: Some(*replicas), reason: Reason::Fixed },
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
    fn samples_up_to_a_bound_are_counted_exactly_at_buckets_and_evenly_between_them() {
        let histogram = histogram(&[(0.1, 10.0), (0.5, 30.0), (f64::INFINITY, 40.0)], 9.0);
        for (bound, expected) in
            [(0.1, Some(10.0)), (0.5, Some(30.0)), (0.05, Some(5.0)), (0.3, Some(20.0)), (0.0, Some(0.0)), (0.51, None)]
        {
            let found = histogram.up_to(bound);
            assert!(
                found == expected || found.zip(expected).is_some_and(|(found, it)| (found - it).abs() < 1e-9),
                "{bound}: {found:?}"
            );
        }
        assert_eq!(Histogram::default().up_to(0.5), None);
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
