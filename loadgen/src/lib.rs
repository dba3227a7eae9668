//! loadgen: sends pictures as a workload says, whatever the server does, and reports what came back.

pub mod capacity;
pub mod compare;
pub mod condition;
pub mod config;
pub mod connection;
pub mod display;
pub mod images;
pub mod latencies;
pub mod measure;
pub mod pace;
pub mod payload;
pub mod preview;
pub mod punctuality;
pub mod report;
pub mod run;
pub mod sample;
pub mod search;
pub mod send;
pub mod shapes;
pub mod summary;
pub mod tally;
pub mod target;
pub mod usage;
pub mod verdict;
pub mod watch;
