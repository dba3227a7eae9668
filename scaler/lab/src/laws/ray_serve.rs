//! `ray-serve`: requests waiting and in flight ÷ 2; waits half a minute before it goes up, ten minutes before it goes down.
//!
//! Source: Ray Serve's autoscaling with target_ongoing_requests = 2, look_back_period_s = 30, upscale_delay_s = 30 and
//! downscale_delay_s = 600, its defaults.

use law::observation::Observation;
use law::table::{Kind, Law, Recommendation};
use law::window::Window;
use std::cmp::Ordering;
use std::time::Duration;

/// The line for a table of laws.
pub const KIND: Kind = Kind {
    name: "ray-serve",
    parameter: "",
    wakes: false,
    scales_dispatchers: false,
    make: |_, parameter| parameter.is_none().then(|| Box::new(RayServe::default()) as Box<dyn Law>),
};

const PER_REPLICA: f64 = 2.0;
const LOOK_BACK: Duration = Duration::from_secs(30);
const UP_DELAY: Duration = Duration::from_secs(30);
const DOWN_DELAY: Duration = Duration::from_secs(600);

/// The law and what it remembers.
#[derive(Debug)]
pub struct RayServe {
    samples: Window<f64>,
    /// In which direction it has wished to go, without interruption, and since when.
    leaning: Option<(Ordering, Duration)>,
}

/// Remembers nothing yet.
impl Default for RayServe {
    fn default() -> Self {
        Self { samples: Window::new(LOOK_BACK), leaning: None }
    }
}

impl Law for RayServe {
    fn decide(&mut self, seen: &Observation) -> Recommendation {
        self.samples.push(seen.at, seen.queue_length + seen.in_flight);
        let (mut sum, mut count) = (0.0, 0.0);
        for sample in self.samples.within(seen.at, LOOK_BACK) {
            sum += sample;
            count += 1.0;
        }
        let requests = sum / count;
        let text = format!("{requests:.1} requests over half a minute");
        let recommended = (requests / PER_REPLICA).ceil() as usize;
        let direction = recommended.cmp(&seen.replicas.desired);
        let since = match self.leaning {
            Some((same, since)) if same == direction => since,
            _ => seen.at,
        };
        self.leaning = Some((direction, since));
        let delay = if direction == Ordering::Greater { UP_DELAY } else { DOWN_DELAY };
        if direction == Ordering::Equal || seen.at < since + delay {
            return Recommendation::new(None, "ongoing", text);
        }
        self.leaning = None;
        Recommendation::new(Some(recommended), "ongoing", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use law::observation::Replicas;

    #[test]
    fn it_waits_before_it_goes_either_way() {
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
            if let Some(wish) = law.decide(&seen).replicas {
                changes.push((second, wish));
                desired = wish;
            }
        }
        // ⌈7 ÷ 2⌉ after 30 s. From 100 s on the mean falls, to 6 at 104 s: 600 s later it is 1.
        assert_eq!(changes, [(30, 4), (704, 1)]);
    }
}
