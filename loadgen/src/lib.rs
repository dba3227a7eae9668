//! The load generator: sends images to a server as a workload says, and reports the answers.

pub mod answer;
pub mod capacity;
pub mod compare;
pub mod condition;
pub mod config;
pub mod connection;
pub mod display;
pub mod drawing;
pub mod images;
pub mod latencies;
pub mod measure;
pub mod payload;
pub mod preview;
pub mod progress;
pub mod report;
pub mod run;
pub mod sample;
pub mod search;
pub mod send;
pub mod send_delay;
pub mod server_metrics;
pub mod spread;
pub mod summary;
pub mod target;
pub mod timer;
pub mod usage;
