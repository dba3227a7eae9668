//! `cargo xtask setup` and `cargo xtask test`: install missing requirements, and run every test.

use crate::install::{self, Consent};
use crate::progress::TestProgram;
use crate::{build, cluster, doctor, requirement};
use anyhow::{Result, ensure};
use harness::suite::{self, Job};
use harness::{command, paths};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Time limit for one test program, and for the checks on a cluster.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Files with tests that measure whether loadgen sends on time. They run one at a time: beside others, loadgen would
/// rightly find its machine too slow, and such a test would fail.
const ALONE: [&str; 6] = [
    "loadgen/tests/program.rs",
    "loadgen/tests/schedule.rs",
    "loadgen/tests/https.rs",
    "loadgen/tests/http2.rs",
    "loadgen/tests/kinds.rs",
    "loadgen/tests/workers.rs",
];

/// The files with the longest of the other tests, longest first. They start first, so that none runs alone at the end.
const LONGEST: [&str; 4] = [
    "scaler/tests/faults/main.rs",
    "dispatcher/tests/program/main.rs",
    "scaler/tests/kubernetes/main.rs",
    "k8s/cluster/tests/node.rs",
];

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
    let mut jobs: Vec<Job> = build::tests()?.into_iter().map(job).collect();
    let alone = jobs.extract_if(.., |job| ALONE.contains(&job.name.as_str())).collect::<Vec<_>>();
    let rank = |job: &Job| LONGEST.iter().position(|name| *name == job.name).unwrap_or(LONGEST.len());
    jobs.sort_by_key(rank);
    jobs.push(Job { name: "examples in documentation".into(), command: build::documentation_tests() });

    let folder = paths::output("test");
    println!("running {} test programs; their output goes to {}", alone.len() + jobs.len(), folder.display());
    // One more than there are cores: the longest waits nearly all its time.
    let concurrency = std::thread::available_parallelism().map_or(2, usize::from) + 1;
    let results = [suite::run(alone, 1, LIMIT, &folder), suite::run(jobs, concurrency, LIMIT, &folder), check(&folder)];
    println!("\n{}", doctor::skipped());
    let failures: Vec<_> = results.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    ensure!(failures.is_empty(), "{}", failures.join("; "));
    Ok(())
}

/// Runs the checks on a cluster, which keep all processors busy: tests of times would fail beside them.
fn check(folder: &Path) -> Result<()> {
    if !cfg!(target_os = "linux") {
        println!("skipped: the checks on a Kubernetes cluster, which need Linux");
        return Ok(());
    }
    println!("running the checks on a Kubernetes cluster, which take about eleven minutes");
    let with_families = |families: &str| {
        let mut command = cluster::command("check");
        command.arg(format!("--ip-family={families}")).arg("--only=connections,rolling-restart");
        command
    };
    let jobs = [
        ("cluster check", cluster::command("check")),
        ("cluster check with IPv6", with_families("ipv6")),
        ("cluster check with IPv4 and IPv6", with_families("ipv4,ipv6")),
    ];
    let jobs = jobs.map(|(name, command)| Job { name: name.into(), command });
    suite::run(jobs.into(), 1, LIMIT, folder)
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
        for file in ALONE.iter().chain(&LONGEST) {
            assert!(paths::root().join(file).is_file(), "{file} does not exist; correct the constants above");
        }
    }
}
