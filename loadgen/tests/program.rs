//! The program as its users see it: bad input, servers that misbehave, Ctrl-C, exit statuses, files, the live screen.

mod common;

use common::{program, record, run, stderr};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The body of an answer as in the HTTP API.
const ANSWER: &str = r#"{"success":true,"prediction":{"class_index":0,"label":"plain circle","confidence":0.9},
    "predictions":[],"model":"m","replica":"r",
    "timing_ms":{"queue":0,"decode":0,"batch":0,"inference":0,"total":0}}"#;

/// Starts a server that calls `answer` for every connection, after it has read some of the request. Returns its URL.
fn answering(answer: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("the listener has an address");
    let answer = std::sync::Arc::new(answer);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let answer = answer.clone();
            std::thread::spawn(move || {
                // HTTP does not permit an answer before the request.
                let _read = stream.read(&mut [0; 1024]);
                answer(&mut stream);
            });
        }
    });
    format!("http://{address}/predict")
}

/// Starts a server that passes the head of every request to `answer`, and sends the text that it returns. Returns the
/// server's URL. GET requests, which read metrics, are not passed on.
fn served(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("the listener has an address");
    let answer = std::sync::Arc::new(answer);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let answer = answer.clone();
            std::thread::spawn(move || {
                let mut request = Vec::new();
                let mut buffer = [0; 4096];
                let head = loop {
                    let length = stream.read(&mut buffer).unwrap_or_default();
                    request.extend_from_slice(&buffer[..length]);
                    let end = request.windows(4).position(|window| window == b"\r\n\r\n");
                    match end {
                        Some(end) => break String::from_utf8_lossy(&request[..end]).into_owned(),
                        None if length == 0 => return,
                        None => {}
                    }
                };
                if head.starts_with("POST") {
                    let _sent = stream.write_all(answer(&head).as_bytes());
                }
            });
        }
    });
    format!("http://{address}/predict")
}

#[test]
fn errors_before_a_run_name_their_reason_and_send_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("bad.txt"), "5 5\n5 five 5\n").expect("written");
    std::fs::create_dir(path("empty")).expect("created");
    let unused = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let (url, arrivals) = record(None);
    let rate = ["--rate=5", "--duration=1s"];
    let cases = [
        (1, vec!["--workload".into(), path("bad.txt")], vec!["bad.txt", "line 2, column 3", "\"five\""]),
        (1, vec!["--pictures".into(), path("empty")], vec!["no readable .jpg", "empty"]),
        (1, vec!["--pictures".into(), path("gone")], vec!["gone"]),
        (1, vec![format!("--url=http://{unused}/predict")], vec!["connect to", "does the dispatcher run"]),
        (1, vec!["--url=http://no-such-host.invalid/".into()], vec!["connect to no-such-host.invalid:80"]),
        (1, vec!["--url=ftp://a/".into()], vec!["http://", "https://"]),
        (1, vec!["--json".into(), path("no/such/folder.json")], vec!["no/such/folder.json"]),
        (2, vec!["--threshold=p95<5".into()], vec!["\"5\" is not a time", "p95<500ms"]),
        (2, vec!["--header=nonsense".into()], vec!["Name: value"]),
        (2, vec!["--form=xml".into()], vec!["raw, multipart, json, oip-json, oip-binary"]),
        (2, vec!["--size=3".into()], vec!["between 16 and"]),
        (2, vec!["--slo=p95<1s".into()], vec!["--find-capacity"]),
        (2, vec!["--repeat=2".into()], vec!["--rate", "--repeat"]),
        (2, vec!["--window=1s".into()], vec!["--find-capacity"]),
        (2, vec!["--max-window=1s".into()], vec!["--find-capacity"]),
        (2, vec!["--max-duration=1m".into()], vec!["--find-capacity"]),
        (2, vec!["--runs=0".into()], vec!["'0' for '--runs"]),
        (
            1,
            vec!["--runs=2".into(), format!("--seed={}", u64::MAX)],
            vec!["--seed (18446744073709551615) is too large"],
        ),
    ];
    for (status, flags, words) in cases {
        let has_workload = flags[0] == "--workload";
        let mut command = program();
        command.arg("run");
        if !flags[0].starts_with("--url") {
            command.args(["--url", &url]);
        }
        let output =
            command.args(if has_workload { &[][..] } else { &rate }).args(&flags).output().expect("the program runs");
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(status), "{flags:?}: {error}");
        assert!(words.iter().all(|word| error.contains(word)), "{flags:?}: {error}");
        assert!(!error.contains("panicked"), "{error}");
    }
    assert!(arrivals.times().is_empty(), "requests were sent");
}

