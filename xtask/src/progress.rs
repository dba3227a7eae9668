//! Runs cargo and shows its progress as one bar on a terminal, or as a line every ten seconds elsewhere.

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Time between two lines of progress if standard error is not a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Time limit of a build.
const LIMIT: Duration = Duration::from_secs(2 * 60 * 60);

/// The largest number of cargo's events that wait to be shown. cargo blocks while that number waits.
const WAITING_EVENTS: usize = 64;

/// The expected number of steps of building the programs: one for each library or program, two for each build script,
/// which is compiled and run. The bar grows if there are more. Only cargo's unstable `--unit-graph` knows the number.
pub const PROGRAM_STEPS: u64 = 488;

/// The expected number of steps of building the programs and all tests, counted like [`PROGRAM_STEPS`].
pub const TEST_STEPS: u64 = 590;

/// A program that cargo has built from the tests of one file.
#[derive(Debug, PartialEq, Eq)]
pub struct TestProgram {
    /// The path of the program.
    pub path: PathBuf,
    /// The absolute path of the file with the tests.
    pub source: PathBuf,
    /// The path of the package's `Cargo.toml`. Cargo runs the tests in its folder.
    pub manifest: PathBuf,
}

/// An event in cargo's output.
#[derive(Debug, PartialEq, Eq)]
enum CargoEvent {
    /// A library, program or build script was compiled, or a build script has run. Holds the program if it has tests.
    StepDone(Option<TestProgram>),
    /// The step at which cargo works, such as `Compiling serde v1.0.0`.
    Status(String),
    /// A line of a warning or an error message.
    Diagnostic(String),
}

