//! The targets. Each is one task, which receives the desired number of replicas and publishes the present ones.

pub mod deployment;
pub mod processes;

use law::observation::Replicas;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Weight of a new start in the running mean of start-up times.
const STARTUP_WEIGHT: f64 = 0.3;

/// The state of a target.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// Replicas by state.
    pub replicas: Replicas,
    /// Running mean of the times from started to ready; `None` until a replica became ready.
    pub startup: Option<Duration>,
    /// Why nothing may be changed at present, such as another autoscaler that owns the target, and what to do about it.
    pub refusal: Option<String>,
}

/// The replicas that a target should have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// The number of replicas.
    pub replicas: usize,
    /// The reason, for people.
    pub reason: String,
    /// Whether there are so few because more cannot be placed.
    pub is_full: bool,
}

/// The connection to a target's task. Dropping `desired` ends the task.
#[derive(Debug)]
pub struct Handle {
    /// The replicas that the target should have. A target that others may change as well acts once on each message, so
    /// desired replicas that have not come about have to be sent again.
    pub desired: watch::Sender<Desired>,
    /// The state of the target.
    pub state: watch::Receiver<State>,
    /// Ends with the task: replicas on this machine are drained by then, others stay as they are.
    pub done: JoinHandle<()>,
}

/// The running mean of start-up times after one more start.
fn startup_mean(mean: Option<Duration>, took: Duration) -> Duration {
    mean.map_or(took, |mean| mean.mul_f64(1.0 - STARTUP_WEIGHT) + took.mul_f64(STARTUP_WEIGHT))
}
