//! The HPAs of a backtest, on a real API server.

#[path = "../../../tests/common/control_plane.rs"]
mod control_plane;
mod hpa;
