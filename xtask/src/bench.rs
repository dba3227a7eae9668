//! `cargo xtask bench`: what the programs are judged by; where there is a peer, it is measured in the same run.

pub mod accounting;
pub mod cell;
pub mod figures;
pub mod hop;
pub mod loadgen;
pub mod peer;
pub mod proxies;
pub mod replica;
pub mod report;
pub mod scaler;
pub mod stress;
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
    /// 100,000 requests held and let go: memory for each, and their order
    Queue(stress::Options),
    /// As many idle connections as there may be: memory for each
    Connections(stress::Options),
    /// Twice the load that there is capacity for: goodput, refusals, memory, Retry-After
    Overload(stress::Options),
    /// Late-last next to first come, first served, at a load that is too much now and then
    Order(stress::Options),
    /// How exactly loadgen sends, whether its figures are those of its log, and what a request costs it, next to oha
    Loadgen(loadgen::Options),
    /// The scaler's laws in virtual time, next to Knative's, the HPA's and others'
    Scaler(scaler::Options),
    /// The scaler next to the HPA, each on a Kubernetes cluster of its own on this machine; needs root
    Hpa(crate::cluster::Options),
    /// The replica next to ONNX Runtime, OpenVINO, Flask and PIL, and by itself
    Replica(replica::Options),
}

/// Runs a benchmark and prints its figures.
///
/// # Errors
/// When something does not start or answers other than it should.
pub fn run(subject: &Subject) -> Result<()> {
    match subject {
        Subject::Dispatcher(options) => proxies::run(options),
        Subject::Hop => hop::run(),
        Subject::Queue(options) => stress::run("queue", options),
        Subject::Connections(options) => stress::run("connections", options),
        Subject::Overload(options) => stress::run("overload", options),
        Subject::Order(options) => stress::run("order", options),
        Subject::Loadgen(options) => loadgen::run(options),
        Subject::Scaler(options) => scaler::run(options),
        Subject::Hpa(options) => crate::cluster::run("compare", options),
        Subject::Replica(options) => replica::run(options),
    }
}
