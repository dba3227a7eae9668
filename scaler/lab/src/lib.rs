//! The scaler's lab: the laws of other autoscalers, and a plant that simulates a dispatcher with its replicas, so that
//! any law can be tried in virtual time.
//!
//! [`laws`] has one file for each law. [`simulate`] compares laws on given workloads, and [`backtest`] compares them on
//! the load that a Prometheus has recorded. `lab run` scales a live system with any law but `cpu`, through the server
//! of the production scaler.

pub mod backtest;
pub mod laws;
pub mod pods;
pub mod quantiles;
pub mod sharing;
pub mod simulate;
