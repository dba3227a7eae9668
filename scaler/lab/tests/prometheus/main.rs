//! Backtests on the history of a real Prometheus. They need `prometheus` and `promtool` on the path
//! (`apt-get install prometheus`). Without these programs, the tests are skipped with a message.

#[path = "../../../readings/tests/prometheus/server.rs"]
mod server;

mod history;
