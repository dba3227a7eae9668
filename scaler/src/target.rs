//! What is scaled: replicas as child processes of this one.

pub mod cgroup;
pub mod processes;
