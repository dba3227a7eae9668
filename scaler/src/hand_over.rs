//! Hands commands over to the program `lab`.

use anyhow::{Context, Result};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Becomes `lab COMMAND ARGUMENTS`: the `lab` beside this program, or else the one on the path. Returns only if there is none.
///
/// # Errors
/// When there is no such program, or it cannot be run.
pub fn to_lab(command: &str, arguments: &[OsString]) -> Result<()> {
    let beside = std::env::current_exe().context("find this program's folder")?.with_file_name("lab");
    let program = if beside.is_file() { beside.as_os_str() } else { "lab".as_ref() };
    let error = Command::new(program).arg(command).args(arguments).exec();
    Err(error).with_context(|| {
        format!(
            "scaler {command} needs the program lab, at {} or on the path; build it: cargo build --release -p lab",
            beside.display()
        )
    })
}
