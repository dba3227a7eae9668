//! One law, one workload, one seed.

use super::plant::{Plant, Settings, Tally};
use super::requests::{self, Request};
use crate::laws::Choice;
use law::limits::{Limiter, Limits};
use law::observation::Observation;
use law::table::Settings as LawSettings;
use scaler::control::OBSERVE;
use serde::Serialize;
use std::collections::VecDeque;
use std::time::Duration;
use workload::Workload;
use workload::arrivals::Process;

/// From so many requests on a thread of its own makes them.
const LONG: f64 = 1e6;

/// More moments of a course are not kept: nobody sees them in a plot. An hour has as many.
pub const MOMENTS: usize = 7200;

/// What is tried.
#[derive(Debug, Clone)]
pub struct Trial<'a> {
    /// The law.
    pub law: Choice,
    /// What it is told.
    pub told: LawSettings,
    /// What stands between it and the plant.
    pub limits: Limits,
    /// The system.
    pub plant: Settings,
    /// Offered load.
    pub workload: &'a Workload,
    /// How arrivals are spread.
    pub process: Process,
    /// How old the figures are that the law sees.
    pub staleness: Duration,
    /// Of arrivals and service times.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Requests, and replica time.
    pub tally: Tally,
    /// Latency of answers at the 50th, 95th and 99th percentile, seconds.
    pub percentiles: [f64; 3],
    /// Most replicas at once, starting ones included.
    pub peak: usize,
    /// How often the number asked for changed.
    pub changes: usize,
    /// Every observation; every other, third, … if there are more than [`MOMENTS`].
    pub course: Vec<Moment>,
}

/// The system at one observation.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Moment {
    /// Since the start.
    #[serde(rename = "at_seconds", serialize_with = "seconds")]
    pub at: Duration,
    /// Asked for.
    pub desired: usize,
    /// Serving.
    pub ready: usize,
    /// Requests so far.
    pub offered: u64,
    /// What became of them; nothing where only the rest was recorded.
    #[serde(flatten)]
    pub requests: Option<Requests>,
}

/// What became of the requests so far.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Requests {
    /// Waiting.
    pub queue_length: usize,
    /// Answered in time.
    pub in_time: u64,
    /// Neither answered nor given up yet.
    pub pending: u64,
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

impl Outcome {
    /// Answered within the objective ÷ offered; 1 if there was nothing to answer.
    pub fn attainment(&self) -> f64 {
        if self.tally.offered == 0 { 1.0 } else { self.tally.in_time as f64 / self.tally.offered as f64 }
    }

    /// Replicas × seconds.
    pub fn replica_seconds(&self) -> f64 {
        self.tally.replica_time.as_secs_f64()
    }
}

impl Trial<'_> {
    /// Runs it.
    pub fn run(&self) -> Outcome {
        let mut law = self.law.make(&self.told);
        let mut limiter = Limiter::new(self.limits);
        let mut on_the_way = VecDeque::new();
        self.steer(OBSERVE.min(self.told.interval), self.limits.min, |plant| {
            let now = plant.observe();
            let (at, replicas) = (now.at, now.replicas);
            on_the_way.push_back((now, plant.pods()));
            while on_the_way.get(1).is_some_and(|(next, _)| next.at + self.staleness <= at) {
                on_the_way.pop_front();
            }
            let (seen, pods) = on_the_way.front().cloned().unwrap_or_default();
            // What there is comes from the target, not from the metrics.
            let seen = Observation { replicas, ..seen };
            if seen.at + self.staleness > at {
                return replicas.desired;
            }
            limiter.apply(&seen, law.decide(&seen, &pods).replicas).0
        })
    }

    /// Runs the plant with what `desired` asks for after every `step`.
    pub fn steer(&self, step: Duration, initial: usize, desired: impl FnMut(&Plant) -> usize) -> Outcome {
        let requests = requests::stream(self.workload, self.process, &self.plant.work, self.seed);
        if self.workload.total() < LONG {
            return self.steer_with(requests, step, initial, desired);
        }
        std::thread::scope(|scope| self.steer_with(requests::ahead(scope, requests), step, initial, desired))
    }

    fn steer_with(
        &self,
        requests: impl Iterator<Item = Request>,
        step: Duration,
        initial: usize,
        mut desired: impl FnMut(&Plant) -> usize,
    ) -> Outcome {
        let mut plant = Plant::new(self.plant.clone(), initial);
        let mut requests = requests.peekable();
        let end = Duration::from_secs(self.workload.per_second.len() as u64);
        let (mut peak, mut changes, mut course) = (initial, 0, Vec::new());
        let mut current = initial;
        let mut at = Duration::ZERO;
        let thinning = end.div_duration_f64(step * MOMENTS as u32).ceil() as usize;
        for count in 1_usize.. {
            let next = desired(&plant);
            if next != current {
                plant.scale(next);
                (current, changes, peak) = (next, changes + 1, peak.max(next.min(self.plant.room)));
            }
            at = (at + step).min(end);
            plant.run(&mut requests, at);
            if at == end || count.is_multiple_of(thinning) {
                course.push(plant.moment());
            }
            if at == end {
                break;
            }
        }
        let replica_time = plant.tally().replica_time;
        plant.finish_all();
        let percentile = |quantile| plant.latencies().value_at_quantile(quantile) as f64 / 1e6;
        Outcome {
            percentiles: [0.5, 0.95, 0.99].map(percentile),
            // What comes after the last arrival is nobody's cost.
            tally: Tally { replica_time, ..plant.tally().clone() },
            peak,
            changes,
            course,
        }
    }
}
