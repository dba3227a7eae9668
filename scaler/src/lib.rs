//! The scaler: reads the dispatcher's metrics, decides how many replicas the objective needs, and runs them.

pub mod ask;
pub mod backtest;
pub mod cluster;
pub mod config;
pub mod control;
pub mod decision;
pub mod leader;
pub mod limits;
pub mod observe;
pub mod policy;
pub mod queueing;
pub mod remarks;
pub mod server;
pub mod simulate;
pub mod target;
