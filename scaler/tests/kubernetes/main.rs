//! The target `deployment` and the leader election, on a real API server.

#[path = "../common/control_plane.rs"]
mod control_plane;
mod deployment;
mod leader;
