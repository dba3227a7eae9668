//! What the tests of the program share: servers, runs and what they leave behind.

// Not every test needs everything.
#![allow(dead_code, unreachable_pub)]

pub mod recorder;

use flate2::read::GzDecoder;
use recorder::{Arrivals, Stall};
use serde_json::Value;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use tempfile::TempDir;

/// A recorder on a thread of its own, for as long as the test runs: its URL and its log.
pub fn record(stall: Option<Stall>) -> (String, Arrivals) {
    let arrivals = Arrivals::default();
    let served = arrivals.clone();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        recorder::serve(&served, stall, false, |address| sender.send(address).expect("the test waits"))
            .expect("it serves");
    });
    (format!("http://{}/predict", receiver.recv().expect("it has an address")), arrivals)
}

/// The program, with no terminal.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.stdin(Stdio::null());
    command
}

/// Standard error as text.
pub fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A finished run.
pub struct Run {
    /// What it exited with.
    pub status: Option<i32>,
    /// What it printed.
    pub output: Output,
    /// Its JSON.
    pub report: Value,
    /// Its log.
    pub requests: Vec<Request>,
    /// Where its files are.
    pub folder: TempDir,
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub scheduled: Duration,
    pub latency: Duration,
    pub outcome: String,
}

/// `loadgen run` with JSON and log.
pub fn run(flags: &[&str]) -> Run {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (json, log) = (folder.path().join("run.json"), folder.path().join("run.csv.gz"));
    let output = program()
        .args(["run", "--generate=3", "--size=32"])
        .args(flags)
        .arg("--json")
        .arg(&json)
        .arg("--log")
        .arg(&log)
        .output()
        .expect("loadgen runs");
    let text = std::fs::read_to_string(&json).unwrap_or_default();
    let report = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {}", complaint(&output)));
    Run { status: output.status.code(), report, requests: read_log(&log), output, folder }
}

fn read_log(path: &Path) -> Vec<Request> {
    let mut rows = csv::Reader::from_reader(GzDecoder::new(File::open(path).expect("there is a log")));
    let row = |row: csv::Result<csv::StringRecord>| {
        let row = row.expect("the log is CSV");
        let micros = |column: usize| Duration::from_micros(row[column].parse().expect("a number"));
        Request { scheduled: micros(0), latency: micros(2), outcome: row[3].to_owned() }
    };
    rows.records().map(row).collect()
}
