//! The dispatcher: holds requests in one bounded queue and hands them round robin to replicas that are free.

pub mod config;
pub mod discovery;
pub mod forward;
pub mod handler;
pub mod history;
pub mod inspection;
pub mod queue;
pub mod rate;
pub mod rotation;
pub mod server;
pub mod token;
pub mod turn;
pub mod worker;
