//! The scaler: reads the dispatcher's metrics, decides how many replicas the objective needs, and runs them.

pub mod cluster;
pub mod config;
pub mod control;
pub mod decision;
pub mod hand_over;
pub mod laws;
pub mod leader;
pub mod observe;
pub mod remarks;
pub mod server;
pub mod status;
pub mod target;
