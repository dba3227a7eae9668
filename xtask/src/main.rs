//! The command line of `cargo xtask`.

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;
use xtask::{bench, cluster, demo, doctor, images, requirement, test, up};

/// Builds, runs and tests Roundhouse.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    /// Task to run
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Start a system, replay a burst and report; exit status 0 if the objective held
    Demo,
    /// Start a system that runs until Ctrl-C
    Up(up::Options),
    /// Replay one workload against each scaling law in turn, with fresh processes, and compare attainment and cost
    Experiment(bench::Arguments),
    /// Install missing requirements, run every test, and print what skipped tests need
    Test(test::Options),
    /// Install missing requirements and download libtorch; `test` does this, too
    Setup(test::Options),
    /// Print the requirements of the build and the tests, and how to meet them; exit status 0 if all are met
    Doctor,
    /// Start a Kubernetes cluster on this machine, apply k8s/base to it, and check the system; needs root
    E2e(cluster::Options),
    /// Start a Kubernetes cluster on this machine that runs until Ctrl-C, for use with kubectl; needs root
    Cluster(cluster::Options),
    /// Run benchmarks; --help lists them
    Bench(bench::Arguments),
    /// Compare the replica's pixels, logits and classes with torchvision's; exit status 0 if they agree
    Parity(bench::Arguments),
    /// Build container images of the programs, with docker or podman
    Images(images::Options),
    /// Download libtorch only, so that plain cargo commands work
    Libtorch {
        /// Download a libtorch for NVIDIA's GPUs into target/libtorch-cuda instead (2.3 GB, 3.3 GB once unpacked)
        #[arg(long)]
        cuda: bool,
    },
}

fn main() -> ExitCode {
    exit::report(run(Cli::parse().task))
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Demo => demo::run(),
        Task::Up(options) => up::run(&options),
        Task::Experiment(arguments) => bench::run(Some("experiment"), &arguments),
        Task::Test(options) => test::run(&options),
        Task::Setup(options) => test::setup(&options),
        Task::Doctor => doctor::run(),
        Task::E2e(options) => cluster::run("check", &options),
        Task::Cluster(options) => cluster::run("explore", &options),
        Task::Bench(arguments) => bench::run(None, &arguments),
        Task::Parity(arguments) => bench::run(Some("parity"), &arguments),
        Task::Images(options) => images::run(&options),
        Task::Libtorch { cuda } => {
            if cuda {
                requirement::check_cuda()?;
                libtorch::ensure_cuda()
            } else {
                requirement::check_build()?;
                libtorch::ensure()
            }
        }
    }
}
