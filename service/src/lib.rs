//! What every Roundhouse binary stands on: the contract, readiness, shutdown, telemetry and plain HTTP serving.

pub mod admin;
pub mod admission;
pub mod arrivals;
pub mod body;
pub mod descriptors;
pub mod fetch;
pub mod headers;
pub mod options;
pub mod readiness;
pub mod reread;
pub mod respond;
pub mod server;
pub mod service_time;
pub mod shape;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
pub mod trace;
pub mod wire;
pub mod workload;
