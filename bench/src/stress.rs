//! What the dispatcher is judged by beyond its speed: memory, order, and what it does under too much load. Starts it as
//! a process of its own, in front of stub replicas that live in this one.

mod arrivals;
mod client;
mod connections;
mod figures;
mod load;
mod order;
mod overload;
mod progress;
mod queue;
mod retry_after;
mod stub;
mod subject;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use figures::Figures;
use std::path::PathBuf;
use tokio::runtime::Runtime;

/// Measures a dispatcher and prints its figures, each with its target; exit status 1 if they mean nothing.
#[derive(Debug, Parser)]
struct Args {
    /// The program to measure
    #[arg(long, global = true, default_value = "target/release/dispatcher")]
    dispatcher: PathBuf,
    /// Write every figure there, too
    #[arg(long, global = true)]
    json: Option<PathBuf>,
    /// What to measure
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Debug, Subcommand)]
enum Subject {
    /// Memory for each waiting request, and the order in which they leave
    Queue(queue::Options),
    /// Memory for each idle connection
    Connections(connections::Options),
    /// Goodput, refusals and memory under more load than there is capacity; then whether Retry-After was right
    Overload(overload::Options),
    /// Attainment of both orders at the same load, which is too much now and then
    Order(order::Options),
}

/// What every measurement needs.
struct Bench {
    /// The dispatcher's.
    program: PathBuf,
    /// The client's; stubs have threads of their own.
    client: Runtime,
}

fn main() -> Result<()> {
    let args = Args::parse();
    service::descriptors::raise();
    let client = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let bench = Bench { program: args.dispatcher, client };
    let mut figures = Figures::default();
    let run = match &args.subject {
        Subject::Queue(options) => queue::run(&bench, options, &mut figures),
        Subject::Connections(options) => connections::run(&bench, options, &mut figures),
        Subject::Overload(options) => overload::run(&bench, options, &mut figures),
        Subject::Order(options) => order::run(&bench, options, &mut figures),
    };
    // Whatever was measured before a failure may tell why.
    figures.print();
    if let Some(path) = &args.json {
        let json = serde_json::json!({ "figures": figures.named() });
        std::fs::write(path, format!("{json:#}\n")).with_context(|| format!("write {}", path.display()))?;
    }
    // What is in flight still, if it failed, is of no interest.
    bench.client.shutdown_background();
    run
}
