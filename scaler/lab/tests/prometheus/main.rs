//! Backtests over a real Prometheus. They need `prometheus` and `promtool` on the path (`apt-get install prometheus`); without
//! them the tests say that they were skipped.

#[path = "../../../tests/prometheus/server.rs"]
#[allow(dead_code, reason = "each program of tests uses a part")]
mod server;

mod history;