#[test]
fn a_workload_is_shown_with_the_format_of_its_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("workload");
    for (text, flags, words) in [
        ("7 6 8\n", &[][..], ["numbers, one for each second", "length      3 s", "21"]),
        (
            "\u{feff}[7, 6.5,\r\n 8]\r\n",
            &[],
            ["list with a number for each second", "length      3 s", "highest 8.0/s"],
        ),
        ("second;rate\n0;7\n2;6\n", &[], ["CSV with rates per second", "length      3 s", "20"]),
        ("minute,count\n0,60\n1,120\n", &[], ["CSV with requests per minute", "length      120 s", "180"]),
        ("60 120", &["--workload-format=minutes"], ["one for each minute", "length      120 s", "in minutes"]),
        (
            "HashOwner,HashApp,HashFunction,Trigger,1,2\no,a,f,http,60,0\no,a,g,http,0,120\n",
            &["--function=g"],
            ["row for each function", "of which 60 without load", "function g"],
        ),
    ] {
        std::fs::write(&path, text).expect("written");
        let output =
            program().args(["workload", "--workload"]).arg(&path).args(flags).output().expect("the program runs");
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text:?}: {}", stderr(&output));
        assert!(words.iter().all(|word| shown.contains(word)), "{text:?}: {shown}");
    }
    let stages = program().args(["workload", "--stages=2s:4,2s:4"]).output().expect("the program runs");
    let shown = String::from_utf8_lossy(&stages.stdout).into_owned();
    assert!(shown.contains("stages 2s:4,2s:4") && shown.contains("requests    12"), "{shown}");
}

#[test]
fn each_misbehaviour_of_a_server_has_its_error_code() {
    let write = |text: &'static str| answering(move |stream| drop(stream.write_all(text.as_bytes())));
    let cases = [
        (write("what?\r\n\r\n"), "invalid_http"),
        (write(""), "reset"),
        (write("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n<html>"), "short_answer"),
        (write("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>"), "invalid_answer"),
        (write("HTTP/1.1 418 No\r\ncontent-length: 0\r\n\r\n"), "http_418"),
        (answering(|_| std::thread::sleep(Duration::from_secs(9))), "client_timeout"),
        (
            answering(|stream| {
                let _sent = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
                while stream.write_all(&[b'x'; 65_536]).is_ok() {}
            }),
            "long_answer",
        ),
    ];
    for (url, code) in cases {
        let run = run(&["--url", &url, "--rate=10", "--duration=1s", "--timeout=600ms", "--threshold=attainment>=0"]);
        let summary = &run.report["summary"];
        assert_eq!(summary["failed"], summary["offered"], "{code}: {summary}");
        assert_eq!(summary["errors"][code], summary["offered"], "{code}: {summary}");
        assert!(run.requests.iter().all(|request| request.outcome == code));
        assert_eq!(run.report["thresholds"][0]["held"], true);
    }
}

