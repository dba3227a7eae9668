//! `concurrency`: requests waiting and in flight, per replica; long average to be calm, short one to panic.
//!
//! Source: Knative serving, pkg/autoscaler/scaling/autoscaler.go, with the defaults of config-autoscaler. Averages are
//! over samples of one second each, as the queue proxies report them: here each observation brings the mean since the
//! one before.

use law::cadence::Cadence;
use law::observation::Observation;
use law::table::{Kind, Law, Recommendation};
use law::window::Window;
use std::time::Duration;

/// The line for a table of laws.
pub const KIND: Kind = Kind {
    name: "concurrency",
    parameter: "",
    wakes: false,
    scales_dispatchers: false,
    make: |_, parameter| parameter.is_none().then(|| Box::new(Concurrency::default()) as Box<dyn Law>),
};

const TICK: Duration = Duration::from_secs(2);
const STABLE: Duration = Duration::from_secs(60);
const PANIC: Duration = Duration::from_secs(6);
/// Share of a replica's slots that is planned for.
const UTILISATION: f64 = 0.70;
const PANIC_THRESHOLD: f64 = 2.0;
const MAX_UP_RATE: f64 = 1000.0;
const MAX_DOWN_RATE: f64 = 2.0;

/// The law and what it remembers.
#[derive(Debug)]
pub struct Concurrency {
    cadence: Cadence,
    samples: Window<f64>,
    /// When the last observation was, and request-seconds until then.
    last: Option<(Duration, f64)>,
    panicking_since: Option<Duration>,
    most_in_panic: f64,
}

/// Remembers nothing yet.
impl Default for Concurrency {
    fn default() -> Self {
        Self {
            cadence: Cadence::new(TICK),
            samples: Window::new(STABLE),
            last: None,
            panicking_since: None,
            most_in_panic: 0.0,
        }
    }
}

impl Law for Concurrency {
    fn decide(&mut self, seen: &Observation) -> Recommendation {
        // With more than one replica it starts as if a burst had just been.
        if self.last.is_none() && seen.replicas.ready > 1 {
            self.panicking_since = Some(seen.at);
            self.most_in_panic = seen.replicas.ready as f64;
        }
        if let Some((then, before)) = self.last.replace((seen.at, seen.request_seconds)) {
            let mean = (seen.request_seconds - before) / (seen.at - then).as_secs_f64();
            self.samples.push(seen.at, mean);
        }
        if !self.cadence.is_due(seen.at) {
            return Recommendation::waiting();
        }
        // `containerConcurrency` is what a replica takes at once.
        let target = seen.slots() * UTILISATION;
        let ready = seen.replicas.ready.max(1) as f64;
        let (low, high) = ((ready / MAX_DOWN_RATE).floor(), (ready * MAX_UP_RATE).ceil());
        let (stable, panic) = (self.average(seen.at, STABLE), self.average(seen.at, PANIC));
        let panic_recommended = (panic / target).ceil();
        let recommended = (stable / target).ceil().clamp(low, high);
        let clamped_panic_recommended = panic_recommended.clamp(low, high);
        if panic_recommended / ready >= PANIC_THRESHOLD {
            self.panicking_since = Some(seen.at);
        } else if self.panicking_since.is_some_and(|since| since + STABLE < seen.at) {
            self.panicking_since = None;
            self.most_in_panic = 0.0;
        }
        let is_panicking = self.panicking_since.is_some();
        let recommended = if is_panicking {
            self.most_in_panic = self.most_in_panic.max(recommended).max(clamped_panic_recommended);
            self.most_in_panic
        } else {
            recommended
        };
        let requests = if is_panicking { panic } else { stable };
        let mood = if is_panicking { "panicking" } else { "calmly" };
        Recommendation::new(Some(recommended as usize), "concurrency", format!("{requests:.1} requests, {mood}"))
    }
}

impl Concurrency {
    fn average(&self, at: Duration, span: Duration) -> f64 {
        let (sum, count) =
            self.samples.within(at, span).fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
        if count == 0.0 { 0.0 } else { sum / count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use law::observation::Replicas;

    /// The last recommendation of a law that sees so many requests in the system in each second, and its text.
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
    fn calm_follows_the_long_average_and_panic_the_short_one() {
        // 60 samples of 1: ⌈1 ÷ 0.7⌉ = 2, and 2 ÷ 1 is already panic.
        assert_eq!(run(&[1.0; 63], 1), (Some(2), "1.0 requests, panicking".into()));
        assert_eq!(run(&[0.5; 63], 1), (Some(1), "0.5 requests, calmly".into()));
        // The last 6 of 60 s at 7: mean 1.15 → 2 (⌈1.15 ÷ 0.7⌉); panic ⌈7 ÷ 0.7⌉ = 10.
        let mut burst = vec![0.5; 57];
        burst.extend([7.0; 6]);
        assert_eq!(run(&burst, 2).0, Some(10));
    }

    #[test]
    fn it_never_goes_down_while_panicking_and_by_half_at_most() {
        let mut burst = vec![7.0; 10];
        burst.extend([0.0; 50]);
        assert_eq!(run(&burst, 4).0, Some(10), "still panicking: the short average was 10 replicas' until 5 s ago");
        burst.extend([0.0; 80]);
        assert_eq!(run(&burst, 4).0, Some(2), "⌊4 ÷ 2⌋");
    }
}
