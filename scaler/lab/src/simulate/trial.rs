//! A trial: the simulation of one law on one workload with one seed, and its outcome.

use super::controller::{Controller, LawController};
use super::plant::Plant;
use super::plant::settings::PlantSettings;
use super::plant::totals::PlantTotals;
use super::requests::{self, PlantRequest};
use super::timeline::{MAX_SAMPLES, TimelineSample};
use crate::laws::LawChoice;
use law::table::Settings as LawSettings;
use limits::Limits;
use scaler::control::OBSERVE;
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
    /// The highest age that a reading gets at random, at most the time between two readings.
    pub jitter: Duration,
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
        let step = OBSERVE.min(self.law_settings.interval);
        self.run_with(step, self.limits.min, &mut LawController::new(self))
    }

    /// Runs the plant on the workload, with `initial` ready replicas at first. Before each step of the length `step`,
    /// `controller` decides.
    pub fn run_with(&self, step: Duration, initial: usize, controller: &mut impl Controller) -> TrialOutcome {
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
        controller: &mut impl Controller,
    ) -> TrialOutcome {
        let mut plant = Plant::new(self.plant.clone(), initial, self.seed);
        let mut requests = requests.peekable();
        let end = Duration::from_secs(self.workload.per_second.len() as u64);
        let steps_per_sample = end.div_duration_f64(step * MAX_SAMPLES as u32).ceil() as usize;
        let (mut desired, mut peak, mut timeline) = (initial, initial, Vec::new());
        let (mut changes, mut late_changes) = (0, 0);
        let (mut at, mut steps) = (Duration::ZERO, 0_usize);
        controller.read(&plant);
        while at < end {
            let next = controller.decide(&plant);
            if next != desired {
                plant.scale(next);
                peak = peak.max(plant.alive());
                (desired, changes) = (next, changes + 1);
                late_changes += usize::from(at > SETTLED);
            }
            let before = at;
            at = (at + step).min(end);
            plant.run(&mut requests, at.saturating_sub(controller.reading_age()).max(before));
            controller.read(&plant);
            plant.run(&mut requests, at);
            peak = peak.max(plant.alive());
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
