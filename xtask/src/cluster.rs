//! `cargo xtask e2e` and its kin: the program `cluster`, on a cluster of its own.

use crate::{build, paths};
use anyhow::{Context, Result, bail};
use std::process::{Command, ExitStatus};

/// What `cluster` exits with when it cannot start a cluster here, having said why.
const SKIPPED: i32 = 77;

/// What to pass on.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Flags of `cluster check` (or `cluster explore`, `cluster compare`), which explains them with --help
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    flags: Vec<String>,
}

/// Builds everything and runs `cluster TASK FLAGS`.
///
/// # Errors
/// When it fails, or cannot start a cluster here.
pub fn run(task: &str, options: &Options) -> Result<()> {
    build::programs()?;
    let status = start(task, &options.flags)?;
    if status.success() { Ok(()) } else { bail!("cluster {task} failed ({status})") }
}

/// Tries everything that must hold on a cluster, where one can be started; says so where none can.
///
/// # Errors
/// When something does not hold.
pub fn test() -> Result<()> {
    let status = start("check", &[])?;
    match status.code() {
        Some(0) => Ok(()),
        Some(SKIPPED) => {
            println!("skipped: the checks on a Kubernetes cluster");
            Ok(())
        }
        _ => bail!("cluster check failed ({status})"),
    }
}

fn start(task: &str, flags: &[String]) -> Result<ExitStatus> {
    Command::new(paths::program("cluster")).arg(task).args(flags).status().context("run cluster")
}