#[test]
fn ctrl_c_ends_a_run_with_a_report_that_is_marked_partial() {
    let (url, arrivals) = record(None);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str| folder.path().join(name);
    let load = program()
        .args(["run", "--rate=50", "--duration=60s", "--generate=3", "--url", &url])
        .arg("--json")
        .arg(file("run.json"))
        .arg("--html")
        .arg(file("run.html"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("loadgen starts");
    until("requests arrive", || arrivals.times().len() > 40);
    let stopped_at = Instant::now();
    kill_process(Pid::from_child(&load), Signal::INT).expect("loadgen is a child of this test");
    let output = load.wait_with_output().expect("the program ends");
    assert!(stopped_at.elapsed() < Duration::from_secs(10));
    assert_eq!(output.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("PARTIAL"), "{output:?}");
    let report: Value = serde_json::from_slice(&std::fs::read(file("run.json")).expect("written")).expect("JSON");
    let length = report["setup"]["length_seconds"].as_f64().expect("a number");
    assert_eq!(report["is_complete"], false);
    assert!((0.5..20.0).contains(&length), "{length}");
    let counted = report["summary"]["offered"].as_u64().unwrap() + report["unfinished"].as_u64().unwrap();
    assert_eq!(counted as usize, arrivals.times().len());
    assert!(std::fs::read_to_string(file("run.html")).expect("written").contains("PARTIAL"));
}

#[test]
fn ctrl_c_does_not_wait_for_a_server_that_never_answers() {
    let url = answering(|_| std::thread::sleep(Duration::from_secs(60)));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let json = folder.path().join("run.json");
    let load = program()
        .args(["run", "--rate=50", "--duration=1s", "--generate=3", "--timeout=60s", "--url", &url, "--json"])
        .arg(&json)
        .spawn()
        .expect("loadgen starts");
    // All requests are sent within the first second, so the signal comes after the last one.
    std::thread::sleep(Duration::from_secs(2));
    let stopped_at = Instant::now();
    kill_process(Pid::from_child(&load), Signal::TERM).expect("loadgen is a child of this test");
    let output = load.wait_with_output().expect("the program ends");
    assert!(stopped_at.elapsed() < Duration::from_secs(10));
    assert_eq!(output.status.code(), Some(130));
    let report: Value = serde_json::from_slice(&std::fs::read(&json).expect("written")).expect("JSON");
    // All requests have waited for longer than the objective.
    let missed = report["summary"]["errors"]["unfinished"].as_u64();
    assert!(missed > Some(20), "{}", report["summary"]);
    assert_eq!((report["summary"]["offered"].as_u64(), report["unfinished"].as_u64()), (missed, Some(0)));
}

#[test]
fn proxies_from_the_environment_are_not_used() {
    let unused = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let (url, arrivals) = record(None);
    let mut command = program();
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        command.env(name, format!("http://{unused}"));
    }
    let output = command
        .args(["run", "--rate=20", "--duration=1s", "--generate=3", "--threshold=errors<=0", "--url", &url])
        .output()
        .expect("the program runs");
    common::check_made(&output);
    assert!(!arrivals.times().is_empty());
}

#[test]
fn a_request_can_be_found_again_by_its_id() {
    let ids = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = ids.clone();
    let url = served(move |request| {
        let id = request
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("x-request-id: ").map(str::to_owned));
        let count = {
            let mut ids = seen.lock().expect("no thread panics");
            ids.push(id.expect("each request has an id"));
            ids.len()
        };
        // The third request is slow.
        if count == 3 {
            std::thread::sleep(Duration::from_millis(300));
        }
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{ANSWER}", ANSWER.len())
    });
    let run = run(&["--url", &url, "--rate=10", "--duration=1s", "--arrivals=uniform"]);
    let ids = ids.lock().expect("no thread panics").clone();
    let logged: Vec<String> = run.requests.iter().map(|request| request.request_id.clone()).collect();
    assert_eq!(logged, ids);
    let slowest = &run.report["slowest"][0];
    assert_eq!(slowest["request_id"], ids[2].as_str());
    assert!(
        slowest["latency_ms"].as_f64() > Some(300.0) && slowest["parts_ms"]["rest"].as_f64() > Some(250.0),
        "{slowest}"
    );
    let row = &run.requests[2];
    assert_eq!([&*row.image, &*row.status, &*row.replica, &*row.total_ms], ["generated 2", "200", "r", "0"]);
    assert!(String::from_utf8_lossy(&run.output.stdout).contains(&format!("{} (generated 2)", ids[2])));
    let own = common::run(&["--url", &url, "--rate=5", "--duration=1s", "--header=x-request-id: mine"]);
    assert!(own.requests.iter().all(|request| request.request_id == "mine"), "{:?}", own.requests);
}

