//! `concurrency[:TARGET]`: Knative's autoscaler. It recommends the mean number of requests in the system ÷ the target
//! for each replica. The mean is over a long window in stable mode, and over a short window in panic mode. TARGET is the
//! share of a replica's slots that the law plans to use.
//!
//! Source: Knative Serving, pkg/autoscaler/scaling/autoscaler.go at commit 00a4a55, with the defaults of
//! config/core/configmaps/autoscaler.yaml. Knative averages over samples of one second each, which the queue proxies
//! report. This law averages over one sample for each observation: the mean since the previous observation.

use law::cadence::Cadence;
use law::observation::Observation;
use law::table::{Law, LawKind, Recommendation};
use law::window::Window;
use std::time::Duration;

/// The entry of the law `concurrency` in a table of laws.
pub const KIND: LawKind = LawKind {
    name: "concurrency",
    parameter: "[:TARGET]",
    wakes: false,
    scales_dispatchers: false,
    make: |_, parameter| {
        let target = match parameter {
            None => TARGET_UTILISATION,
            Some(text) => text.parse().ok().filter(|&target: &f64| target > 0.0 && target <= 1.0)?,
        };
        Some(Box::new(Concurrency::new(target)))
    },
};

/// The time between two decisions: Knative's `tick-interval`.
const TICK_INTERVAL: Duration = Duration::from_secs(2);
/// The time over which the law averages in stable mode: Knative's `stable-window`.
const STABLE_WINDOW: Duration = Duration::from_secs(60);
/// The time over which the law averages in panic mode: Knative's `panic-window-percentage` of the stable window.
const PANIC_WINDOW: Duration = Duration::from_secs(6);
/// The share of a replica's slots that the law plans to use without a parameter: Knative's
/// `container-concurrency-target-percentage`.
const TARGET_UTILISATION: f64 = 0.70;
/// The law panics if the short average needs at least this multiple of the ready replicas: Knative's
/// `panic-threshold-percentage`.
const PANIC_THRESHOLD: f64 = 2.0;
/// The greatest ratio of recommended to ready replicas: Knative's `max-scale-up-rate`.
const MAX_SCALE_UP_RATE: f64 = 1000.0;
/// The greatest ratio of ready to recommended replicas: Knative's `max-scale-down-rate`.
const MAX_SCALE_DOWN_RATE: f64 = 2.0;

/// The law `concurrency` with its state between decisions.
#[derive(Debug)]
pub struct Concurrency {
    cadence: Cadence,
    /// The share of a replica's slots that the law plans to use.
    target: f64,
    /// The mean number of requests in the system between two observations.
    samples: Window<f64>,
    /// The time of the last observation and its request-seconds; `None` before the first observation.
    last: Option<(Duration, f64)>,
    /// The last time at which the panic threshold was reached, or the law's start; `None` in stable mode.
    panicking_since: Option<Duration>,
    /// The highest recommendation in this panic. In panic mode the law recommends no lower number.
    highest_in_panic: f64,
}

impl Concurrency {
    /// The law in its initial state. `target` is the share of a replica's slots that it plans to use, above 0 and at
    /// most 1.
    pub fn new(target: f64) -> Self {
        Self {
            cadence: Cadence::new(TICK_INTERVAL),
            target,
            samples: Window::new(STABLE_WINDOW),
            last: None,
            panicking_since: None,
            highest_in_panic: 0.0,
        }
    }
}

impl Law for Concurrency {
    fn decide(&mut self, seen: &Observation) -> Recommendation {
        self.record(seen);
        if !self.cadence.is_due(seen.at) {
            return Recommendation::waiting();
        }
        // The slots of a replica take the place of Knative's `containerConcurrency`.
        let target = seen.slots() * self.target;
        let ready = seen.replicas.ready.max(1) as f64;
        let (lowest, highest) = ((ready / MAX_SCALE_DOWN_RATE).floor(), (ready * MAX_SCALE_UP_RATE).ceil());
        let (stable, panic) = (self.average(seen.at, STABLE_WINDOW), self.average(seen.at, PANIC_WINDOW));
        let for_stable = (stable / target).ceil();
        let for_panic = (panic / target).ceil();
        self.update_mode(seen.at, for_panic / ready >= PANIC_THRESHOLD);
        let stable_recommended = for_stable.clamp(lowest, highest);
        let (recommended, requests, mode) = if self.panicking_since.is_some() {
            let panic_recommended = for_panic.clamp(lowest, highest);
            self.highest_in_panic = self.highest_in_panic.max(stable_recommended).max(panic_recommended);
            (self.highest_in_panic, panic, "panic mode")
        } else {
            (stable_recommended, stable, "stable mode")
        };
        Recommendation::new(Some(recommended as usize), "concurrency", format!("{requests:.1} requests, {mode}"))
    }
}

