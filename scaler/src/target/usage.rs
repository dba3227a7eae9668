//! PURE: what replicas use of the processor, from counters that were read now and then; ages that go on meanwhile.

use crate::policy::{Pod, Usage};
use std::time::{Duration, Instant};

/// Between two samples. metrics-server takes them so far apart (`--metric-resolution`), and a law that is compared with
/// the HPA has to see what the HPA would: a mean over that time, at worst twice as old.
pub const PERIOD: Duration = Duration::from_secs(15);

/// The replicas of a target, one by one.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Pods {
    /// No law looks at them.
    #[default]
    Unasked,
    /// Ages are those at this instant.
    Known(Instant, Vec<Pod>),
    /// Why not, and what to do about it.
    Unknown(String),
}

impl Pods {
    /// As they are `now`, or why that is not known.
    pub fn at(&self, now: Instant) -> (Vec<Pod>, Option<String>) {
        match self {
            Self::Unasked => (Vec::new(), None),
            Self::Known(then, pods) => {
                let by = now.saturating_duration_since(*then);
                (pods.iter().map(|pod| pod.later(by)).collect(), None)
            }
            Self::Unknown(why) => (Vec::new(), Some(why.clone())),
        }
    }
}

/// Makes means of a counter of processor time. One sample is no mean.
#[derive(Debug, Default)]
pub struct Meter {
    /// When, and how much had been used by then.
    last: Option<(Instant, Duration)>,
    /// Cores, from when until when.
    mean: Option<(f64, Instant, Instant)>,
}

impl Meter {
    /// So much has been used ever.
    pub fn sample(&mut self, now: Instant, used: Duration) {
        if let Some((then, before)) = self.last
            && now > then
        {
            let cores = used.saturating_sub(before).as_secs_f64() / (now - then).as_secs_f64();
            self.mean = Some((cores, then, now));
        }
        self.last = Some((now, used));
    }

    /// The mean between the last two samples.
    pub fn usage(&self, now: Instant) -> Option<Usage> {
        let (cores, from, to) = self.mean?;
        Some(Usage { cores, age: now.saturating_duration_since(to), window: to - from })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Stage;

    const S: fn(f64) -> Duration = Duration::from_secs_f64;

    #[test]
    fn a_mean_needs_two_samples_and_grows_old() {
        let start = Instant::now();
        let mut meter = Meter::default();
        assert_eq!(meter.usage(start), None);
        meter.sample(start, S(100.0));
        assert_eq!(meter.usage(start), None);
        meter.sample(start + S(15.0), S(107.5));
        assert_eq!(meter.usage(start + S(18.0)), Some(Usage { cores: 0.5, age: S(3.0), window: S(15.0) }));
        meter.sample(start + S(20.0), S(117.5));
        assert_eq!(meter.usage(start + S(20.0)), Some(Usage { cores: 2.0, age: S(0.0), window: S(5.0) }));
        // The same instant again, and a counter that went back.
        meter.sample(start + S(20.0), S(118.0));
        assert_eq!(meter.usage(start + S(20.0)).map(|usage| usage.cores), Some(2.0));
        meter.sample(start + S(30.0), S(1.0));
        assert_eq!(meter.usage(start + S(30.0)).map(|usage| usage.cores), Some(0.0));
    }

    #[test]
    fn ages_go_on() {
        let start = Instant::now();
        let pod = |by: f64| Pod {
            age: S(40.0 + by),
            stage: Stage::Ready(S(30.0 + by)),
            request: 1.0,
            usage: Some(Usage { cores: 0.5, age: S(2.0 + by), window: S(15.0) }),
        };
        let known = Pods::Known(start, vec![pod(0.0)]);
        assert_eq!(known.at(start + S(7.0)), (vec![pod(7.0)], None));
        assert_eq!(known.at(start - S(1.0)), (vec![pod(0.0)], None));
        assert_eq!(Pods::Unknown("why".into()).at(start), (vec![], Some("why".into())));
    }
}
