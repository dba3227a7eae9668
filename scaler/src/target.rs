//! The targets. Each is one task, which receives the desired number of replicas and publishes its state.

pub mod processes;
pub mod scalable;

use crate::leader::Term;
use law::observation::Replicas;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The weight of a new start-up time in the running mean.
const STARTUP_WEIGHT: f64 = 0.3;

/// The state of a target.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TargetState {
    /// The numbers of replicas by state.
    pub replicas: Replicas,
    /// The running mean of the times from start to readiness; `None` until a replica has become ready.
    pub startup: Option<Duration>,
    /// The mean time that replicas took lately to get a node if none had room for them; `None` until one was measured.
    pub node_time: Option<Duration>,
    /// The time in which blocked replicas may still get a node; `None` if none of them waits for a node.
    pub placement: Option<Duration>,
    /// The name of a pod that cannot be placed or keeps dying, and the reason, also if it is beyond the desired
    /// replicas; `None` if there is no such pod.
    pub obstacle: Option<String>,
    /// The name of a pod that waits for a node that is coming, and the program that says so; `None` if there is no such pod.
    pub awaited: Option<String>,
    /// The reason why changes are impossible, such as another autoscaler, with advice; `None` if they are possible.
    pub refusal: Option<String>,
    /// The rejection of the last change; `None` if the last change was made, or was left out.
    pub rejection: Option<Rejection>,
}

/// A change that the API server has rejected. The change is not repeated: the next decision after a pause is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// What was rejected and why, with advice.
    pub reason: String,
    /// The end of the pause.
    pub until: Instant,
}

impl Rejection {
    /// Whether changes are left out now, so that a server that rejects them gets few requests.
    pub fn pauses(&self) -> bool {
        Instant::now() < self.until
    }
}

/// The replicas that a target should have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// The desired number of replicas.
    pub replicas: usize,
    /// The reason for this number, as a sentence for users.
    pub reason: String,
    /// Whether the number is limited because the cluster cannot place more replicas.
    pub is_full: bool,
    /// The term in which this number was decided; `None` if the target has no leader. The number must not be written in
    /// a later term, since another scaler may have led in between.
    pub term: Option<Term>,
}

/// The connection to a target's task. Dropping `desired` ends the task.
#[derive(Debug)]
pub struct Handle {
    /// The replicas that the target should have. An object of Kubernetes acts once on each message, since other programs may
    /// change it, too. So a new decision must be sent at each tick until the target has the desired replicas.
    pub desired: watch::Sender<Desired>,
    /// The state of the target.
    pub state: watch::Receiver<TargetState>,
    /// The target's task. When it ends, replicas on this machine are drained; an object of Kubernetes stays as it is.
    pub done: JoinHandle<()>,
}

/// The running mean of start-up times after one more start, which took `took`.
pub fn startup_mean(mean: Option<Duration>, took: Duration) -> Duration {
    // The sum is rounded once, so the mean of equal times is exactly that time.
    let weighted = |mean: Duration| mean.as_secs_f64() * (1.0 - STARTUP_WEIGHT) + took.as_secs_f64() * STARTUP_WEIGHT;
    mean.map_or(took, |mean| Duration::from_secs_f64(weighted(mean)))
}
