//! Runs cargo on the workspace. One profile everywhere, so that torch-sys is compiled once.

use crate::{libtorch, paths, prerequisites};
use anyhow::{Context, Result, ensure};
use std::process::Command;

/// The four programs.
const PROGRAMS: [&str; 4] = ["dispatcher", "replica", "scaler", "loadgen"];

/// Builds the four programs, with all that this needs. cargo shows its own progress.
///
/// # Errors
/// When a prerequisite is missing or something does not build.
pub fn programs() -> Result<()> {
    prerequisites::check()?;
    libtorch::ensure()?;
    cargo(&["build", "--locked"], &PROGRAMS.map(|name| ["--package", name]).concat())
}

/// Runs every test of the workspace.
///
/// # Errors
/// When one fails.
pub fn test() -> Result<()> {
    // The tests of the whole system start the programs.
    programs()?;
    cargo(&["test", "--locked", "--workspace"], &[])
}

fn cargo(command: &[&str], more: &[&str]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut run = Command::new(cargo);
    run.args(command).arg("--release").args(more).current_dir(paths::root());
    let status = run.status().context("run cargo")?;
    ensure!(status.success(), "cargo {} failed ({status})", command[0]);
    Ok(())
}
