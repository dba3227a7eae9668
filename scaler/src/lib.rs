//! The scaler reads the dispatchers' metrics, decides how many replicas the latency objective needs, and runs them.

pub mod advice;
pub mod config;
pub mod control;
pub mod decision;
pub mod external_metrics;
pub mod hand_over;
pub mod headroom;
pub mod keda;
pub mod laws;
pub mod leader;
pub mod log_limiter;
mod metrics;
pub mod server;
pub mod status;
pub mod target;
