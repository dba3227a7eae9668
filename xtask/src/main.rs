//! `cargo xtask …`

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::{build, demo, libtorch, prerequisites, up};

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
    /// Run every test
    Test,
    /// Get libtorch only, so that plain cargo commands work
    Libtorch,
}

fn main() -> Result<()> {
    match Cli::parse().task {
        Task::Demo => demo::run(),
        Task::Up(options) => up::run(&options),
        Task::Test => build::test(),
        Task::Libtorch => {
            prerequisites::check()?;
            libtorch::ensure()
        }
    }
}
