//! What is scaled. Each target is one task: it is told how many replicas there should be, and tells how many there are.

pub mod cgroup;
pub mod processes;

use crate::policy::Replicas;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

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

/// How to reach a target's task. Dropping `desired` ends it.
#[derive(Debug)]
pub struct Handle {
    /// How many there should be.
    pub desired: watch::Sender<usize>,
    /// How many there are.
    pub state: watch::Receiver<State>,
    /// Ends when the task has: replicas that live on this machine are drained by then, others stay as they are.
    pub done: JoinHandle<()>,
}
