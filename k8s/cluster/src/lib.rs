//! A real Kubernetes cluster on one machine, without a container engine: etcd, kube-apiserver, controllers and scheduler as
//! processes, and a node that runs the programs of this workspace as pods; and what is checked on it.

pub mod binaries;
pub mod cgroup;
pub mod check;
pub mod cluster;
pub mod compare;
pub mod control_plane;
pub mod explore;
pub mod images;
pub mod kubectl;
pub mod load;
pub mod network;
pub mod node;
pub mod paths;
pub mod prerequisites;
