//! What speaks to Kubernetes, against a real API server.

mod control_plane;
mod deployment;
mod leader;
mod measured;
