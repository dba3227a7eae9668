//! A Kubernetes cluster on one machine without a container engine, and checks of Roundhouse for this or another
//! cluster.
//!
//! etcd, the API server, the controllers and the scheduler are real, and run as processes. This crate is the node: it
//! runs the programs of the workspace as pods.

pub mod access;
pub mod binaries;
pub mod cgroup;
pub mod check;
pub mod compare;
pub mod control_plane;
pub mod endpoints;
pub mod existing;
pub mod explore;
pub mod images;
pub mod kubectl;
pub mod kustomization;
pub mod load;
pub mod local;
pub mod network;
pub mod node;
mod node_objects;
pub mod paths;
pub mod prerequisites;
pub mod route;
pub mod wait;
