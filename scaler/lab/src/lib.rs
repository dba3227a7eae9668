//! The scaler's laboratory: the laws of other autoscalers, and a plant on which any law can be tried in virtual time, against
//! made-up workloads ([`simulate`]) or against recorded ones ([`backtest`]).

pub mod backtest;
pub mod laws;
pub mod pods;
pub mod quantiles;
pub mod simulate;
