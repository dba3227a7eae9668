//! Controllers: what sets the number of desired replicas of a plant at each step.

use super::plant::Plant;
use super::streams::Stream;
use super::trial::Trial;
use crate::laws::PlantLaw;
use crate::pods::Pod;
use law::observation::Observation;
use limits::Limiter;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use scaler::control::is_news;
use std::collections::VecDeque;
use std::time::Duration;

/// A controller of a plant.
pub trait Controller {
    /// The age that the next reading has at the next decision, at most the time between two decisions.
    fn reading_age(&mut self) -> Duration {
        Duration::ZERO
    }

    /// Reads the plant for the next decision.
    fn read(&mut self, _plant: &Plant) {}

    /// The number of desired replicas from now on.
    fn decide(&mut self, plant: &Plant) -> usize;
}

/// A law with its limits and its readings of the plant.
pub struct LawController {
    law: PlantLaw,
    limiter: Limiter,
    readings: DelayedReadings,
    /// The highest age that a reading gets at random.
    jitter: Duration,
    rng: ChaCha8Rng,
    /// The time of the figures of the last decision.
    seen_at: Option<Duration>,
}

impl LawController {
    /// The controller of a trial, before its first reading.
    pub fn new(trial: &Trial) -> Self {
        Self {
            law: trial.law.make(&trial.law_settings),
            limiter: Limiter::new(trial.limits),
            readings: DelayedReadings { staleness: trial.staleness, readings: VecDeque::new() },
            jitter: trial.jitter,
            rng: Stream::Readings.rng(trial.seed),
            seen_at: None,
        }
    }
}

impl Controller for LawController {
    fn reading_age(&mut self) -> Duration {
        self.jitter.mul_f64(self.rng.random())
    }

    fn read(&mut self, plant: &Plant) {
        self.readings.add(plant.observe(), plant.pods());
    }

    fn decide(&mut self, plant: &Plant) -> usize {
        let now = plant.observe();
        let current = now.replicas.desired;
        let Some((figures, pods)) = self.readings.newest(now.at) else { return current };
        // Without jitter, readings are as far apart as decisions, and the flags say how far that is.
        if !self.jitter.is_zero() && !is_news(figures.at, self.seen_at) {
            return current;
        }
        self.seen_at = Some(figures.at);
        // The metrics are delayed, but not the state of the replicas: a real scaler gets it from its target without
        // delay.
        let age = now.at.saturating_sub(figures.at);
        let seen = Observation { replicas: now.replicas, age, startup: now.startup, ..figures };
        self.limiter.apply(&seen, self.law.decide(&seen, &pods).replicas).0
    }
}

/// The newest reading that is old enough for the law, if there is one, and all later readings, oldest first.
struct DelayedReadings {
    staleness: Duration,
    readings: VecDeque<(Observation, Vec<Pod>)>,
}

impl DelayedReadings {
    fn add(&mut self, observation: Observation, pods: Vec<Pod>) {
        self.readings.push_back((observation, pods));
    }

    /// The newest reading whose age at `now` is at least the staleness. `None` if no reading is old enough.
    fn newest(&mut self, now: Duration) -> Option<(Observation, Vec<Pod>)> {
        while self.readings.get(1).is_some_and(|(second, _)| second.at + self.staleness <= now) {
            self.readings.pop_front();
        }
        self.readings.front().filter(|(oldest, _)| oldest.at + self.staleness <= now).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laws::LawChoice;
    use crate::simulate::plant::settings::PlantSettings;
    use crate::simulate::time_distribution::TimeDistribution;
    use law::table::{Objective, Settings};
    use limits::Limits;
    use workload::Workload;
    use workload::arrivals::ArrivalProcess;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// A law's controller that notes when it reads, and the dates of the figures at each decision.
    struct Recorder {
        controller: LawController,
        reads: Vec<Duration>,
        decisions: Vec<(Duration, Option<Duration>)>,
    }

    impl Controller for Recorder {
        fn reading_age(&mut self) -> Duration {
            self.controller.reading_age()
        }

        fn read(&mut self, plant: &Plant) {
            self.reads.push(plant.observe().at);
            self.controller.read(plant);
        }

        fn decide(&mut self, plant: &Plant) -> usize {
            let desired = self.controller.decide(plant);
            self.decisions.push((plant.observe().at, self.controller.seen_at));
            desired
        }
    }

    fn record(jitter: Duration) -> Recorder {
        let workload = Workload::constant(20.0, Duration::from_secs(60));
        let trial = Trial {
            law: LawChoice::Live("slo".into()),
            law_settings: Settings {
                objective: Objective { latency: MS(500), quantile: 0.99 },
                interval: MS(500),
                delay: Duration::ZERO,
                starts_per_second: f64::INFINITY,
                min: 1,
                max: 6,
            },
            limits: Limits::bounds(1, 6),
            plant: PlantSettings::simple(TimeDistribution::Constant(MS(55))),
            workload: &workload,
            process: ArrivalProcess::Poisson,
            staleness: Duration::ZERO,
            jitter,
            seed: 1,
        };
        let controller = LawController::new(&trial);
        let mut recorder = Recorder { controller, reads: Vec::new(), decisions: Vec::new() };
        trial.run_with(MS(500), 1, &mut recorder);
        recorder
    }

    #[test]
    fn without_jitter_every_decision_uses_figures_of_its_own_instant() {
        let Recorder { decisions, .. } = record(Duration::ZERO);
        assert_eq!(decisions.len(), 120);
        assert!(decisions.iter().all(|(at, seen_at)| *seen_at == Some(*at)), "{decisions:?}");
    }

    #[test]
    fn with_jitter_readings_are_older_and_decisions_need_news() {
        let Recorder { reads, decisions, .. } = record(MS(500));
        assert!(reads.is_sorted());
        let ages = || reads.iter().zip(&decisions).skip(1).map(|(read, decision)| (decision.0 - *read).as_secs_f64());
        assert!(ages().all(|age| (0.0..=0.5).contains(&age)), "{:?}", ages().collect::<Vec<_>>());
        let mean = ages().sum::<f64>() / (reads.len() - 2) as f64;
        assert!((0.2..0.3).contains(&mean), "{mean}");
        let mut dates: Vec<Duration> = decisions.iter().filter_map(|decision| decision.1).collect();
        dates.dedup();
        assert!(dates.len() < decisions.len(), "some readings are too close to the last one");
        assert!(dates.windows(2).all(|pair| pair[1] - pair[0] >= MS(250)), "{dates:?}");
    }
}
