//! `cargo xtask setup` and `cargo xtask test`: get what the tests need, run every test, say which were skipped.

use crate::install::{self, Consent};
use crate::progress::TestProgram;
use crate::{build, cluster, doctor, requirement};
use anyhow::{Result, bail};
use harness::suite::{self, Job};
use harness::{command, paths};
use std::process::Command;
use std::time::Duration;

/// Time limit of one program with tests, and of the checks on a cluster.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Files with tests that take minutes and wait most of that time, so that they can run beside the checks on a cluster. Those
/// keep all processors busy at times, and tests of times and rates would fail beside them.
const PATIENT: [&str; 2] = ["scaler/tests/faults/main.rs", "scaler/tests/kubernetes/main.rs"];

/// The other files with tests that take longest, longest first. They start first, so that the others end meanwhile.
const LONGEST: [&str; 3] = ["dispatcher/tests/program/main.rs", "xtask/tests/system.rs", "loadgen/tests/program.rs"];

/// Flags of `cargo xtask setup` and `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Install missing packages with apt-get, without a question
    #[arg(long)]
    yes: bool,
}

/// Installs what the build and the tests need, as far as it can be had, and gets libtorch.
///
/// # Errors
/// If something that the build needs cannot be had.
pub fn setup(options: &Options) -> Result<()> {
    let consent = if options.yes { Consent::Given } else { Consent::Ask };
    install::install(&requirement::missing(), consent);
    requirement::check_build()?;
    libtorch::ensure()
}

/// Runs every test, the checks on a Kubernetes cluster included, and prints which were skipped.
///
/// # Errors
/// If the workspace cannot be built or a test fails.
pub fn run(options: &Options) -> Result<()> {
    setup(options)?;
    let (mut patient, mut others): (Vec<Job>, Vec<Job>) = build::tests()?.into_iter().map(job).partition(is_patient);
    if cfg!(target_os = "linux") {
        patient.insert(0, Job { name: "cluster check".into(), command: cluster::command("check") });
    } else {
        println!("skipped: the checks on a Kubernetes cluster, which need Linux");
    }
    let rank = |job: &Job| LONGEST.iter().position(|name| *name == job.name).unwrap_or(LONGEST.len());
    others.sort_by_key(rank);
    others.push(Job { name: "examples in documentation".into(), command: build::documentation_tests() });

    let lanes = std::thread::available_parallelism().map_or(2, usize::from);
    let folder = paths::output("test");
    println!("running {} programs with tests, {lanes} at a time; output in {}", others.len(), folder.display());
    let first = suite::run(others, lanes, LIMIT, &folder);
    println!("running {} longer ones at once; the checks on a cluster take some six minutes", patient.len());
    let lanes = patient.len();
    let second = suite::run(patient, lanes, LIMIT, &folder);
    println!("\n{}", doctor::skipped());
    match (first, second) {
        (Err(first), Err(second)) => bail!("{first:#}; {second:#}"),
        (first, second) => first.and(second),
    }
}

fn is_patient(job: &Job) -> bool {
    PATIENT.contains(&job.name.as_str())
}

/// The job that runs a program with tests. Its name is the file with the tests, from the root folder of the workspace.
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
    fn the_files_with_a_place_of_their_own_exist() {
        for file in PATIENT.iter().chain(&LONGEST) {
            assert!(paths::root().join(file).is_file(), "{file} does not exist; correct PATIENT or LONGEST");
        }
    }
}
