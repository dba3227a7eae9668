//! A Kubernetes cluster on one machine without a container engine, and the checks that run on it or on any other
//! cluster.
//!
//! etcd, the API server, the controllers and the scheduler are real and run as processes. The node is part of this
//! crate: it runs the programs of the workspace as pods.

pub mod access;
pub mod binaries;
pub mod cgroup;
pub mod check;
pub mod compare;
pub mod control_plane;
pub mod existing;
pub mod explore;
pub mod images;
pub mod kubectl;
pub mod load;
pub mod local;
pub mod network;
pub mod node;
pub mod paths;
pub mod prerequisites;
pub mod route;
pub mod wait;
