//! A trial: the simulation of one law on one workload with one seed, and its outcome.

use super::plant::Plant;
use super::plant::settings::PlantSettings;
use super::plant::totals::PlantTotals;
use super::requests::{self, PlantRequest};
use super::timeline::{MAX_SAMPLES, TimelineSample};
use crate::laws::LawChoice;
use crate::pods::Pod;
use law::observation::Observation;
use law::table::Settings as LawSettings;
use limits::{Limiter, Limits};
use scaler::control::OBSERVE;
use std::collections::VecDeque;
use std::time::Duration;
use workload::Workload;
use workload::arrivals::ArrivalProcess;

/// From this number of requests on, a separate thread generates them while the plant runs. For fewer requests, starting
/// the thread takes longer than it saves.
const MIN_PREFETCHED: f64 = 1e6;

/// The time after which the number of replicas should no longer change under a steady load.
const SETTLED: Duration = Duration::from_secs(60);

/// A trial: one law on one workload with one seed.
#[derive(Debug, Clone)]
pub struct Trial<'a> {
    /// The law that scales the plant.
    pub law: LawChoice,
    /// The settings that the law receives: objective, interval and bounds.
    pub law_settings: LawSettings,
    /// The limits that turn the law's recommended replicas into the plant's desired replicas.
    pub limits: Limits,
    /// The settings of the plant.
    pub plant: PlantSettings,
    /// The offered load.
    pub workload: &'a Workload,
    /// The arrival process.
    pub process: ArrivalProcess,
    /// The age of the metrics on which the law decides.
    pub staleness: Duration,
    /// The seed of all random numbers.
    pub seed: u64,
}

/// The outcome of a trial.
#[derive(Debug, Clone)]
pub struct TrialOutcome {
    /// The numbers of requests by result, and the replica time until the end of the workload.
    pub totals: PlantTotals,
    /// The 50th, 95th and 99th percentile of the latency of the answers, in seconds.
    pub percentiles: [f64; 3],
    /// The highest number of replicas at once, starting replicas included.
    pub peak: usize,
    /// The number of changes of the desired replicas.
    pub changes: usize,
    /// The number of changes of the desired replicas after the first minute.
    pub late_changes: usize,
    /// Samples of the plant after every n-th step and at the end. n is the smallest number with which there are at most
    /// [`MAX_SAMPLES`].
    pub timeline: Vec<TimelineSample>,
}

impl TrialOutcome {
    /// The share of all offered requests that were answered within the objective; 1 if no request was offered.
    pub fn attainment(&self) -> f64 {
        if self.totals.offered == 0 { 1.0 } else { self.totals.in_time as f64 / self.totals.offered as f64 }
    }

    /// The cost: replicas × seconds, starting replicas included.
    pub fn replica_seconds(&self) -> f64 {
        self.totals.replica_time.as_secs_f64()
    }
}

impl Trial<'_> {
    /// Runs the law on the plant.
    pub fn run(&self) -> TrialOutcome {
        let mut law = self.law.make(&self.law_settings);
        let mut limiter = Limiter::new(self.limits);
        let mut delayed = DelayedObservations { staleness: self.staleness, observations: VecDeque::new() };
        self.run_with(OBSERVE.min(self.law_settings.interval), self.limits.min, |plant| {
            let current = plant.observe().replicas;
            let Some((seen, pods)) = delayed.next(plant) else { return current.desired };
            // The metrics are delayed, but not the numbers of replicas: a real scaler gets these from its target
            // without delay.
            let seen = Observation { replicas: current, ..seen };
            limiter.apply(&seen, law.decide(&seen, &pods).replicas).0
        })
    }

    /// Runs the plant on the workload, with `initial` ready replicas at first. Before each step of the length `step`,
    /// `controller` returns the desired replicas.
    pub fn run_with(&self, step: Duration, initial: usize, controller: impl FnMut(&Plant) -> usize) -> TrialOutcome {
        let requests = requests::generate(self.workload, self.process, &self.plant.service_times, self.seed);
        if self.workload.total() < MIN_PREFETCHED {
            return self.run_on(requests, step, initial, controller);
        }
        std::thread::scope(|scope| self.run_on(requests::prefetch(scope, requests), step, initial, controller))
    }

    fn run_on(
        &self,
        requests: impl Iterator<Item = PlantRequest>,
        step: Duration,
        initial: usize,
        mut controller: impl FnMut(&Plant) -> usize,
    ) -> TrialOutcome {
        let mut plant = Plant::new(self.plant.clone(), initial, self.seed);
        let mut requests = requests.peekable();
        let end = Duration::from_secs(self.workload.per_second.len() as u64);
        let steps_per_sample = end.div_duration_f64(step * MAX_SAMPLES as u32).ceil() as usize;
        let (mut desired, mut peak, mut timeline) = (initial, initial, Vec::new());
        let (mut changes, mut late_changes) = (0, 0);
        let (mut at, mut steps) = (Duration::ZERO, 0_usize);
        while at < end {
            let next = controller(&plant);
            if next != desired {
                plant.scale(next);
                (desired, changes, peak) = (next, changes + 1, peak.max(next.min(self.plant.max_placed)));
                late_changes += usize::from(at > SETTLED);
            }
            at = (at + step).min(end);
            plant.run(&mut requests, at);
            steps += 1;
            if at == end || steps.is_multiple_of(steps_per_sample) {
                timeline.push(plant.timeline_sample());
            }
        }
        // The cost ends with the workload. After that, no law decides, and the plant only answers the last requests.
        let replica_time = plant.totals().replica_time;
        plant.finish_all();
        let percentile = |quantile| plant.latencies().value_at_quantile(quantile) as f64 / 1e6;
        TrialOutcome {
            percentiles: [0.5, 0.95, 0.99].map(percentile),
            totals: PlantTotals { replica_time, ..plant.totals().clone() },
            peak,
            changes,
            late_changes,
            timeline,
        }
    }
}

/// The newest observation that is old enough for the law, if there is one, and all later observations, oldest first.
struct DelayedObservations {
    staleness: Duration,
    observations: VecDeque<(Observation, Vec<Pod>)>,
}

impl DelayedObservations {
    /// Observes the plant, and returns the newest observation whose age is at least the staleness. `None` if no
    /// observation is old enough.
    fn next(&mut self, plant: &Plant) -> Option<(Observation, Vec<Pod>)> {
        let observation = plant.observe();
        let now = observation.at;
        self.observations.push_back((observation, plant.pods()));
        while self.observations.get(1).is_some_and(|(second, _)| second.at + self.staleness <= now) {
            self.observations.pop_front();
        }
        self.observations.front().filter(|(oldest, _)| oldest.at + self.staleness <= now).cloned()
    }
}
