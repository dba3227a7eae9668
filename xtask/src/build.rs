//! Builds and tests the workspace with cargo. Every call selects the whole workspace in the release profile, so that cargo
//! resolves features in one way and compiles each dependency once.

use crate::progress::{self, PROGRAM_STEPS, TEST_STEPS, TestProgram};
use crate::requirement;
use anyhow::Result;
use harness::{command, paths};
use std::process::Command;
use std::time::Duration;

/// The programs that make up a running system.
pub const PROGRAMS: [&str; 4] = ["dispatcher", "scaler", "replica", "loadgen"];

/// Time limit of downloading crates.
const FETCH_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Builds [`PROGRAMS`], and gets libtorch if need be.
///
/// # Errors
/// If a requirement of the build is not met or something does not compile.
pub fn programs() -> Result<()> {
    binaries(&PROGRAMS)
}

/// Builds these programs of the workspace, and gets libtorch if need be.
///
/// # Errors
/// If a requirement of the build is not met or something does not compile.
pub fn binaries(names: &[&str]) -> Result<()> {
    requirement::check_build()?;
    libtorch::ensure()?;
    compile(&names.iter().flat_map(|name| ["--bin", name]).collect::<Vec<_>>())
}

/// Builds the program `bench` alone, which needs no libtorch.
///
/// # Errors
/// If it does not compile.
pub fn bench() -> Result<()> {
    compile(&["--bin", "bench"])
}

/// Builds every program of the workspace, those of the benchmarks included, and gets libtorch if need be.
///
/// # Errors
/// If a requirement of the build is not met or a program does not compile.
pub fn all() -> Result<()> {
    requirement::check_build()?;
    libtorch::ensure()?;
    compile(&["--bins"])?;
    // In a call of its own: with the feature, cargo compiles the package's other programs once more.
    compile(&["--bin", "bench-replica", "--features", "bench/replica"])
}

/// Compiles every test of the workspace, and the programs. Returns the programs with tests. libtorch must be there.
///
/// # Errors
/// If a test does not compile.
pub fn tests() -> Result<Vec<TestProgram>> {
    fetch()?;
    progress::run(test("--no-run"), TEST_STEPS)
}

/// The command that runs the examples in documentation.
pub fn documentation_tests() -> Command {
    let mut test = test("--doc");
    command::without_proxy(&mut test).arg("--no-fail-fast");
    test
}

fn test(flag: &str) -> Command {
    let mut test = cargo(&["test", "--release", "--locked", "--workspace", flag]);
    if !cfg!(target_os = "linux") {
        // The node of the package `cluster` is made of Linux's namespaces and control groups.
        test.args(["--exclude", "cluster"]);
    }
    test
}

/// Compiles the `targets` that these flags of cargo select.
fn compile(targets: &[&str]) -> Result<()> {
    fetch()?;
    let mut build = cargo(&["build", "--release", "--locked", "--workspace"]);
    build.args(targets);
    progress::run(build, PROGRAM_STEPS).map(drop)
}

/// Downloads the sources of all dependencies.
fn fetch() -> Result<()> {
    command::run(&mut cargo(&["fetch", "--locked", "--quiet", "--target=host-tuple"]), FETCH_LIMIT)
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(paths::root());
    // cargo describes xtask in these variables; build scripts that watch them would take everything for changed.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") || name.to_string_lossy().starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}
