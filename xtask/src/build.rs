//! Runs cargo on the workspace. One profile everywhere, so that torch-sys is compiled once.

use crate::{libtorch, paths, prerequisites};
use anyhow::{Context, Result, ensure};
use std::process::Command;

/// Builds the four programs, with all that this needs. cargo shows its own progress.
///
/// # Errors
/// When a prerequisite is missing or something does not build.
pub fn programs() -> Result<()> {
    prerequisites::check()?;
    libtorch::ensure()?;
    // The whole workspace: a selection would resolve features otherwise and compile dependencies twice.
    cargo(&["build", "--locked", "--workspace"])
}

/// Builds the program `bench` alone, which needs no libtorch.
///
/// # Errors
/// When it does not build.
pub fn bench() -> Result<()> {
    cargo(&["build", "--locked", "--workspace", "--bin", "bench"])
}

/// Builds every program of the workspace, and those of the benchmarks.
///
/// # Errors
/// When a prerequisite is missing or a program does not build.
pub fn all() -> Result<()> {
    programs()?;
    cargo(&["build", "--locked", "--workspace", "--bins"])?;
    // In a call of its own: with the feature, all programs of the package would be compiled once more.
    cargo(&["build", "--locked", "--workspace", "--bin", "bench-replica", "--features", "bench/replica"])
}

/// Runs every test of the workspace.
///
/// # Errors
/// When one fails.
pub fn test() -> Result<()> {
    // The tests of the whole system start the programs.
    programs()?;
    cargo(&["test", "--locked", "--workspace"])
}

fn cargo(arguments: &[&str]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut run = Command::new(cargo);
    run.args(arguments).arg("--release").current_dir(paths::root());
    // What cargo told this program about itself; build scripts that watch these would think that everything changed.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") || name.to_string_lossy().starts_with("CARGO_MANIFEST_") {
            run.env_remove(name);
        }
    }
    let status = run.status().context("run cargo")?;
    ensure!(status.success(), "cargo {} failed ({status})", arguments[0]);
    Ok(())
}
