//! What is scaled. Each target is one task: it is told how many replicas there should be, and tells how many there are.

pub mod cgroup;
pub mod deployment;
pub mod processes;

use law::observation::Replicas;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Weight of a new start in the running mean of start-up times.
const STARTUP_WEIGHT: f64 = 0.3;

/// What a target says of itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// By state.
    pub replicas: Replicas,
    /// Running mean of started → ready; nothing until one became ready.
    pub startup: Option<Duration>,
    /// Why nothing may be changed at present, such as another autoscaler that owns the target, and what to do about it.
    pub refusal: Option<String>,
}

/// How many replicas there should be, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// How many.
    pub replicas: usize,
    /// For whoever wonders why they changed.
    pub reason: String,
    /// Whether it is that few as more cannot be placed.
    pub is_full: bool,
}

/// How to reach a target's task. Dropping `desired` ends it.
#[derive(Debug)]
pub struct Handle {
    /// How many there should be. A target that others may change as well acts once on each wish, so a wish that still
    /// stands and is not what there is has to be sent again.
    pub desired: watch::Sender<Wish>,
    /// How many there are.
    pub state: watch::Receiver<State>,
    /// Ends when the task has: replicas that live on this machine are drained by then, others stay as they are.
    pub done: JoinHandle<()>,
}

/// The running mean of start-up times after one more.
fn startup_mean(mean: Option<Duration>, took: Duration) -> Duration {
    mean.map_or(took, |mean| mean.mul_f64(1.0 - STARTUP_WEIGHT) + took.mul_f64(STARTUP_WEIGHT))
}
