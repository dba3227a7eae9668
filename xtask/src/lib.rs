//! The task runner. Installs requirements, downloads libtorch, and builds, starts, demonstrates and tests a system.

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