/// Runs `cargo build` or `cargo test --no-run` to its end, in about `steps` steps. Returns the test programs.
///
/// # Errors
/// If cargo cannot be started, fails, or takes longer than two hours. Its messages were printed on standard error.
pub fn run(mut cargo: Command, steps: u64) -> Result<Vec<TestProgram>> {
    let started = Instant::now();
    cargo.args(["--message-format=json-render-diagnostics", "--color=never"]);
    let mut child =
        cargo.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("start cargo")?;
    let (sender, events) = sync_channel(WAITING_EVENTS);
    let (stdout, stderr) =
        (child.stdout.take().expect("stdout is piped"), child.stderr.take().expect("stderr is piped"));
    // cargo blocks when a pipe is full, so a thread reads each pipe.
    read(stdout, sender.clone(), json_event);
    read(stderr, sender, |line| Some(text_event(&line)));

    let style = ProgressStyle::with_template("building {wide_bar} {pos}/{len} in {elapsed} {msg:32!}")?;
    let bar = ProgressBar::new(steps).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    let mut tests = Vec::new();
    let mut next_line = started + LINE_INTERVAL;
    loop {
        match events.recv_timeout(next_line.saturating_duration_since(Instant::now())) {
            Ok(CargoEvent::StepDone(test)) => {
                tests.extend(test);
                bar.inc(1);
                bar.set_length(steps.max(bar.position()));
            }
            Ok(CargoEvent::Status(status)) => bar.set_message(status),
            Ok(CargoEvent::Diagnostic(line)) => bar.suspend(|| eprintln!("{line}")),
            Err(RecvTimeoutError::Timeout) => {
                next_line += LINE_INTERVAL;
                if started.elapsed() > LIMIT {
                    child.kill().context("stop cargo")?;
                    bail!("the build was stopped after {} min; cargo's messages are above", LIMIT.as_secs() / 60);
                }
                if bar.is_hidden() {
                    let (done, length) = (bar.position(), bar.length().unwrap_or_default());
                    eprintln!("building: {done} of {length} steps in {} s", started.elapsed().as_secs());
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = child.wait().context("wait for cargo")?;
    bar.finish_and_clear();
    ensure!(status.success(), "the build failed ({status}); cargo's messages are above");
    Ok(tests)
}

fn read(from: impl Read + Send + 'static, to: SyncSender<CargoEvent>, event: fn(String) -> Option<CargoEvent>) {
    std::thread::spawn(move || {
        for event in BufReader::new(from).lines().map_while(Result::ok).filter_map(event) {
            if to.send(event).is_err() {
                return;
            }
        }
    });
}

/// Reads an event from a line of JSON on cargo's standard output. `None` for a line that is not such an event.
fn json_event(line: String) -> Option<CargoEvent> {
    let message: Value = serde_json::from_str(&line).ok()?;
    match message["reason"].as_str()? {
        "compiler-artifact" => Some(CargoEvent::StepDone(test_program(&message))),
        "build-script-executed" => Some(CargoEvent::StepDone(None)),
        _ => None,
    }
}

/// The program that cargo has built from tests. `None` for another artifact.
fn test_program(artifact: &Value) -> Option<TestProgram> {
    let path = |value: &Value| value.as_str().map(PathBuf::from);
    let is_test = artifact["profile"]["test"].as_bool()?;
    let (source, manifest) = (path(&artifact["target"]["src_path"])?, path(&artifact["manifest_path"])?);
    is_test.then_some(TestProgram { path: path(&artifact["executable"])?, source, manifest })
}

/// Reads an event from a line on cargo's standard error. A status begins with a verb that ends in column 12.
fn text_event(line: &str) -> CargoEvent {
    let verb = line.get(..12).map(str::trim_start).unwrap_or_default();
    let is_status =
        verb.starts_with(char::is_uppercase) && verb.chars().all(char::is_alphabetic) && line.get(12..13) == Some(" ");
    if is_status { CargoEvent::Status(line.trim().to_owned()) } else { CargoEvent::Diagnostic(line.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diagnostics_and_statuses_are_distinguished() {
        for line in ["   Compiling serde v1.0.0", "    Blocking waiting for file lock", " Downloading crates ..."] {
            assert_eq!(text_event(line), CargoEvent::Status(line.trim().into()));
        }
        for line in ["error[E0308]: mismatched types", "", "  --> src/main.rs:3:4", "   |    ", "warning: unused"] {
            assert_eq!(text_event(line), CargoEvent::Diagnostic(line.into()));
        }
    }

    #[test]
    fn finished_steps_are_counted_and_test_programs_are_returned() {
        let artifact = |is_test: bool| {
            let target = r#"{"src_path": "/a/tests/b.rs"}"#;
            format!(
                r#"{{"reason": "compiler-artifact", "manifest_path": "/a/Cargo.toml", "target": {target},
                    "profile": {{"test": {is_test}}}, "executable": "/t/b"}}"#
            )
        };
        let program =
            TestProgram { path: "/t/b".into(), source: "/a/tests/b.rs".into(), manifest: "/a/Cargo.toml".into() };
        for (line, expected) in [
            (artifact(false), Some(CargoEvent::StepDone(None))),
            (artifact(true), Some(CargoEvent::StepDone(Some(program)))),
            (r#"{"reason": "build-script-executed"}"#.into(), Some(CargoEvent::StepDone(None))),
            (r#"{"reason": "build-finished"}"#.into(), None),
            ("no JSON".into(), None),
        ] {
            assert_eq!(json_event(line), expected);
        }
    }

    #[test]
    fn the_expected_number_of_steps_fits_the_number_of_locked_packages() {
        let packages = include_str!("../../Cargo.lock").matches("[[package]]").count();
        // Packages for other systems take no step, and packages with a build script take more than one.
        let share = PROGRAM_STEPS as f64 / packages as f64;
        assert!((0.9..1.3).contains(&share), "correct PROGRAM_STEPS: Cargo.lock lists {packages} packages");
    }

    #[test]
    fn a_failure_of_cargo_is_an_error() {
        let mut cargo = Command::new("sh");
        cargo.args(["-c", "echo no such package >&2; exit 101"]);
        assert!(run(cargo, 1).expect_err("sh exits with status 101").to_string().contains("101"));
    }
}
