//! `cargo xtask bench`: figures with the peer measured in the same run.

pub mod accounting;
pub mod cell;
pub mod figures;
pub mod hop;
pub mod peer;
pub mod proxies;
pub mod report;
pub mod tool;
pub mod wrk;

use anyhow::Result;
use clap::Subcommand;

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum Subject {
    /// The dispatcher next to NGINX and HAProxy, each in front of the same replica of fixed delay
    Dispatcher(proxies::Options),
    /// What the dispatcher adds to an idle request, next to the same request sent to the replica itself
    Hop,
}

/// Runs a benchmark and prints its figures.
///
/// # Errors
/// When something does not start or answers other than it should.
pub fn run(subject: &Subject) -> Result<()> {
    match subject {
        Subject::Dispatcher(options) => proxies::run(options),
        Subject::Hop => hop::run(),
    }
}
