//! The lifecycle of the plant's replicas: draws the time of each start and of each life, and returns their ends in order
//! of time. All instants are nanoseconds since the start of the simulation.

use super::settings::PlantSettings;
use crate::simulate::streams::Stream;
use crate::simulate::time_distribution::TimeDistribution;
use rand_chacha::ChaCha8Rng;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The end of a replica's present phase: a starting replica becomes ready, and a ready replica dies. It has no meaning
/// for a replica that has been stopped since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PhaseEnd {
    pub(super) at: u64,
    /// The number of the replica.
    pub(super) replica: u32,
}

/// The times of starts and lives, and their ends.
#[derive(Debug)]
pub(super) struct Lifecycle {
    startups: (TimeDistribution, ChaCha8Rng),
    /// The times from readiness to death; `None` if no replica dies.
    lives: Option<(TimeDistribution, ChaCha8Rng)>,
    /// The ends of the present phases of all starting and ready replicas, and some of replicas that were stopped.
    ends: BinaryHeap<Reverse<PhaseEnd>>,
}

impl Lifecycle {
    /// The lifecycle of replicas with these settings. `seed` is that of the random numbers.
    pub(super) fn new(settings: &PlantSettings, seed: u64) -> Self {
        let startup = TimeDistribution::new(settings.startup, settings.disturbances.startup_variation);
        let lives = settings.disturbances.mtbf.map(TimeDistribution::Exponential);
        Self {
            startups: (startup, Stream::StartUps.rng(seed)),
            lives: lives.map(|lives| (lives, Stream::Lives.rng(seed))),
            ends: BinaryHeap::new(),
        }
    }

    /// Draws the start-up time of a replica that starts at `now`.
    pub(super) fn start(&mut self, replica: u32, now: u64) {
        let (startups, rng) = &mut self.startups;
        self.ends.push(Reverse(PhaseEnd { at: now.saturating_add(startups.draw(rng)), replica }));
    }

    /// Draws the life of a replica that is ready since `now`.
    pub(super) fn live(&mut self, replica: u32, now: u64) {
        if let Some((lives, rng)) = &mut self.lives {
            self.ends.push(Reverse(PhaseEnd { at: now.saturating_add(lives.draw(rng)), replica }));
        }
    }

    /// The earliest end of a phase.
    pub(super) fn first(&self) -> Option<PhaseEnd> {
        self.ends.peek().map(|end| end.0)
    }

    /// Takes the earliest end of a phase if it is due at `now`.
    pub(super) fn take_due(&mut self, now: u64) -> Option<PhaseEnd> {
        self.first().filter(|end| end.at <= now)?;
        self.ends.pop().map(|end| end.0)
    }
}
