//! PURE: what was seen of the replicas → what they cost.

use crate::watch::Glimpse;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who told how many replicas there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Asked for, which is what is paid for, starting ones included.
    Scaler,
    /// In rotation.
    Dispatcher,
}

impl Source {
    /// What the replicas that it counts are.
    pub fn word(self) -> &'static str {
        match self {
            Self::Scaler => "asked for",
            Self::Dispatcher => "in rotation",
        }
    }
}

/// Replicas over a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Who counted.
    pub source: Source,
    /// Their number, integrated over the run.
    pub replica_seconds: f64,
    /// The most at once.
    pub peak_replicas: f64,
    /// How often their number changed.
    pub changes: usize,
    /// Replica-seconds for 1000 right answers within the objective; absent without any.
    pub replica_seconds_per_1000_good: Option<f64>,
}

impl Usage {
    /// Of a run of `length` seconds with so many good answers; nothing if nobody told. A count holds until the next.
    pub fn of(glimpses: &[Glimpse], length: f64, good: usize) -> Option<Self> {
        let desired = |glimpse: &Glimpse| Some((glimpse.at_seconds, glimpse.desired_replicas?));
        let ready = |glimpse: &Glimpse| Some((glimpse.at_seconds, glimpse.replicas?));
        let mut source = Source::Scaler;
        let mut counts: Vec<(f64, f64)> = glimpses.iter().filter_map(desired).collect();
        if counts.is_empty() {
            source = Source::Dispatcher;
            counts = glimpses.iter().filter_map(ready).collect();
        }
        // What was seen first held since the start.
        counts.first_mut()?.0 = 0.0;
        let ends = counts.iter().skip(1).map(|&(at, _)| at).chain([length]);
        let spans = counts.iter().zip(ends).map(|(&(from, count), to)| (to.min(length) - from.min(length)) * count);
        let replica_seconds = spans.sum::<f64>();
        Some(Self {
            source,
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

    fn glimpse(at_seconds: f64, replicas: Option<f64>, desired_replicas: Option<f64>) -> Glimpse {
        Glimpse { at_seconds, queue_length: None, replicas, desired_replicas }
    }

    #[test]
    fn what_is_asked_for_counts_before_what_is_ready() {
        let glimpses =
            [glimpse(0.5, Some(1.0), Some(1.0)), glimpse(4.0, Some(1.0), Some(3.0)), glimpse(8.0, None, None)];
        let usage = Usage::of(&glimpses, 10.0, 500).expect("there are counts");
        assert_eq!((usage.source, usage.peak_replicas, usage.changes), (Source::Scaler, 3.0, 1));
        assert_eq!((usage.replica_seconds, usage.replica_seconds_per_1000_good), (4.0 + 18.0, Some(44.0)));
        let ready: Vec<Glimpse> =
            glimpses.iter().map(|glimpse| Glimpse { desired_replicas: None, ..*glimpse }).collect();
        let usage = Usage::of(&ready, 10.0, 0).expect("there are counts");
        assert_eq!((usage.source, usage.replica_seconds), (Source::Dispatcher, 10.0));
        assert_eq!(usage.replica_seconds_per_1000_good, None);
        assert_eq!(Usage::of(&[glimpse(1.0, None, None)], 10.0, 1), None);
        // What was seen after the end does not count.
        assert_eq!(Usage::of(&ready, 2.0, 1).expect("there are counts").replica_seconds, 2.0);
    }
}
