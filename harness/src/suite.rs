//! Runs test programs side by side, writes the output of each to a file, and prints how each ended. Most tests wait
//! most of the time, so they end sooner side by side than one after another.

use crate::command;
use anyhow::{Context, Result, ensure};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Exit status of a program that cannot do its work on this machine (automake's convention for tests).
const SKIPPED: i32 = 77;

/// A program to run, such as a test program.
#[derive(Debug)]
pub struct Job {
    /// The name in messages. It may be a path, such as `xtask/tests/system.rs`.
    pub name: String,
    /// The program and its arguments.
    pub command: Command,
}

/// How a job ended.
enum JobResult {
    Passed,
    Skipped,
    Failed,
}

/// Runs all jobs, even after a job has failed. Starts them in the order of `jobs`, at most `concurrency` at a time.
/// Writes the output of each job to a file in `folder`. Prints a line for each job, and all output if it failed or was
/// skipped.
///
/// # Errors
/// If `folder` cannot be created, or a job fails, cannot be started, or is killed because it still runs after `limit`.
pub fn run(jobs: Vec<Job>, concurrency: usize, limit: Duration, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let count = jobs.len();
    let (waiting, failed) = (Mutex::new(VecDeque::from(jobs)), Mutex::new(Vec::new()));
    let next = || waiting.lock().expect("no thread panics while it holds the lock").pop_front();
    std::thread::scope(|scope| {
        for _ in 0..concurrency {
            scope.spawn(|| {
                while let Some(job) = next() {
                    if !succeeds(job.command, &job.name, limit, folder) {
                        failed.lock().expect("no thread panics while it holds the lock").push(job.name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no thread panics while it holds the lock");
    ensure!(failed.is_empty(), "{} of {count} jobs failed: {}; their output is above", failed.len(), failed.join(", "));
    Ok(())
}

/// Runs one job and prints how it ended. Returns false if the job failed.
fn succeeds(mut command: Command, name: &str, limit: Duration, folder: &Path) -> bool {
    let log = folder.join(name.replace('/', "-") + ".log");
    let started = Instant::now();
    let result = run_logged(&mut command, &log, limit);
    let seconds = started.elapsed().as_secs();
    let output = fs::read(&log).unwrap_or_default();
    let output = String::from_utf8_lossy(&output);
    match &result {
        Ok(JobResult::Passed) => {
            println!("ok      {name:<36} {seconds:>4} s  {:>3} tests", passed_tests(&output));
            skipped_tests(&output).for_each(|line| println!("        {line}"));
        }
        Ok(JobResult::Skipped) => println!("skipped {name:<36} {seconds:>4} s\n{output}"),
        Ok(JobResult::Failed) => println!("{output}\nFAILED  {name:<36} {seconds:>4} s  the output is above"),
        Err(error) => println!("{output}\nFAILED  {name:<36} {seconds:>4} s  {error:#}; the output is above"),
    }
    !matches!(result, Ok(JobResult::Failed) | Err(_))
}

/// Runs a program and writes its output to the file `log`.
fn run_logged(command: &mut Command, log: &Path, limit: Duration) -> Result<JobResult> {
    let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let copy = file.try_clone().with_context(|| format!("duplicate the handle of {}", log.display()))?;
    let status = command::status(command.stdin(Stdio::null()).stdout(file).stderr(copy), limit)?;
    Ok(match status.code() {
        Some(0) => JobResult::Passed,
        Some(SKIPPED) => JobResult::Skipped,
        _ => JobResult::Failed,
    })
}

/// The number of tests that passed, from the lines `test result: ok. 3 passed; …` that Rust's test programs print.
fn passed_tests(output: &str) -> u64 {
    let results = output.lines().filter_map(|line| line.strip_prefix("test result: ok. "));
    results.filter_map(|result| result.split(' ').next()?.parse::<u64>().ok()).sum()
}

/// The lines in which tests say that they were skipped, or that they have not checked a property.
fn skipped_tests(output: &str) -> impl Iterator<Item = &str> {
    output.lines().filter(|line| line.contains("skipped: ") || line.contains("is not checked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(name: &str, script: &str) -> Job {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Job { name: name.into(), command }
    }

    #[test]
    fn a_failed_job_stops_no_other_job_and_is_named_at_the_end() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let jobs = vec![
            shell("bad", "echo wrong; exit 1"),
            shell("a/good", "echo 'test result: ok. 3 passed; 0 failed'"),
            shell("skipped", "exit 77"),
            shell("endless", "exec sleep 60"),
        ];
        let error = run(jobs, 2, Duration::from_secs(5), folder.path()).expect_err("two jobs fail").to_string();
        assert!(error.starts_with("2 of 4 jobs failed: bad, endless"), "{error}");
        let log = |name: &str| fs::read_to_string(folder.path().join(name)).expect("each job has a log");
        assert_eq!(log("bad.log"), "wrong\n");
        assert_eq!(passed_tests(&log("a-good.log")), 3);
    }

    #[test]
    fn skipped_tests_are_found_in_the_output_of_a_test_program() {
        let output = "running 2 tests\nskipped: the check of x, because y\ntest a ... ok\ntest b ... ok\n\n\
                      test result: ok. 2 passed; 0 failed; 0 ignored\n";
        assert_eq!(skipped_tests(output).collect::<Vec<_>>(), ["skipped: the check of x, because y"]);
        assert_eq!(passed_tests(output), 2);
    }

    #[test]
    fn jobs_run_side_by_side() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Each job waits for the file of the other one.
        let meet = |own: &str, other: &str| {
            let own = folder.path().join(own).display().to_string();
            let other = folder.path().join(other).display().to_string();
            format!("touch '{own}'; until [ -e '{other}' ]; do sleep 0.02; done")
        };
        let jobs = vec![shell("a", &meet("1", "2")), shell("b", &meet("2", "1"))];
        run(jobs, 2, Duration::from_secs(20), folder.path()).expect("both jobs end, because they run at the same time");
    }
}
