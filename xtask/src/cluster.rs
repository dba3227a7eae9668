//! `cargo xtask e2e` and `cargo xtask cluster`: the workspace's program `cluster`, which starts a Kubernetes cluster on this
//! machine.

use crate::build;
use anyhow::{Context, Result, bail};
use harness::{command, paths};
use std::process::Command;
use std::time::Duration;

/// Exit status of `cluster` when it cannot start a cluster here; its messages say why.
const SKIPPED: i32 = 77;

/// Time limit of the checks, which take some five minutes.
const CHECK_LIMIT: Duration = Duration::from_secs(30 * 60);

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
    // Without a limit: the user stops it.
    let status = cluster(task).args(&options.flags).status().context("start cluster")?;
    if status.success() { Ok(()) } else { bail!("cluster {task} failed ({status}); its messages are above") }
}

/// Runs the checks on a cluster, or prints that they are skipped where none can be started. The programs must be built.
///
/// # Errors
/// If a check fails.
pub fn test() -> Result<()> {
    if !cfg!(target_os = "linux") {
        println!("skipped: the checks on a Kubernetes cluster, which need Linux");
        return Ok(());
    }
    let status = command::status(&mut cluster("check"), CHECK_LIMIT)?;
    match status.code() {
        Some(0) => Ok(()),
        Some(SKIPPED) => {
            println!("skipped: the checks on a Kubernetes cluster");
            Ok(())
        }
        _ => bail!("cluster check failed ({status}); its messages are above"),
    }
}

fn cluster(task: &str) -> Command {
    let mut command = Command::new(paths::program("cluster"));
    command::without_proxy(&mut command).arg(task);
    command
}
