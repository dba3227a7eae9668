//! `cargo xtask setup` and `cargo xtask test`: get what the tests need, run every test, say which were skipped.

use crate::install::{self, Consent};
use crate::progress::TestProgram;
use crate::{build, cluster, doctor, requirement};
use anyhow::Result;
use harness::suite::{self, Job};
use harness::{command, paths};
use std::process::Command;
use std::time::Duration;

/// Programs with tests that run at a time. Each waits most of the time: for a time limit, a poll, or a backoff.
const LANES: usize = 3;

/// Time limit of one program with tests, and of the checks on a cluster.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// The files with the tests that take longest, longest first. They start first, so that the others end meanwhile.
const LONGEST: [&str; 3] =
    ["scaler/tests/faults/main.rs", "scaler/tests/kubernetes/main.rs", "dispatcher/tests/program/main.rs"];

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
    let tests = jobs(build::tests()?);
    let folder = paths::output("test");
    println!("running {} programs with tests, {LANES} at a time; output in {}", tests.len(), folder.display());
    let result = suite::run(tests, LANES, LIMIT, &folder);
    println!("\n{}", doctor::skipped());
    result
}

/// The jobs that run these programs, in the order in which they start.
fn jobs(programs: Vec<TestProgram>) -> Vec<Job> {
    let job = |TestProgram { path, source, manifest }: TestProgram| {
        let mut command = Command::new(path);
        command.current_dir(manifest.parent().unwrap_or(&manifest));
        command::without_proxy(&mut command);
        let name = source.strip_prefix(paths::root()).unwrap_or(&source).display().to_string();
        Job { name, command }
    };
    let mut jobs: Vec<Job> = programs.into_iter().map(job).collect();
    let rank = |job: &Job| LONGEST.iter().position(|name| *name == job.name).unwrap_or(LONGEST.len());
    jobs.sort_by_key(rank);
    jobs.push(Job { name: "examples in documentation".into(), command: build::documentation_tests() });
    if cfg!(target_os = "linux") {
        jobs.insert(0, Job { name: "cluster check".into(), command: cluster::command("check") });
    }
    jobs
}
