//! The scaler's lab: the laws of other autoscalers, and a plant on which any law can be tried in virtual time.
//!
//! [`laws`] has one file for each law. [`simulate`] compares laws on given workloads, [`backtest`] on the load that a
//! Prometheus has recorded. `lab run` scales a live system with any of these laws, by the server of the production
//! scaler.

pub mod backtest;
pub mod laws;
pub mod pods;
pub mod quantiles;
pub mod simulate;
