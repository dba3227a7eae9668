//! Hands the commands `simulate` and `backtest` over to the program `lab`.

use anyhow::{Context, Result};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Replaces this process by `lab COMMAND ARGUMENTS`. Takes `lab` from this program's folder, or else from the path.
///
/// # Errors
/// If there is no program `lab`, or it cannot be run. If it runs, this function does not return.
pub fn to_lab(command: &str, arguments: &[OsString]) -> Result<()> {
    let beside = std::env::current_exe().context("find this program's folder")?.with_file_name("lab");
    let program = if beside.is_file() { beside.as_os_str() } else { "lab".as_ref() };
    let error = Command::new(program).arg(command).args(arguments).exec();
    let beside = beside.display();
    Err(error).with_context(|| format!("run {beside}, or lab on the path; build it by cargo build --release -p lab"))
}
