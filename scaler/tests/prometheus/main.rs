//! Over a real Prometheus. Needs `prometheus` and `promtool` on the path (`apt-get install prometheus`); without them the
//! tests say that they were skipped.

mod server;
mod source;
