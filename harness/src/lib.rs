//! Runs the programs of the workspace as processes on this machine: the demo, the tests and the benchmarks stand on it.
//! Builds nothing.

pub mod burst;
pub mod command;
pub mod http;
pub mod loadgen;
pub mod paths;
pub mod python_tool;
pub mod stack;
pub mod steal;
pub mod suite;
