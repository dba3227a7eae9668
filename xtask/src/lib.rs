//! The task runner: installs what is missing, gets libtorch, builds, starts a whole system, demonstrates and tests it.

pub mod bench;
pub mod build;
pub mod burst;
pub mod cluster;
pub mod command;
pub mod demo;
pub mod doctor;
pub mod estimate;
pub mod exit;
pub mod http;
pub mod images;
pub mod install;
pub mod libtorch;
pub mod loadgen;
pub mod paths;
pub mod progress;
pub mod python_tool;
pub mod requirement;
pub mod stack;
pub mod steal;
pub mod test;
pub mod up;
