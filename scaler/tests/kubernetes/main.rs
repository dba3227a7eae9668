//! What speaks to Kubernetes, against a real API server.

#[path = "../common/control_plane.rs"]
mod control_plane;
mod deployment;
mod leader;
