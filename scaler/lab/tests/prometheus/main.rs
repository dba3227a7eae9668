//! Backtests over a real Prometheus. They need `prometheus` and `promtool` on the path (`apt-get install prometheus`);
//! without them the tests say that they were skipped.

#[path = "../../../tests/prometheus/server.rs"]
mod server;

mod history;