#[test]
fn requests_that_have_missed_the_objective_when_the_user_stops_count_as_missed() {
    let url = answering(|_stream| std::thread::sleep(Duration::from_secs(60)));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let json = folder.path().join("run.json");
    let child = program()
        .args([
            "run",
            "--rate=50",
            "--duration=60s",
            "--arrivals=uniform",
            "--generate=3",
            "--objective=2500ms",
            "--url",
            &url,
        ])
        .arg("--json")
        .arg(&json)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    std::thread::sleep(Duration::from_secs(2));
    kill_process(Pid::from_child(&child), Signal::INT).expect("the program runs");
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&std::fs::read(&json).expect("written")).expect("JSON");
    let number = |value: &Value| value.as_u64().expect("a number");
    // loadgen waits 2 s after the stop. The requests of the first 1.5 s have waited 2.5 s then, and the others less.
    let (missed, unfinished) = (number(&report["summary"]["errors"]["unfinished"]), number(&report["unfinished"]));
    assert!(missed >= 50 && unfinished >= 15, "{missed} {unfinished}");
    assert_eq!((number(&report["summary"]["failed"]), number(&report["summary"]["offered"])), (missed, missed));
    assert_eq!(report["summary"]["attainment"], 0.0);
}

#[test]
fn a_closed_load_backs_off_while_connections_are_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/predict", listener.local_addr().expect("an address"));
    // loadgen connects once before the run. The server is gone after that.
    let server = std::thread::spawn(move || drop(listener.accept()));
    let run = run(&["--url", &url, "--closed=2", "--duration=2s"]);
    server.join().expect("the server has ended");
    let failed = run.report["summary"]["errors"]["connect"].as_u64().unwrap_or_default();
    assert!((6..60).contains(&failed), "{failed} refused connections in 2 s");
}

#[test]
fn thresholds_decide_the_exit_status() {
    let (url, _arrivals) = record(None);
    let common = ["--url", url.as_str(), "--rate=50", "--duration=1s", "--objective=2s"];
    let held = run(&[&common[..], &["--threshold=p95<5s", "--threshold=errors<=0"]].concat());
    assert_eq!(held.status, Some(0), "{}", stderr(&held.output));
    let breached = run(&[&common[..], &["--threshold=p95<5s", "--threshold=goodput>1000"]].concat());
    assert_eq!(breached.status, Some(99));
    let text = String::from_utf8_lossy(&breached.output.stdout).into_owned();
    assert!(text.contains("p95<5s: held") && text.contains("goodput>1000: breached"), "{text}");
    assert_eq!(breached.report["thresholds"][1]["held"], false);
}

