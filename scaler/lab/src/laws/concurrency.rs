//! `concurrency`: Knative's autoscaler. The mean number of requests in the system ÷ the target for each replica, over a
//! long window in stable mode, and over a short one in panic mode.
//!
//! Source: Knative Serving, pkg/autoscaler/scaling/autoscaler.go at commit 00a4a55, with the defaults of
//! config/core/configmaps/autoscaler.yaml. There, averages are over samples of one second each, which the queue proxies
//! report. Here each observation is a sample: the mean since the one before.

use law::cadence::Cadence;
use law::observation::Observation;
use law::table::{Law, LawKind, Recommendation};
use law::window::Window;
use std::time::Duration;

/// The law's line in a table of laws.
pub const KIND: LawKind = LawKind {
    name: "concurrency",
    parameter: "",
    wakes: false,
    scales_dispatchers: false,
    make: |_, parameter| parameter.is_none().then(|| Box::new(Concurrency::default()) as Box<dyn Law>),
};

const TICK_INTERVAL: Duration = Duration::from_secs(2);
const STABLE_WINDOW: Duration = Duration::from_secs(60);
const PANIC_WINDOW: Duration = Duration::from_secs(6);
/// Share of a replica's slots that the law plans to use.
const TARGET_UTILISATION: f64 = 0.70;
const PANIC_THRESHOLD: f64 = 2.0;
const MAX_SCALE_UP_RATE: f64 = 1000.0;
const MAX_SCALE_DOWN_RATE: f64 = 2.0;

/// The law `concurrency` with its state between decisions.
#[derive(Debug)]
pub struct Concurrency {
    cadence: Cadence,
    /// Mean requests in the system between two observations.
    samples: Window<f64>,
    /// Time of the last observation, and its request-seconds.
    last: Option<(Duration, f64)>,
    /// Time at which the panic threshold was last exceeded; `None` in stable mode.
    panicking_since: Option<Duration>,
    /// The highest recommendation in this panic; the law does not go below it in panic mode.
    highest_in_panic: f64,
}

/// The law with an empty memory.
impl Default for Concurrency {
    fn default() -> Self {
        Self {
            cadence: Cadence::new(TICK_INTERVAL),
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
        // Knative's `containerConcurrency` is the number of slots here.
        let target = seen.slots() * TARGET_UTILISATION;
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
        // With more than one replica the law starts in panic mode: its history is lost, and it must not scale down.
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

    /// Mean of the samples of the last `span`; 0 without samples.
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

    /// The last recommendation of a law that sees these mean requests in the system, second by second, and its text.
    fn run(requests: &[f64], ready: usize) -> (Option<usize>, String) {
        let mut law = Concurrency::default();
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
        // 60 samples of 1: ⌈1 ÷ 0.7⌉ = 2, and 2 ÷ 1 reaches the panic threshold.
        assert_eq!(run(&[1.0; 63], 1), (Some(2), "1.0 requests, panic mode".into()));
        assert_eq!(run(&[0.5; 63], 1), (Some(1), "0.5 requests, stable mode".into()));
        // The last 6 of 60 s at 7: mean 1.15 → 2 (⌈1.15 ÷ 0.7⌉); panic ⌈7 ÷ 0.7⌉ = 10.
        let mut burst = vec![0.5; 57];
        burst.extend([7.0; 6]);
        assert_eq!(run(&burst, 2).0, Some(10));
    }

    #[test]
    fn it_never_scales_down_in_panic_mode_and_otherwise_to_half_at_most() {
        let mut burst = vec![7.0; 10];
        burst.extend([0.0; 50]);
        assert_eq!(
            run(&burst, 4).0,
            Some(10),
            "still in panic mode: until 5 s ago the short average called for 10 replicas"
        );
        burst.extend([0.0; 80]);
        assert_eq!(run(&burst, 4).0, Some(2), "⌊4 ÷ 2⌋");
    }
}
