//! Readings from a real Prometheus. The tests need `prometheus` and `promtool` on the path (`apt-get install
//! prometheus`). Without them, they report that they were skipped.

mod server;
mod source;
