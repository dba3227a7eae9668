//! The law `windows` and its parts.

mod arrivals;
mod law;
mod queueing;
mod retention;