impl Concurrency {
    fn record(&mut self, seen: &Observation) {
        // A law that starts with more than one replica starts in panic mode. Without a history it would otherwise scale
        // down at once.
        if self.last.is_none() && seen.replicas.ready > 1 {
            self.panicking_since = Some(seen.at);
            self.highest_in_panic = seen.replicas.ready as f64;
        }
        if let Some((then, before)) = self.last.replace((seen.at, seen.request_seconds)) {
            let mean = (seen.request_seconds - before) / (seen.at - then).as_secs_f64();
            self.samples.push(seen.at, mean);
        }
    }

    fn update_mode(&mut self, at: Duration, exceeds_threshold: bool) {
        if exceeds_threshold {
            self.panicking_since = Some(at);
        } else if self.panicking_since.is_some_and(|since| since + STABLE_WINDOW < at) {
            self.panicking_since = None;
            self.highest_in_panic = 0.0;
        }
    }

    /// The mean of the samples of the last `span` before `at`; 0 without samples.
    fn average(&self, at: Duration, span: Duration) -> f64 {
        let samples = self.samples.within(at, span);
        let (sum, count) = samples.fold((0.0, 0.0), |(sum, count), sample| (sum + sample, count + 1.0));
        if count == 0.0 { 0.0 } else { sum / count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use law::observation::Replicas;

    /// The last recommended number of a law, and its text. `requests` are the mean requests in the system in each
    /// second, and `ready` replicas are ready throughout.
    fn run(requests: &[f64], ready: usize) -> (Option<usize>, String) {
        let mut law = Concurrency::new(TARGET_UTILISATION);
        let mut last = (None, String::new());
        let mut request_seconds = 0.0;
        for (second, mean) in requests.iter().enumerate() {
            request_seconds += mean;
            let recommendation = law.decide(&Observation {
                at: Duration::from_secs(second as u64),
                request_seconds,
                capacity: ready as f64,
                replicas: Replicas { desired: ready, ready, ..Replicas::default() },
                ..Observation::default()
            });
            if recommendation.replicas.is_some() {
                last = (recommendation.replicas, recommendation.text);
            }
        }
        last
    }

    #[test]
    fn stable_mode_follows_the_long_average_and_panic_mode_the_short_one() {
        // All samples are 1. ⌈1 ÷ 0.7⌉ = 2 replicas, and 2 ÷ 1 reaches the panic threshold.
        assert_eq!(run(&[1.0; 63], 1), (Some(2), "1.0 requests, panic mode".into()));
        assert_eq!(run(&[0.5; 63], 1), (Some(1), "0.5 requests, stable mode".into()));
        // The last 6 samples are 7, and the mean of 60 s is 1.15. Stable mode would recommend ⌈1.15 ÷ 0.7⌉ = 2
        // replicas, and panic mode recommends ⌈7 ÷ 0.7⌉ = 10.
        let mut burst = vec![0.5; 57];
        burst.extend([7.0; 6]);
        assert_eq!(run(&burst, 2).0, Some(10));
    }

    #[test]
    fn panic_mode_never_scales_down_and_stable_mode_at_most_halves() {
        let mut burst = vec![7.0; 10];
        burst.extend([0.0; 50]);
        assert_eq!(
            run(&burst, 4).0,
            Some(10),
            "panic mode lasts for 60 s after the short average last reached the threshold"
        );
        burst.extend([0.0; 80]);
        assert_eq!(run(&burst, 4).0, Some(2), "⌊4 ÷ 2⌋");
    }
}
