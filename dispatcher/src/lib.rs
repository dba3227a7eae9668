//! The dispatcher keeps requests in one bounded queue, and sends each to a replica that has a free slot.

pub mod admin;
pub mod config;
pub mod discovery;
pub mod dispatch;
pub mod failure;
pub mod failure_log;
pub mod fair;
pub mod forward;
pub mod handler;
pub mod load_statistics;
pub mod meters;
pub mod metrics;
pub mod permit;
pub mod pool;
pub mod queue;
pub mod rate;
pub mod rate_limit;
pub mod request;
pub mod retry;
pub mod rotation;
pub mod server;
pub mod status;
pub mod token;
pub mod token_file;
pub mod worker;
