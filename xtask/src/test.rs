//! `cargo xtask setup` and `cargo xtask test`: install missing requirements, and run every test.

use crate::install::{self, Consent};
use crate::progress::TestProgram;
use crate::{build, cluster, doctor, requirement};
use anyhow::{Result, bail};
use harness::suite::{self, Job};
use harness::{command, paths};
use std::process::Command;
use std::time::Duration;

/// Time limit for one test program, and for the checks on a cluster.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Files with tests that run for minutes and mostly wait. They run beside the checks on a cluster. Those keep all
/// processors busy at times, so tests that measure times or rates would fail beside them.
const BESIDE_CLUSTER: [&str; 2] = ["scaler/tests/faults/main.rs", "scaler/tests/kubernetes/main.rs"];

/// The files with the longest of the other tests, longest first. They start first, so that none runs alone at the end.
const LONGEST: [&str; 3] = ["dispatcher/tests/program/main.rs", "xtask/tests/system.rs", "loadgen/tests/program.rs"];

/// Flags of `cargo xtask setup` and `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Install missing packages with apt-get, without asking
    #[arg(long)]
    yes: bool,
}

/// Installs the missing requirements of the build and the tests where possible, and downloads libtorch.
///
/// # Errors
/// If a requirement of the build is still missing, or libtorch cannot be downloaded.
pub fn setup(options: &Options) -> Result<()> {
    let consent = if options.yes { Consent::Given } else { Consent::Ask };
    install::install(&requirement::missing(), consent);
    requirement::check_build()?;
    libtorch::ensure()
}

/// Runs every test, including the checks on a Kubernetes cluster. Prints the missing requirements of skipped tests.
///
/// # Errors
/// If [`setup`] fails, the workspace cannot be built, or a test fails.
pub fn run(options: &Options) -> Result<()> {
    setup(options)?;
    let is_long = |job: &Job| BESIDE_CLUSTER.contains(&job.name.as_str());
    let (mut long, mut others): (Vec<Job>, Vec<Job>) = build::tests()?.into_iter().map(job).partition(is_long);
    if cfg!(target_os = "linux") {
        long.insert(0, Job { name: "cluster check".into(), command: cluster::command("check") });
    } else {
        println!("skipped: the checks on a Kubernetes cluster, which need Linux");
    }
    let rank = |job: &Job| LONGEST.iter().position(|name| *name == job.name).unwrap_or(LONGEST.len());
    others.sort_by_key(rank);
    others.push(Job { name: "examples in documentation".into(), command: build::documentation_tests() });

    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let folder = paths::output("test");
    println!("running {} test programs, {cores} at a time; their output goes to {}", others.len(), folder.display());
    let first = suite::run(others, cores, LIMIT, &folder);
    let count = long.len();
    println!("running {count} longer programs side by side; the checks on a cluster take about six minutes");
    let second = suite::run(long, count, LIMIT, &folder);
    println!("\n{}", doctor::skipped());
    match (first, second) {
        (Err(first), Err(second)) => bail!("{first:#}; {second:#}"),
        (first, second) => first.and(second),
    }
}

/// The job that runs a test program. Its name is the path of the file with the tests, relative to the workspace's root.
fn job(program: TestProgram) -> Job {
    let TestProgram { path, source, manifest } = program;
    let mut command = Command::new(path);
    command.current_dir(manifest.parent().unwrap_or(&manifest));
    command::without_proxy(&mut command);
    Job { name: source.strip_prefix(paths::root()).unwrap_or(&source).display().to_string(), command }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_with_special_scheduling_exist() {
        for file in BESIDE_CLUSTER.iter().chain(&LONGEST) {
            assert!(paths::root().join(file).is_file(), "{file} does not exist; correct BESIDE_CLUSTER or LONGEST");
        }
    }
}
