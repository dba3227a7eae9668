//! `cargo xtask e2e` and `cargo xtask cluster`: run the program `cluster`, which starts Kubernetes on this machine.

use crate::build;
use anyhow::{Context, Result, bail};
use harness::{command, paths};
use std::process::Command;

/// Flags for the program `cluster`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Flags for the program cluster; `-- --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    flags: Vec<String>,
}

/// Builds all programs and runs `cluster TASK FLAGS`.
///
/// # Errors
/// If a program does not compile, or `cluster` fails.
pub fn run(task: &str, options: &Options) -> Result<()> {
    build::programs(&[&build::PROGRAMS[..], &["cluster"]].concat())?;
    // There is no time limit, because the user ends `cluster explore`.
    let status = command(task).args(&options.flags).status().context("run the program cluster")?;
    if status.success() { Ok(()) } else { bail!("cluster {task} failed ({status}); its messages are above") }
}

/// The command `cluster TASK`. The program must have been built.
pub fn command(task: &str) -> Command {
    let mut command = Command::new(paths::program("cluster"));
    command::without_proxy(&mut command).arg(task);
    command
}
