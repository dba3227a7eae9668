//! Helpers that the tests of the program share: a recording server, and runs of loadgen with their results.

// Each test binary uses only some of these helpers.
#![allow(dead_code, unreachable_pub)]

pub mod recorder;
pub mod server;

use flate2::read::GzDecoder;
use recorder::{RecordedArrivals, ServerStall};
use serde_json::Value;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use tempfile::TempDir;

/// Starts a recorder on a thread of its own, which runs until the test ends. Returns its URL and the arrivals that it
/// records.
pub fn record(stall: Option<ServerStall>) -> (String, RecordedArrivals) {
    let arrivals = RecordedArrivals::default();
    let served = arrivals.clone();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        recorder::serve(&served, stall, |address| sender.send(address).expect("the test waits"))
            .expect("the recorder serves");
    });
    (format!("http://{}/predict", receiver.recv().expect("the recorder has an address")), arrivals)
}

/// The command `loadgen`, without a terminal.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.stdin(Stdio::null());
    command
}

/// The text that a program has written to standard error.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A finished run.
pub struct FinishedRun {
    /// The exit status of loadgen.
    pub status: Option<i32>,
    /// Standard output and standard error.
    pub output: Output,
    /// The report that `--json` wrote.
    pub report: Value,
    /// The rows that `--log` wrote, in the order of their scheduled times.
    pub requests: Vec<LoggedRequest>,
    /// The folder of the files that loadgen wrote.
    pub folder: TempDir,
}

/// A row of the request log.
#[derive(Debug, Clone, PartialEq)]
pub struct LoggedRequest {
    pub scheduled: Duration,
    pub latency: Duration,
    pub outcome: String,
    pub request_id: String,
    pub image: String,
    pub status: String,
    pub replica: String,
    pub total_ms: String,
}

/// Runs `loadgen run` with `flags`, `--json` and `--log` to its end.
pub fn run(flags: &[&str]) -> FinishedRun {
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
    let report = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {}", stderr(&output)));
    FinishedRun { status: output.status.code(), report, requests: read_log(&log), output, folder }
}

/// Checks that a run came to its end, and that nothing but a busy machine stands against it: beside other tests, loadgen
/// may have sent late.
pub fn check_made(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    let was_late = output.status.code() == Some(99) && text.contains("INVALID") && !text.contains("breached");
    assert!(output.status.success() || was_late, "{:?}: {text}{}", output.status, stderr(output));
}

/// Checks that the latency of every request which was due during a stall contains the rest of the stall. The run had 100
/// requests a second, evenly spaced, and the server stalled for `length`, from 995 ms after the first arrival on.
pub fn check_stall(run: &FinishedRun, length: Duration) {
    // The first request is sent after 5 ms. The request that is sent a second after it is the first to wait.
    let from = Duration::from_millis(1005);
    let meanwhile: Vec<_> = run
        .requests
        .iter()
        .filter(|request| (from..from + length - Duration::from_millis(20)).contains(&request.scheduled))
        .collect();
    assert_eq!(meanwhile.len(), 98);
    for request in meanwhile {
        let left = from + length - request.scheduled;
        assert!(request.latency + Duration::from_millis(5) >= left, "{request:?} should have waited for {left:?}");
    }
    let before = run.requests.iter().filter(|request| request.scheduled < from - Duration::from_millis(5));
    let worst = before.map(|request| request.latency).max().expect("some were sent before");
    assert!(worst < Duration::from_millis(500), "{worst:?} before the server stalled");
}

fn read_log(path: &Path) -> Vec<LoggedRequest> {
    let mut rows = csv::Reader::from_reader(GzDecoder::new(File::open(path).expect("the log is written")));
    let row = |row: csv::Result<csv::StringRecord>| {
        let row = row.expect("the log is CSV");
        let micros = |column: usize| Duration::from_micros(row[column].parse().expect("a number"));
        LoggedRequest {
            scheduled: micros(0),
            latency: micros(2),
            outcome: row[3].to_owned(),
            request_id: row[7].to_owned(),
            image: row[8].to_owned(),
            status: row[9].to_owned(),
            replica: row[10].to_owned(),
            total_ms: row[15].to_owned(),
        }
    };
    let mut requests: Vec<LoggedRequest> = rows.records().map(row).collect();
    requests.sort_by_key(|request| request.scheduled);
    requests
}
