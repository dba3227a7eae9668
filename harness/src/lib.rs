//! Runs the programs of the workspace as processes on this machine, for the demo, the tests and the benchmarks. Builds
//! nothing.

pub mod burst;
pub mod command;
pub mod http;
pub mod loadgen;
pub mod paths;
pub mod python_tool;
pub mod stack;
pub mod steal;
pub mod suite;
