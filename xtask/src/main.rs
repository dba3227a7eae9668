//! `cargo xtask …`

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;
use xtask::{bench, cluster, demo, doctor, images, requirement, test, up};

/// Builds, runs and tests Roundhouse.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    /// What to do
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Start everything, replay a burst, report; exit status 0 if the objective held
    Demo,
    /// Start everything and stay until Ctrl-C
    Up(up::Options),
    /// Replay one workload against each scaling law in turn, with fresh processes, and compare what they reached and cost
    Experiment(bench::Arguments),
    /// Get what the tests need, run every test, and say which were skipped
    Test(test::Options),
    /// Get what the tests need, and libtorch; `test` does this, too
    Setup(test::Options),
    /// Print what the build and the tests need, and how to get what is missing; exit status 0 if nothing is
    Doctor,
    /// Start a Kubernetes cluster on this machine, apply k8s/base to it, and try what must hold; needs root
    E2e(cluster::Options),
    /// Start such a cluster and leave it running for kubectl until Ctrl-C; needs root
    Cluster(cluster::Options),
    /// Measure; --help lists the benchmarks
    Bench(bench::Arguments),
    /// Compare pixels, logits and classes with torchvision's; exit status 0 if they agree
    Parity(bench::Arguments),
    /// Build container images of the programs, with docker or podman
    Images(images::Options),
    /// Get libtorch only, so that plain cargo commands work
    Libtorch,
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
        Task::Libtorch => {
            requirement::check_build()?;
            libtorch::ensure()
        }
    }
}
