//! The program `bench`: every benchmark of the workspace. `cargo xtask bench` builds the programs that it measures, and
//! then starts it. It builds nothing itself.

mod cores;
mod experiment;
mod figure;
mod hop;
mod images;
mod loadgen;
mod memory;
mod onnx;
mod output;
mod parity;
mod processor_time;
mod progress;
mod proxies;
mod python;
mod replica;
mod rotation;
mod scaler;
mod statistics;
mod stress;
mod stub;
mod zoo;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use harness::paths;
use std::process::{Command, ExitCode};

/// Measures Roundhouse's programs, next to a peer in the same run where there is one.
#[derive(Debug, Parser)]
#[command(
    bin_name = "cargo xtask bench",
    subcommand_value_name = "SUBJECT",
    subcommand_help_heading = "Subjects",
    after_help = "Examples:
  cargo xtask bench dispatcher --rounds 1 --seconds 1 --bodies 38000 --connections 64
  cargo xtask bench overload --seconds 5 --backlogs 3
  cargo xtask bench replica --only startup,memory --requests 1000 --json replica.json
  cargo xtask bench scaler --only held-out,live
  cargo xtask bench hpa -- --help"
)]
struct Cli {
    #[command(subcommand)]
    subject: Subject,
}

/// What can be measured.
#[derive(Debug, Subcommand)]
enum Subject {
    /// The dispatcher next to NGINX and HAProxy, each in front of the same replica of fixed delay
    Dispatcher(proxies::Options),
    /// Time that the dispatcher adds to a request on an idle machine
    Hop,
    /// Processor time of the rotation for a request, and of discovery for a change, with up to 4,000 replicas
    Rotation(rotation::Options),
    /// 100,000 requests in the queue at once: memory for each, and the order in which they leave
    Queue(stress::queue::Options),
    /// 20,000 idle connections: memory for each, and the latency on new ones beside them
    Connections(stress::connections::Options),
    /// A load of twice the capacity: goodput, refusals, memory, Retry-After
    Overload(stress::overload::Options),
    /// The order late-last next to fifo, at a load that exceeds the capacity now and then
    Order(stress::order::Options),
    /// loadgen: its send delays, its percentiles next to its log, and the processor time of a request next to oha
    Loadgen(loadgen::Options),
    /// The scaler's law in virtual time, next to those of Knative, the HPA and others
    Scaler(scaler::Options),
    /// The scaler next to the HPA, each on a Kubernetes cluster of its own on this machine; needs root
    Hpa(Flags),
    /// A dispatcher and a scaler with thousands of endpoints and pods of a real API server on this machine; needs root
    Endpoints(Flags),
    /// The replica next to ONNX Runtime, OpenVINO, Flask and PIL, and by itself
    Replica(replica::Options),
    /// The replica's pixels, logits and classes next to those of torchvision; exit status 0 if they agree
    #[command(override_usage = "cargo xtask parity [OPTIONS]")]
    Parity(parity::Options),
    /// Checkpoints of torch, torchvision, timm, transformers and safetensors: logits next to torch's, and refusals; exit
    /// status 0 if all are as expected
    Zoo(zoo::Options),
    /// Networks that torch exports to ONNX: the replica's logits next to torch's; exit status 0 if they agree
    Onnx(onnx::Options),
    /// One workload with each scaling law in turn, each with new processes, and a comparison of the results
    #[command(override_usage = "cargo xtask experiment [OPTIONS]")]
    Experiment(experiment::Options),
}

/// Flags that are passed on to the program `cluster`.
#[derive(Debug, clap::Args)]
struct Flags {
    /// Flags of the task of `cluster`; `-- --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    flags: Vec<String>,
}

fn main() -> ExitCode {
    let Cli { subject } = Cli::parse();
    // Some benchmarks hold thousands of connections, more than the usual limit of open files.
    service::descriptors::raise();
    exit::report(run(&subject))
}

fn run(subject: &Subject) -> Result<()> {
    match subject {
        Subject::Dispatcher(options) => proxies::run(options),
        Subject::Hop => hop::run(),
        Subject::Rotation(options) => rotation::run(options),
        Subject::Queue(options) => stress::queue::run(options),
        Subject::Connections(options) => stress::connections::run(options),
        Subject::Overload(options) => stress::overload::run(options),
        Subject::Order(options) => stress::order::run(options),
        Subject::Loadgen(options) => loadgen::run(options),
        Subject::Scaler(options) => scaler::run(options),
        Subject::Hpa(Flags { flags }) => run_cluster("compare", flags),
        Subject::Endpoints(Flags { flags }) => run_cluster("endpoints", flags),
        Subject::Replica(options) => replica::run(options),
        Subject::Parity(options) => parity::run(options),
        Subject::Zoo(options) => zoo::run(options),
        Subject::Onnx(options) => onnx::run(options),
        Subject::Experiment(options) => experiment::run(options),
    }
}

/// Runs `cluster TASK`, which starts a Kubernetes cluster.
fn run_cluster(task: &str, flags: &[String]) -> Result<()> {
    let cluster = paths::program("cluster");
    let status = Command::new(&cluster).arg(task).args(flags).status();
    let status = status.with_context(|| format!("run {} {task}", cluster.display()))?;
    ensure!(status.success(), "cluster {task} failed ({status})");
    Ok(())
}
