//! `ray-serve`: Ray Serve's autoscaler. It computes the mean number of requests in the system ÷ 2, rounded up. It
//! recommends that number once it has been above the desired replicas for 30 s, or below them for 600 s.
//!
//! Source: Ray 2.32, ray.serve.config.AutoscalingConfig with its defaults: target_ongoing_requests = 2,
//! look_back_period_s = 30, upscale_delay_s = 30, downscale_delay_s = 600.

use law::observation::Observation;
use law::table::{Law, LawKind, Recommendation};
use law::window::Window;
use std::cmp::Ordering;
use std::time::Duration;

/// The entry of the law `ray-serve` in a table of laws.
pub const KIND: LawKind = LawKind {
    name: "ray-serve",
    parameter: "",
    wakes: false,
    scales_dispatchers: false,
    make: |_, parameter| parameter.is_none().then(|| Box::new(RayServe::default()) as Box<dyn Law>),
};

/// The number of requests in the system for each replica.
const TARGET_ONGOING_REQUESTS: f64 = 2.0;
/// The time over which requests are averaged.
const LOOK_BACK_PERIOD: Duration = Duration::from_secs(30);
/// The law scales up after the mean has called for more replicas for this time.
const UPSCALE_DELAY: Duration = Duration::from_secs(30);
/// The law scales down after the mean has called for fewer replicas for this time.
const DOWNSCALE_DELAY: Duration = Duration::from_secs(600);

/// The law `ray-serve` with its state between decisions.
#[derive(Debug)]
pub struct RayServe {
    /// The number of requests in the system at each observation.
    samples: Window<f64>,
    /// Whether the mean calls for more, fewer or the same number of replicas, and the time since which it has done so.
    /// `None` before the first observation and after a recommendation.
    direction: Option<(Ordering, Duration)>,
}

/// The law in its initial state.
impl Default for RayServe {
    fn default() -> Self {
        Self { samples: Window::new(LOOK_BACK_PERIOD), direction: None }
    }
}

impl Law for RayServe {
    fn decide(&mut self, seen: &Observation) -> Recommendation {
        self.samples.push(seen.at, seen.queue_length + seen.in_flight);
        let samples = self.samples.within(seen.at, LOOK_BACK_PERIOD);
        let (sum, count) = samples.fold((0.0, 0.0), |(sum, count), sample| (sum + sample, count + 1.0));
        let requests = sum / count;
        let text = format!("{requests:.1} requests over half a minute");
        let recommended = (requests / TARGET_ONGOING_REQUESTS).ceil() as usize;
        let direction = recommended.cmp(&seen.replicas.desired);
        let since = match self.direction {
            Some((same, since)) if same == direction => since,
            _ => seen.at,
        };
        self.direction = Some((direction, since));
        let delay = if direction == Ordering::Greater { UPSCALE_DELAY } else { DOWNSCALE_DELAY };
        if direction == Ordering::Equal || seen.at < since + delay {
            return Recommendation::new(None, "ongoing", text);
        }
        self.direction = None;
        Recommendation::new(Some(recommended), "ongoing", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use law::observation::Replicas;

    #[test]
    fn scaling_up_waits_half_a_minute_and_scaling_down_ten_minutes() {
        let mut law = RayServe::default();
        let mut desired = 1;
        let mut changes = Vec::new();
        for second in 0..800 {
            let seen = Observation {
                at: Duration::from_secs(second),
                in_flight: if second < 100 { 7.0 } else { 1.0 },
                replicas: Replicas { desired, ready: desired, ..Replicas::default() },
                ..Observation::default()
            };
            if let Some(recommended) = law.decide(&seen).replicas {
                changes.push((second, recommended));
                desired = recommended;
            }
        }
        // ⌈7 ÷ 2⌉ = 4 replicas after 30 s. From 100 s on the mean falls. At 104 s it is 6, which calls for three
        // replicas. After another 600 s, the mean is 1, and the law recommends one replica.
        assert_eq!(changes, [(30, 4), (704, 1)]);
    }
}
