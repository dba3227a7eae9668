//! The task runner: gets libtorch, builds, starts the whole system, demonstrates, tests, measures and compares it.

pub mod bench;
pub mod build;
pub mod burst;
pub mod cluster;
pub mod demo;
pub mod exit;
pub mod images;
pub mod libtorch;
pub mod loadgen;
pub mod paths;
pub mod prerequisites;
pub mod python;
pub mod stack;
pub mod steal;
pub mod up;
