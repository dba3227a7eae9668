//! The task runner: gets libtorch, builds, starts the whole system, demonstrates and tests it.

pub mod bench;
pub mod build;
pub mod demo;
pub mod libtorch;
pub mod paths;
pub mod prerequisites;
pub mod stack;
pub mod steal;
pub mod up;
