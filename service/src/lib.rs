//! The parts that Roundhouse's programs share: the contract between the programs, an HTTP server, body reading,
//! readiness, shutdown, TLS, logs and metrics. Knows nothing of queues, models, scaling or load.

pub mod admin;
mod blocks;
pub mod body;
pub mod coding;
pub mod descriptors;
pub mod fetch;
pub mod file_watcher;
pub mod headers;
pub mod memory_budget;
pub mod options;
pub mod readiness;
pub mod repeated_failure;
pub mod respond;
pub mod server;
pub mod shutdown;
pub mod slot_channel;
pub mod telemetry;
pub mod tls;
pub mod trace;
pub mod upgrade;
pub mod variables;
pub mod wire;
