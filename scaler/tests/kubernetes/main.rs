//! The targets on Kubernetes, the leader election and the metric for an HPA, on a real API server.

#[path = "../common/control_plane.rs"]
mod control_plane;
mod leader;
mod room;
mod scalable;