#[test]
fn too_few_connections_cause_late_sends_and_an_invalid_report() {
    let url = answering(|stream| {
        std::thread::sleep(Duration::from_millis(200));
        let _sent = stream.write_all(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    });
    let run = run(&["--url", &url, "--rate=50", "--duration=1s", "--connections=1"]);
    assert_eq!(run.status, Some(99));
    assert_eq!(run.report["punctuality"]["is_bottleneck"], true);
    assert!(run.report["punctuality"]["late_sends"].as_u64() > Some(20));
    assert!(String::from_utf8_lossy(&run.output.stdout).contains("INVALID"));
    // Waiting for a connection is part of the latency.
    assert!(run.requests.iter().map(|request| request.latency).max() > Some(Duration::from_secs(2)));
}

#[test]
fn a_low_limit_of_open_files_is_named_at_the_start_and_in_the_result() {
    let url = answering(|stream| {
        std::thread::sleep(Duration::from_millis(200));
        let _sent = stream.write_all(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    });
    let folder = tempfile::tempdir().expect("a temporary folder");
    let json = folder.path().join("run.json");
    let line = format!(
        "ulimit -n 64; exec {} run --url {url} --rate 50 --duration 1s --generate 3 --size 32 --json {}",
        env!("CARGO_BIN_EXE_loadgen"),
        json.display()
    );
    let output = Command::new("sh").args(["-c", &line]).stdin(Stdio::null()).output().expect("the program runs");
    let (error, text) = (stderr(&output), String::from_utf8_lossy(&output.stdout).into_owned());
    assert_eq!(output.status.code(), Some(99), "{error}{text}");
    let limit = "the limit of 64 open files permits only 1 connection; raise it";
    assert!(error.starts_with("warning: ") && error.contains(limit), "{error}");
    let invalid = text.lines().find(|line| line.starts_with("INVALID")).expect("the run is invalid");
    assert!(invalid.contains(limit) && invalid.contains("ulimit -n"), "{invalid}");
    let report: Value = serde_json::from_slice(&std::fs::read(&json).expect("written")).expect("JSON");
    assert_eq!(report["setup"]["connection_limit"]["open_files"], 64);
}

#[test]
fn labels_that_name_no_image_are_said_before_and_after_the_run() {
    let (url, _arrivals) = record(None);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pictures = folder.path().join("pictures");
    let drawn = program().args(["pictures", "--count=2", "--size=32"]).arg(&pictures).output().expect("drawn");
    assert!(drawn.status.success(), "{}", stderr(&drawn));
    let run_with = |labels: &str| {
        std::fs::write(pictures.join("labels.csv"), labels).expect("written");
        run(&["--url", &url, "--rate=20", "--duration=1s", "--pictures", pictures.to_str().expect("UTF-8")])
    };
    let unknown = run_with("file,label\nother/00000.jpg,plain circle\n");
    let problem = "no row of labels.csv names an image of the folder; the first is line 2";
    assert!(stderr(&unknown.output).contains(problem), "{}", stderr(&unknown.output));
    let text = String::from_utf8_lossy(&unknown.output.stdout).into_owned();
    assert!(text.contains(&format!("accuracy    unknown: {problem}")), "{text}");
    assert!(unknown.report["setup"]["label_problem"].as_str().is_some_and(|text| text.contains(problem)));
    let known = run_with("label,file\nplain circle,00000.jpg\nplain circle,00001.jpg\n");
    assert_eq!(stderr(&known.output), "");
    assert!(known.report["summary"]["accuracy"].is_number(), "{}", known.report["summary"]);
    assert!(known.report["setup"]["label_problem"].is_null());
}

#[test]
fn a_search_finds_the_capacity_of_the_server() {
    // The server answers one request after another, each in a little more than 5 ms. It can therefore answer a little
    // less than 200 requests per second.
    let one_at_a_time = std::sync::Mutex::new(());
    let url = answering(move |stream| {
        {
            let _guard = one_at_a_time.lock().expect("no thread panics");
            std::thread::sleep(Duration::from_millis(5));
        }
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", ANSWER.len());
        let _sent = stream.write_all((head + ANSWER).as_bytes());
    });
    let folder = tempfile::tempdir().expect("a temporary folder");
    let json = folder.path().join("capacity.json");
    let output = program()
        .args(["run", "--find-capacity", "--slo=p90<150ms", "--slo=errors<=0", "--rate=60", "--window=1s"])
        // On a busy machine, rates fail that the server could answer, and the search tries slower and slower ones.
        .arg("--max-duration=3m")
        .args(["--arrivals=uniform", "--generate=3", "--size=32", "--url", &url, "--json"])
        .arg(&json)
        .output()
        .expect("the program runs");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let found: Value = serde_json::from_slice(&std::fs::read(&json).expect("written")).expect("JSON");
    let number = |name: &str| found[name].as_f64().expect("a number");
    let (rate, fails) = (number("requests_per_second"), number("fails_at"));
    assert!((100.0..205.0).contains(&rate) && fails > rate, "{found}");
    assert!(found["is_limited_by_generator"] == true || fails / rate <= 1.05, "{found}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("capacity    "), "{output:?}");
    if found["is_limited_by_generator"] == false {
        let estimates = found["estimates"].as_array().expect("a list");
        let (low, high) = (&found["interval"]["low"], &found["interval"]["high"]);
        assert!(estimates.len() == 3 && low.as_f64() < Some(fails) && high.as_f64() > Some(rate), "{found}");
    }
}

#[test]
fn a_search_ends_at_its_greatest_length_with_what_is_known() {
    let (url, _arrivals) = record(None);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let json = folder.path().join("capacity.json");
    let output = program()
        .args(["run", "--find-capacity", "--slo=p50<5s", "--rate=20", "--window=1s", "--max-duration=9s"])
        .args(["--generate=3", "--size=32", "--url", &url, "--json"])
        .arg(&json)
        .output()
        .expect("the program runs");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let found: Value = serde_json::from_slice(&std::fs::read(&json).expect("written")).expect("JSON");
    assert_eq!((&found["is_limited_by_time"], &found["is_complete"]), (&Value::from(true), &Value::from(true)));
    assert!((1..=2).contains(&found["tries"].as_array().expect("a list").len()), "{found}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("capacity    at least") && text.contains("PARTIAL     the search ended at"), "{text}");
}

#[test]
fn a_series_has_a_run_for_each_seed_and_compare_takes_them_as_one_group() {
    let (url, arrivals) = record(None);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let output = program()
        .args(["run", "--rate=40", "--duration=1s", "--runs=3", "--seed=7", "--generate=3", "--size=32", "--name=x"])
        .args(["--threshold=errors<=0", "--url", &url, "--json", &path("x.json")])
        .args(["--csv", &path("x.csv"), "--log", &path("x.csv.gz"), "--html", &path("x.html")])
        .output()
        .expect("the program runs");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("seeds 7, 8, 9") && text.contains("p99 of all offered"), "{text}");
    let series: Value = serde_json::from_slice(&std::fs::read(path("x.json")).expect("written")).expect("JSON");
    let offered: Vec<u64> =
        (0..3).map(|run| series["runs"][run]["summary"]["offered"].as_u64().expect("a number")).collect();
    assert_eq!(offered.iter().sum::<u64>() as usize, arrivals.times().len());
    assert!(offered[0] != offered[1] || offered[1] != offered[2], "each seed has its own arrivals: {offered:?}");
    assert_eq!(series["figures"]["attainment"]["mean"], 100.0);
    for seed in 7..=9 {
        for name in [format!("x-seed-{seed}.csv"), format!("x-seed-{seed}.csv.gz"), format!("x-seed-{seed}.html")] {
            assert!(folder.path().join(&name).metadata().is_ok_and(|file| file.len() > 0), "{name}");
        }
    }
    assert!(!folder.path().join("x.csv").exists() && !folder.path().join("x.html").exists());
    let other = std::fs::read_to_string(path("x.json")).expect("written").replace("\"name\": \"x\"", "\"name\": \"y\"");
    std::fs::write(path("y.json"), other).expect("written");
    let output = program()
        .args(["compare", &path("x.json"), &path("y.json"), "--json", &path("comparison.json")])
        .output()
        .expect("the program runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("x, 3 seeds") && text.contains("No difference in attainment is shown"), "{text}");
    let comparison: Value =
        serde_json::from_slice(&std::fs::read(path("comparison.json")).expect("written")).expect("JSON");
    assert_eq!(comparison["groups"][1]["seeds"], serde_json::json!([7, 8, 9]));
    assert_eq!(comparison["verdicts"][0]["is_ahead"], false);
    let output = program()
        .args(["compare", &path("x.json"), &path("y.json"), "--json", "-"])
        .output()
        .expect("the program runs");
    let printed: Value = serde_json::from_slice(&output.stdout).expect("standard output is JSON");
    assert_eq!(printed, comparison);
    assert!(stderr(&output).contains("x, 3 seeds"), "{}", stderr(&output));
}

#[test]
fn a_breached_threshold_of_one_run_and_a_stop_decide_the_status_of_a_series() {
    let (url, arrivals) = record(None);
    let common = ["run", "--runs=2", "--generate=3", "--size=32", "--url", &url];
    let breached = program()
        .args(common)
        .args(["--rate=20", "--duration=1s", "--threshold=goodput>1000"])
        .output()
        .expect("the program runs");
    assert_eq!(breached.status.code(), Some(99));
    let before = arrivals.times().len();
    let load = program()
        .args(common)
        .args(["--rate=50", "--duration=60s"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("loadgen starts");
    until("requests arrive", || arrivals.times().len() > before + 20);
    kill_process(Pid::from_child(&load), Signal::INT).expect("loadgen is a child of this test");
    let output = load.wait_with_output().expect("the program ends");
    assert_eq!(output.status.code(), Some(130));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.starts_with("PARTIAL     the series was stopped") && text.contains("runs        1 "), "{text}");
}

#[test]
fn all_files_of_a_run_agree() {
    let (url, _arrivals) = record(None);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let csv = folder.path().join("seconds.csv");
    let run = run(&[
        "--url",
        &url,
        "--shape=step:low=5,high=20,length=2",
        "--arrivals=uniform",
        "--name=x",
        "--csv",
        csv.to_str().unwrap(),
    ]);
    let mut rows = csv::Reader::from_path(&csv).expect("written");
    assert_eq!(rows.headers().expect("a header").get(1), Some("offered"));
    let offered: Vec<String> = rows.records().map(|row| row.expect("a row")[1].to_owned()).collect();
    assert_eq!(offered, ["5", "20"]);
    assert_eq!((run.requests.len(), &run.report["setup"]["name"]), (25, &Value::from("x")));
    let report = run.folder.path().join("run.json");
    let html = folder.path().join("comparison.html");
    let other = folder.path().join("other.json");
    let text = std::fs::read_to_string(&report).expect("written").replace("\"name\": \"x\"", "\"name\": \"y\"");
    std::fs::write(&other, text).expect("written");
    let output = program()
        .args(["compare"])
        .args([&report, &other])
        .arg("--html")
        .arg(&html)
        .output()
        .expect("the program runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("x did best with 100.00 %"), "{text}{}", stderr(&output));
    assert!(std::fs::read_to_string(&html).expect("written").contains("x did best"));
}

#[test]
fn without_a_terminal_nothing_is_shown_unless_no_tui_asks_for_lines() {
    let (url, _arrivals) = record(None);
    let common = ["run", "--url", &url, "--rate=20", "--generate=3"];
    let quiet = program().args(common).arg("--duration=1s").output().expect("the program runs");
    assert_eq!(stderr(&quiet), "");
    let lines = program().args(common).args(["--duration=6s", "--no-tui"]).output().expect("the program runs");
    let text = stderr(&lines);
    assert!(text.contains("of 6 s  ") && text.contains("% within 500 ms"), "{text}");
}

#[test]
fn results_are_written_even_if_the_reader_of_standard_output_has_gone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let json = folder.path().join("run.json");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let (url, _arrivals) = record(None);
    let output = program()
        .args(["run", "--rate=20", "--duration=1s", "--table=1", "--size=32", "--url", &url, "--json"])
        .arg(&json)
        .stdout(writer)
        .output()
        .expect("the program runs");
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    assert!(std::fs::read_to_string(&json).expect("written").contains("\"attainment\": 1.0"));
}

#[test]
fn a_run_without_answers_has_no_latency() {
    let url = answering(|stream| drop(stream.write_all(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")));
    let run = run(&["--url", &url, "--rate=10", "--duration=1s"]);
    assert!(run.report["summary"]["latency_ms"].is_null());
    let printed = String::from_utf8_lossy(&run.output.stdout);
    assert!(printed.contains("p50 –, p90 –") && printed.contains("http_503"), "{printed}");
}

#[test]
fn a_terminal_shows_the_screen_and_q_stops_the_run() {
    // On other systems, script(1) has other flags.
    if !cfg!(target_os = "linux") || !Path::new("/usr/bin/script").exists() {
        eprintln!("skipped: script(1) of util-linux, which makes a terminal, is not installed");
        return;
    }
    let (url, arrivals) = record(None);
    let loadgen = env!("CARGO_BIN_EXE_loadgen");
    let line = format!(
        "stty rows 40 cols 120; {loadgen} run --url {url} --rate 50 --duration 60s --generate 3; echo status $?"
    );
    let mut script = Command::new("script")
        .args(["-qc", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script starts");
    until("requests arrive", || arrivals.times().len() > 50);
    script.stdin.take().expect("standard input is piped").write_all(b"q").expect("script reads its input");
    let output = script.wait_with_output().expect("the program ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // These escape sequences enter and leave the alternate screen.
    let (enter, leave) = (text.find("\u{1b}[?1049h"), text.find("\u{1b}[?1049l"));
    assert!(enter.is_some() && enter < leave, "{text:?}");
    let (screen, after) = text.split_at(leave.expect("checked above"));
    for word in ["in flight", "latency,", "highest"] {
        assert!(screen.contains(word), "{word} is not in {screen:?}");
    }
    assert!(after.contains("PARTIAL") && after.contains("status 130"), "{after:?}");
}

/// Waits until `done` is true, for 20 s at most. `event` is the awaited event in words, for the message.
fn until(event: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "not within 20 s: {event}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
