//! Readings from a real Prometheus. The tests need `prometheus` on the path (`apt-get install prometheus`); without it they
//! say that they were skipped.

mod server;
mod source;
