//! Builds and tests the workspace with cargo. Every call selects the whole workspace in the release profile. With other
//! selections, cargo would enable other features of the dependencies and compile the dependencies again.

use crate::progress::{self, PROGRAM_STEPS, TEST_STEPS, TestProgram};
use crate::requirement;
use anyhow::Result;
use harness::{command, paths};
use std::process::Command;
use std::time::Duration;

/// The programs that make up a running system.
pub const PROGRAMS: [&str; 4] = ["dispatcher", "scaler", "replica", "loadgen"];

/// Time limit for downloading crates.
const FETCH_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Builds the programs `names` of the workspace. Downloads libtorch if it is missing.
///
/// # Errors
/// If a requirement of the build is missing, a download fails, or a program does not compile.
pub fn programs(names: &[&str]) -> Result<()> {
    requirement::check_build()?;
    libtorch::ensure()?;
    compile(&names.iter().flat_map(|name| ["--bin", name]).collect::<Vec<_>>())
}

/// Builds only the program `bench`, which needs no libtorch.
///
/// # Errors
/// If a crate cannot be downloaded or `bench` does not compile.
pub fn bench() -> Result<()> {
    compile(&["--bin", "bench"])
}

/// Builds every program of the workspace, including the benchmarks. Downloads libtorch if it is missing.
///
/// # Errors
/// If a requirement of the build is missing, a download fails, or a program does not compile.
pub fn all() -> Result<()> {
    requirement::check_build()?;
    libtorch::ensure()?;
    compile(&["--bins"])?;
    // This is a separate call, because the feature would make cargo compile the package's other programs once more.
    compile(&["--bin", "bench-replica", "--features", "bench/replica"])
}

/// Compiles the programs and tests of the workspace and returns the test programs. libtorch must be present.
///
/// # Errors
/// If a crate cannot be downloaded, or a program or test does not compile.
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
        // The package `cluster` uses namespaces and control groups, which only Linux has.
        test.args(["--exclude", "cluster"]);
    }
    test
}

/// Compiles the targets that cargo's flags `targets` select.
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
    // `cargo xtask` sets these variables. Build scripts that watch them would run again, and all crates with them.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") || name.to_string_lossy().starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}
