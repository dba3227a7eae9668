//! loadgen: sends pictures as a workload says, whatever the server does, and reports what came back.

pub mod config;
pub mod images;
pub mod report;
pub mod run;
pub mod sample;
pub mod send;
pub mod shapes;
pub mod summary;
pub mod watch;
