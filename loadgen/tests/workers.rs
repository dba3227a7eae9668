//! Distributed load: real workers and a real coordinator on the loopback interface, and programs that pretend to be
//! workers.

mod common;

use common::recorder::RecordedArrivals;
use common::{program, record, stderr};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};
use workload::Workload;
use workload::arrivals::{self, ArrivalProcess};

/// A worker on a free port of the loopback interface. It ends when the test ends.
struct WorkerProcess {
    child: Child,
    address: SocketAddr,
}

impl WorkerProcess {
    fn start(flags: &[&str]) -> Self {
        let mut child = program()
            .args(["worker", "--listen=127.0.0.1:0"])
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the worker starts");
        let mut line = String::new();
        let output = child.stdout.as_mut().expect("standard output is piped");
        BufReader::new(output).read_line(&mut line).expect("the worker says its address");
        let address = line.trim().strip_prefix("listening on http://").and_then(|address| address.parse().ok());
        Self { child, address: address.unwrap_or_else(|| panic!("no address in {line:?}")) }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the worker is a child of this test");
    }

    /// Sends `request` as it is, and returns the whole answer.
    fn raw(&self, request: &[u8]) -> String {
        raw(self.address, request)
    }

    /// Whether the worker has a task.
    fn is_busy(&self) -> bool {
        self.raw(b"GET /clock HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").contains("\"is_busy\":true")
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn raw(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("the worker listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream.write_all(request).expect("the worker reads");
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn addresses(workers: &[WorkerProcess]) -> String {
    workers.iter().map(|worker| worker.address.to_string()).collect::<Vec<_>>().join(",")
}

/// Starts `loadgen run --workers`, which writes its report to `json`.
fn coordinate(workers: &str, json: &Path, flags: &[&str]) -> Child {
    program()
        .args(["run", "--generate=3", "--size=32", "--workers", workers])
        .args(flags)
        .arg("--json")
        .arg(json)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("loadgen starts")
}

/// Runs `loadgen run --workers` to its end.
fn run(workers: &str, flags: &[&str]) -> (Output, Value) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let json = folder.path().join("run.json");
    let output = coordinate(workers, &json, flags).wait_with_output().expect("loadgen ends");
    (output, read(&json))
}

/// The report in a file; null if there is none.
fn read(json: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(json).unwrap_or_default()).unwrap_or_default()
}

/// Waits until `done` is true, for 20 s at most. `event` is the awaited event in words, for the message.
fn until(event: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "not within 20 s: {event}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The numbers of the requests that have arrived, in order. All ids must have the same prefix.
fn indices(arrivals: &RecordedArrivals) -> Vec<usize> {
    let ids = arrivals.ids();
    let prefix = ids.first().and_then(|id| id.split_once('-')).map(|(prefix, _)| format!("{prefix}-"));
    let prefix = prefix.unwrap_or_default();
    let number = |id: &String| id.strip_prefix(&prefix).and_then(|number| number.parse().ok());
    ids.iter().map(|id| number(id).unwrap_or_else(|| panic!("{id} has not the prefix {prefix}"))).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
fn two_workers_send_together_what_one_process_would_send() {
    let workers = [WorkerProcess::start(&[]), WorkerProcess::start(&[])];
    let (url, arrivals) = record(None);
    let load = ["--url", &url, "--rate=100", "--duration=4s", "--seed=7", "--warmup=500ms", "--table=2"];
    let (output, report) = run(&addresses(&workers), &load);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));

    let received = indices(&arrivals);
    let schedule = arrivals::schedule(&Workload::constant(100.0, Duration::from_secs(4)), ArrivalProcess::Poisson, 7);
    let in_warmup = received.len() - schedule.len();
    assert_eq!(received.iter().collect::<HashSet<_>>().len(), received.len(), "a request was sent twice");
    assert_eq!(received.iter().max(), Some(&(received.len() - 1)), "a request is missing");
    assert!((20..90).contains(&in_warmup), "{in_warmup}");
    // Requests are sent at their times, and both workers have started at the same time.
    let mut delays = [Vec::new(), Vec::new()];
    for (&index, at) in received.iter().zip(arrivals.times()) {
        if let Some(scheduled) = index.checked_sub(in_warmup).map(|index| schedule[index]) {
            delays[index % 2].push((at.as_secs_f64() - scheduled.as_secs_f64()) * 1e3);
        }
    }
    let [even, odd] = delays.clone().map(median);
    assert!((even - odd).abs() < 5.0, "the workers started {} ms apart", even - odd);
    let all = delays.concat();
    let on_time = all.iter().filter(|delay| (*delay - even).abs() < 10.0).count();
    assert!(on_time as f64 > 0.95 * all.len() as f64, "{on_time} of {} requests were on time", all.len());

    let folder = tempfile::tempdir().expect("a temporary folder");
    let json = folder.path().join("one.json");
    let mut one = program();
    one.args(["run", "--generate=3", "--size=32"]).args(load).arg("--json").arg(&json).stdout(Stdio::null());
    assert_eq!(one.status().expect("loadgen runs").code(), Some(0));
    let one = read(&json);
    for figure in ["offered", "answered", "failed", "errors", "accuracy", "sent_bytes", "received_bytes"] {
        assert_eq!(report["summary"][figure], one["summary"][figure], "{figure}");
    }
    let counts = |report: &Value, rows: &str| -> Vec<Vec<u64>> {
        let rows = report[rows].as_array().expect("rows").iter();
        rows.map(|row| ["second", "seconds", "offered"].map(|name| row[name].as_u64().expect("a number")).into())
            .collect()
    };
    for rows in ["seconds", "table"] {
        assert_eq!(counts(&report, rows), counts(&one, rows), "{rows}");
        assert!(
            report[rows].as_array().expect("rows").iter().all(|row| row["latency_ms"]["p99"].is_number()),
            "{rows}"
        );
    }
    assert_eq!(report["setup"]["load"], one["setup"]["load"]);
    assert_eq!((report["is_complete"].as_bool(), report["setup"]["length_seconds"].as_f64()), (Some(true), Some(4.0)));

    let parts = report["workers"].as_array().expect("the workers");
    let offered: Vec<u64> = parts.iter().map(|part| part["offered"].as_u64().expect("a number")).collect();
    assert_eq!(offered.iter().sum::<u64>(), schedule.len() as u64);
    assert!(offered[0].abs_diff(offered[1]) <= 1, "{offered:?}");
    assert!(parts.iter().all(|part| part["clock_uncertainty_ms"].as_f64() < Some(5.0)), "{parts:?}");
    // Both have the system clock of this machine.
    assert!(parts.iter().all(|part| part["clock_offset_ms"].as_f64().is_some_and(|ms| ms.abs() < 50.0)), "{parts:?}");
    let slowest: Vec<f64> =
        report["slowest"].as_array().expect("rows").iter().map(|row| row["latency_ms"].as_f64().expect("ms")).collect();
    assert!(slowest.len() == 10 && slowest.is_sorted_by(|a, b| a >= b), "{slowest:?}");
    let max = report["summary"]["latency_ms"]["max"].as_f64().expect("a number");
    assert!((slowest[0] / max - 1.0).abs() < 1e-3 || (slowest[0] - max).abs() < 0.002, "{slowest:?} {max}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("workers     2 sent the load"));
}

#[test]
fn workers_divide_the_requests_in_flight_of_a_closed_load() {
    let workers = [WorkerProcess::start(&[]), WorkerProcess::start(&[])];
    let (url, arrivals) = record(None);
    let (output, report) = run(&addresses(&workers), &["--url", &url, "--closed=3", "--duration=1s"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let received = indices(&arrivals);
    assert!(received.len() > 30, "{}", received.len());
    assert_eq!(received.iter().collect::<HashSet<_>>().len(), received.len(), "two requests have the same number");
    assert_eq!(report["summary"]["answered"], received.len());
    // The first worker keeps two of the three requests in flight. Their numbers are 0 and 2 modulo 3.
    let of_first = received.iter().filter(|&index| index % 3 != 1).count();
    assert_eq!(report["workers"][0]["offered"], of_first);
}

#[test]
fn a_worker_that_dies_is_named_and_the_report_is_partial() {
    let workers = [WorkerProcess::start(&[]), WorkerProcess::start(&[])];
    let (url, arrivals) = record(None);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let json = folder.path().join("run.json");
    let child = coordinate(&addresses(&workers), &json, &["--url", &url, "--rate=50", "--duration=60s"]);
    until("requests arrive", || arrivals.times().len() > 40);
    workers[1].signal(Signal::KILL);
    let killed_at = Instant::now();
    let output = child.wait_with_output().expect("loadgen ends");
    assert!(killed_at.elapsed() < Duration::from_secs(10), "{:?}", killed_at.elapsed());
    let error = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains(&workers[1].address.to_string()) && error.contains("closed the connection"), "{error}");
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("PARTIAL"), "{output:?}");
    let report = read(&json);
    assert_eq!(report["is_complete"], false);
    assert!(report["workers"][0]["failure"].is_null() && report["workers"][1]["failure"].is_string(), "{report}");
    assert!(report["summary"]["offered"].as_u64() > Some(10), "{}", report["summary"]);
    let so_far = arrivals.times().len();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(arrivals.times().len(), so_far, "the other worker still sends");
    assert!(!workers[0].is_busy());
}

#[test]
fn a_worker_whose_user_stops_it_sends_its_figures_so_far() {
    let mut workers = [WorkerProcess::start(&[]), WorkerProcess::start(&[])];
    let (url, arrivals) = record(None);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let json = folder.path().join("run.json");
    let child = coordinate(&addresses(&workers), &json, &["--url", &url, "--rate=50", "--duration=60s"]);
    until("requests arrive", || arrivals.times().len() > 40);
    workers[0].signal(Signal::INT);
    let stopped_at = Instant::now();
    let output = child.wait_with_output().expect("loadgen ends");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stopped_at.elapsed() < Duration::from_secs(10), "{:?}", stopped_at.elapsed());
    assert!(stderr(&output).contains("it was stopped there"), "{}", stderr(&output));
    let report = read(&json);
    let counted = report["summary"]["offered"].as_u64().unwrap() + report["unfinished"].as_u64().unwrap();
    assert_eq!(counted as usize, arrivals.times().len());
    assert_eq!(workers[0].child.wait().expect("the worker ends").code(), Some(0));
}

#[test]
fn ctrl_c_ends_the_load_of_all_workers_with_a_partial_report() {
    let workers = [WorkerProcess::start(&[]), WorkerProcess::start(&[])];
    let (url, arrivals) = record(None);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let json = folder.path().join("run.json");
    let child = coordinate(&addresses(&workers), &json, &["--url", &url, "--rate=50", "--duration=60s"]);
    until("requests arrive", || arrivals.times().len() > 40);
    kill_process(Pid::from_child(&child), Signal::INT).expect("loadgen is a child of this test");
    let stopped_at = Instant::now();
    let output = child.wait_with_output().expect("loadgen ends");
    assert!(stopped_at.elapsed() < Duration::from_secs(10), "{:?}", stopped_at.elapsed());
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    let report = read(&json);
    assert_eq!(report["is_complete"], false);
    let counted = report["summary"]["offered"].as_u64().unwrap() + report["unfinished"].as_u64().unwrap();
    assert_eq!(counted as usize, arrivals.times().len());
    until("the workers are free", || !workers.iter().any(WorkerProcess::is_busy));
}

#[test]
fn the_load_stops_within_three_seconds_of_the_coordinators_death() {
    let workers = [WorkerProcess::start(&[]), WorkerProcess::start(&[])];
    let (url, arrivals) = record(None);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let flags = ["--url", &url, "--rate=50", "--duration=60s"];
    let mut child = coordinate(&addresses(&workers), &folder.path().join("run.json"), &flags);
    until("requests arrive", || arrivals.times().len() > 40);
    kill_process(Pid::from_child(&child), Signal::KILL).expect("loadgen is a child of this test");
    child.wait().expect("loadgen ends");
    std::thread::sleep(Duration::from_secs(3));
    let so_far = arrivals.times().len();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(arrivals.times().len(), so_far, "the workers still send");
    // The workers take the next load.
    let (output, _report) = run(&addresses(&workers), &["--url", &url, "--rate=20", "--duration=1s"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn a_worker_that_others_can_reach_requires_a_token() {
    let open = program().args(["worker", "--listen=0.0.0.0:0"]).output().expect("the worker runs");
    assert_eq!(open.status.code(), Some(1));
    assert!(stderr(&open).contains("--token-file") && stderr(&open).contains("0.0.0.0"), "{}", stderr(&open));

    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let (right, wrong, empty) = (file("right", "s3cret\n"), file("wrong", "s3cret2\n"), file("empty", "\n"));
    let worker = WorkerProcess::start(&["--token-file", &right]);
    let (url, arrivals) = record(None);
    let load = ["--url", &url, "--rate=20", "--duration=1s"];
    let token =
        |file: &str| [&load[..], &["--workers-token-file", file]].concat().iter().map(ToString::to_string).collect();
    let cases: [(Vec<String>, &str); 3] =
        [(load.map(str::to_owned).into(), "(401)"), (token(&wrong), "(401)"), (token(&empty), "the file is empty")];
    for (flags, words) in cases {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let (output, _report) = run(&worker.address.to_string(), &flags);
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{flags:?}: {error}");
        assert!(error.contains(words) && !error.contains("s3cret"), "{flags:?}: {error}");
    }
    assert!(arrivals.times().is_empty(), "requests were sent");
    let (output, _report) =
        run(&worker.address.to_string(), &[&load[..], &["--workers-token-file", right.as_str()]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn a_worker_has_one_load_at_a_time() {
    let worker = WorkerProcess::start(&[]);
    let address = worker.address.to_string();
    let (url, arrivals) = record(None);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let json = folder.path().join("run.json");
    let first = coordinate(&address, &json, &["--url", &url, "--rate=50", "--duration=4s"]);
    until("requests arrive", || !arrivals.times().is_empty());
    let (second, _report) = run(&address, &["--url", &url, "--rate=20", "--duration=1s"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains(&address) && stderr(&second).contains("another load"), "{}", stderr(&second));
    let task = b"POST /run HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-loadgen-task\r\ncontent-length: 2\r\n\
        connection: close\r\n\r\n{\n";
    assert!(worker.raw(task).starts_with("HTTP/1.1 409"), "{}", worker.raw(task));
    let first = first.wait_with_output().expect("loadgen ends");
    assert_eq!(first.status.code(), Some(0), "{}", stderr(&first));
    assert_eq!(read(&json)["summary"]["offered"], arrivals.times().len());
}

#[test]
fn malformed_requests_are_refused_and_the_worker_goes_on() {
    let worker = WorkerProcess::start(&[]);
    let head = |line: &str, media_type: &str, length: &str| {
        format!("{line} HTTP/1.1\r\nhost: a\r\ncontent-type: {media_type}\r\n{length}connection: close\r\n\r\n")
    };
    let post = |path: &str, media_type: &str, body: &str| {
        head(&format!("POST {path}"), media_type, &format!("content-length: {}\r\n", body.len())) + body
    };
    let (task, json) = ("application/x-loadgen-task", "application/json");
    let long = "content-length: 700000000\r\n";
    for (request, status, words) in [
        (post("/run", task, ""), 400, "no first line"),
        (post("/run", task, "{}\n"), 400, "malformed"),
        (post("/run", task, &"[".repeat(100_000)), 400, "no first line"),
        (post("/run", task, &("[".repeat(100_000) + "\n")), 400, "malformed"),
        // A page in a browser can send such a type to any server.
        (post("/run", "text/plain", "{}\n"), 415, task),
        (head("POST /run", task, long), 413, "the limit"),
        (head("POST /run", task, "content-length: many\r\n"), 400, ""),
        (head("POST /run", task, ""), 411, "content-length"),
        (post("/start", json, "{}"), 400, "start_us"),
        (post("/start", json, r#"{"start_us":0}"#), 400, "within the next 60 s"),
        (post("/start", json, r#"{"start_us":18446744073709551615}"#), 400, "within the next 60 s"),
        (post("/stop", json, ""), 409, "no task"),
        (post("/stop", "text/plain", ""), 415, json),
        (head("GET /run", task, ""), 405, "POST"),
        (head("GET /", json, ""), 404, "/clock"),
        (format!("GET /clock HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(20_000)), 431, ""),
    ] {
        let answer = worker.raw(request.as_bytes());
        let start = &request[..request.len().min(80)];
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(words), "{start:?}: {answer}");
    }
    assert!(!worker.is_busy());
    let (url, _arrivals) = record(None);
    let (output, _report) = run(&worker.address.to_string(), &["--url", &url, "--rate=20", "--duration=1s"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn workers_that_are_not_there_and_flags_that_do_not_fit_are_named() {
    let worker = WorkerProcess::start(&[]);
    let address = worker.address.to_string();
    let (url, arrivals) = record(None);
    for (flags, status, words) in [
        (vec!["--log=x.csv.gz"], 2, "--log"),
        (vec!["--workers=a"], 2, "10.0.0.5:5060"),
        (vec![&*format!("--workers={address}")], 2, "twice"),
    ] {
        let (output, _report) = run(&address, &[&["--url", &url, "--rate=5", "--duration=1s"], &flags[..]].concat());
        assert_eq!(output.status.code(), Some(status), "{flags:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(words), "{flags:?}: {}", stderr(&output));
    }
    let (output, _report) = run("127.0.0.1:1", &["--url", &url, "--rate=5", "--duration=1s"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("127.0.0.1:1") && stderr(&output).contains("loadgen worker"),
        "{}",
        stderr(&output)
    );
    // A worker without a token reads no file for a run.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("secret");
    std::fs::write(&file, "secret").expect("written");
    let flag = format!("--bearer-token-file={}", file.display());
    let (output, _report) = run(&address, &["--url", &url, "--rate=5", "--duration=1s", &flag]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("(403)") && stderr(&output).contains("--token-file"), "{}", stderr(&output));
    assert!(arrivals.times().is_empty());
}

/// Starts a program that pretends to be a worker. It answers requests for its clock, and `POST /run` with `run`, after
/// whose call it keeps the connection open. Returns its address.
fn pretended(run: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("the listener has an address");
    let run = std::sync::Arc::new(run);
    let clock = format!(
        r#"{{"version":"{}","is_busy":false,"monotonic_us":5000000,"system_us":5}}"#,
        env!("CARGO_PKG_VERSION")
    );
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (run, clock) = (run.clone(), clock.clone());
            std::thread::spawn(move || {
                let mut buffer = [0; 65_536];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if buffer[..length].starts_with(b"POST /run") {
                        run(&mut stream);
                        std::thread::sleep(Duration::from_secs(60));
                    } else if buffer[..length].starts_with(b"GET ") || buffer[..length].starts_with(b"POST /") {
                        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{clock}", clock.len());
                        let _sent = stream.write_all(answer.as_bytes());
                    }
                }
            });
        }
    });
    address
}

#[test]
fn programs_that_pretend_to_be_workers_are_named_and_cost_little() {
    let (url, _arrivals) = record(None);
    let write = |text: &'static str| move |stream: &mut TcpStream| drop(stream.write_all(text.as_bytes()));
    const READY: &str = "HTTP/1.1 200 OK\r\n\r\n\"ready\"\n";
    let after_ready = |line: &'static str| {
        pretended(move |stream| {
            let _sent = stream.write_all(READY.as_bytes());
            // The coordinator reads on after its start message.
            std::thread::sleep(Duration::from_millis(1500));
            let _sent = stream.write_all(line.as_bytes());
        })
    };
    let endless = |stream: &mut TcpStream| {
        let _sent = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b'x'; 65_536]).is_ok() {}
    };
    let cases = [
        (pretended(write("what?\r\n\r\n")), "closed the connection"),
        (pretended(write("HTTP/1.1 200 OK\r\n\r\n<html>\n")), "not one of a worker"),
        (pretended(write("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n")), "answered 500"),
        (pretended(write("HTTP/1.1 200 OK\r\n\r\n{\"failed\":\"a\\u001b[2Jb\"}\n")), "a\u{fffd}[2Jb"),
        (pretended(endless), "more than 16 MiB"),
        (after_ready("{\"progress\":{\"sent\":-1}}\n"), "not one of a worker"),
        (
            after_ready(
                "{\"second\":{\"second\":9,\"offered\":1,\"within_objective\":0,\"failed\":1,\"latencies\":\"\"}}\n",
            ),
            "not one of a worker",
        ),
        (after_ready("\"ready\"\n"), "out of order"),
        // It never sends a line.
        (after_ready(""), "sent nothing for 10 s"),
    ];
    for (address, words) in cases {
        let begun_at = Instant::now();
        let (output, _report) = run(&address.to_string(), &["--url", &url, "--rate=20", "--duration=1s"]);
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{words}: {error}");
        assert!(error.contains(&address.to_string()) && error.contains(words), "{words}: {error}");
        assert!(begun_at.elapsed() < Duration::from_secs(25), "{words}: {:?}", begun_at.elapsed());
    }
    // The recorder is a server, but no worker.
    let recorder = url.trim_start_matches("http://").trim_end_matches("/predict");
    let (output, _report) = run(recorder, &["--url", &url, "--rate=20", "--duration=1s"]);
    assert!(stderr(&output).contains("no clock of a worker"), "{}", stderr(&output));
}
