//! The number of replicas over a run, and its integral, replica-seconds, as the cost of the run. Pure.

use crate::server_metrics::ServerMetrics;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The program whose metrics have the number of replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CountedBy {
    /// The scaler, which exports the number of replicas that it asks for. Starting replicas are included, since they
    /// cost money, too.
    Scaler,
    /// The dispatcher, which exports the number of replicas in its rotation.
    Dispatcher,
}

impl CountedBy {
    /// The state of the counted replicas, in words.
    pub fn description(self) -> &'static str {
        match self {
            Self::Scaler => "asked for",
            Self::Dispatcher => "in rotation",
        }
    }
}

/// The use of replicas over a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReplicaUsage {
    /// The program that counted the replicas.
    #[serde(rename = "source")]
    pub counted_by: CountedBy,
    /// Number of replicas, integrated over the run: replicas times seconds.
    pub replica_seconds: f64,
    /// Largest number of replicas at one time.
    pub peak_replicas: f64,
    /// How often the number of replicas changed.
    pub changes: usize,
    /// Replica-seconds for 1000 good answers. A good answer came within the objective and is not known to be wrong.
    /// Absent if there are no good answers.
    pub replica_seconds_per_1000_good: Option<f64>,
}

impl ReplicaUsage {
    /// The usage over a run of `length` seconds with `good` good answers; `None` if no metrics have the number of
    /// replicas. Each number counts until the next number was read. The scaler's numbers are preferred to the
    /// dispatcher's.
    pub fn new(metrics: &[ServerMetrics], length: f64, good: usize) -> Option<Self> {
        let desired = |metrics: &ServerMetrics| Some((metrics.at_seconds, metrics.desired_replicas?));
        let ready = |metrics: &ServerMetrics| Some((metrics.at_seconds, metrics.replicas?));
        let mut counted_by = CountedBy::Scaler;
        let mut counts: Vec<(f64, f64)> = metrics.iter().filter_map(desired).collect();
        if counts.is_empty() {
            counted_by = CountedBy::Dispatcher;
            counts = metrics.iter().filter_map(ready).collect();
        }
        // The first number counts from the start of the run.
        counts.first_mut()?.0 = 0.0;
        let ends = counts.iter().skip(1).map(|&(at, _)| at).chain([length]);
        let spans = counts.iter().zip(ends).map(|(&(from, count), to)| (to.min(length) - from.min(length)) * count);
        let replica_seconds = spans.sum::<f64>();
        Some(Self {
            counted_by,
            replica_seconds,
            peak_replicas: counts.iter().map(|&(_, count)| count).fold(0.0, f64::max),
            changes: counts.windows(2).filter(|pair| pair[0].1 != pair[1].1).count(),
            replica_seconds_per_1000_good: (good > 0).then(|| 1e3 * replica_seconds / good as f64),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(at_seconds: f64, replicas: Option<f64>, desired_replicas: Option<f64>) -> ServerMetrics {
        ServerMetrics { at_seconds, queue_length: None, replicas, desired_replicas }
    }

    #[test]
    fn desired_replicas_are_preferred_to_ready_replicas() {
        let both = [metrics(0.5, Some(1.0), Some(1.0)), metrics(4.0, Some(1.0), Some(3.0)), metrics(8.0, None, None)];
        let usage = ReplicaUsage::new(&both, 10.0, 500).expect("there are counts");
        assert_eq!((usage.counted_by, usage.peak_replicas, usage.changes), (CountedBy::Scaler, 3.0, 1));
        assert_eq!((usage.replica_seconds, usage.replica_seconds_per_1000_good), (4.0 + 18.0, Some(44.0)));
        let ready = both.map(|metrics| ServerMetrics { desired_replicas: None, ..metrics });
        let usage = ReplicaUsage::new(&ready, 10.0, 0).expect("there are counts");
        assert_eq!((usage.counted_by, usage.replica_seconds), (CountedBy::Dispatcher, 10.0));
        assert_eq!(usage.replica_seconds_per_1000_good, None);
        assert_eq!(ReplicaUsage::new(&[metrics(1.0, None, None)], 10.0, 1), None);
        // Metrics from after the end of the run do not count.
        assert_eq!(ReplicaUsage::new(&ready, 2.0, 1).expect("there are counts").replica_seconds, 2.0);
    }
}
