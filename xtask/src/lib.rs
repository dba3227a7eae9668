//! The task runner: installs what is missing, gets libtorch, builds, starts a whole system, demonstrates and tests it.

pub mod bench;
pub mod build;
pub mod cluster;
pub mod demo;
pub mod doctor;
pub mod estimate;
pub mod images;
pub mod install;
pub mod progress;
pub mod requirement;
pub mod test;
pub mod up;
