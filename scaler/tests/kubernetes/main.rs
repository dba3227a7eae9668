//! The parts that speak to Kubernetes, with a real API server.

#[path = "../common/control_plane.rs"]
mod control_plane;
mod deployment;
mod leader;
