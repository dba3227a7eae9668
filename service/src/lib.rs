//! What every Roundhouse binary stands on: the contract, readiness, shutdown, telemetry and plain HTTP serving.

pub mod admin;
pub mod body;
pub mod descriptors;
pub mod fetch;
pub mod file_watcher;
pub mod headers;
pub mod options;
pub mod readiness;
pub mod respond;
pub mod server;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
pub mod trace;
pub mod wire;
