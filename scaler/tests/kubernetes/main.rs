//! The targets on Kubernetes and the leader election, on a real API server.

#[path = "../common/control_plane.rs"]
mod control_plane;
mod leader;
mod room;
mod scalable;
