//! `cargo xtask e2e` and `cargo xtask cluster`: the workspace's program `cluster`, which starts a Kubernetes cluster on this
//! machine.

use crate::build;
use anyhow::{Context, Result, bail};
use harness::{command, paths};
use std::process::Command;

/// Flags that are passed on.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Flags of `cluster check` (or `cluster explore`, `cluster compare`), which explains them with --help
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    flags: Vec<String>,
}

/// Builds all programs and runs `cluster TASK FLAGS`.
///
/// # Errors
/// If something does not compile, or `cluster` fails or cannot start a cluster here.
pub fn run(task: &str, options: &Options) -> Result<()> {
    build::binaries(&[&build::PROGRAMS[..], &["cluster"]].concat())?;
    // There is no time limit, because the user ends `cluster explore`.
    let status = command(task).args(&options.flags).status().context("run the program cluster")?;
    if status.success() { Ok(()) } else { bail!("cluster {task} failed ({status}); its messages are above") }
}

/// The program `cluster`, which must be built, with its task.
pub fn command(task: &str) -> Command {
    let mut command = Command::new(paths::program("cluster"));
    command::without_proxy(&mut command).arg(task);
    command
}
