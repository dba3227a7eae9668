//! loadgen as a part of other programs: results on standard output and in files, results for CI systems, silence, and
//! loadgen's own metrics.

mod common;

use common::{program, record, stderr};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// Runs `loadgen run` for a second against a server that answers every request, with these flags.
fn run(flags: &[&str]) -> Output {
    let (url, _arrivals) = record(None);
    let common = ["run", "--rate=20", "--duration=1s", "--generate=3", "--size=32", "--url", &url];
    program().args(common).args(flags).output().expect("the program runs")
}

/// Whether the run came to its end. The status is 99 if this machine is too busy to send on time.
fn is_complete(status: ExitStatus) -> bool {
    matches!(status.code(), Some(0 | 99))
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_result_on_standard_output_is_alone_there() {
    for name in ["-", "/dev/stdout"] {
        let output = run(&["--json", name, "--table=1"]);
        assert!(is_complete(output.status), "{}", stderr(&output));
        assert_eq!(json(&stdout(&output))["summary"]["failed"], 0);
        // The summary and the table are for people, who still see them.
        assert!(stderr(&output).contains("attainment  100.00 %") && stderr(&output).contains(" time   offered"));
    }
    let csv = run(&["--csv=-", "--quiet"]);
    assert!(stdout(&csv).starts_with("second,offered,") && stdout(&csv).lines().count() == 2, "{csv:?}");
    assert_eq!(stderr(&csv), "");
    let plain = run(&["--json=/dev/null"]);
    assert!(stdout(&plain).contains("attainment  100.00 %") && stderr(&plain).is_empty(), "{plain:?}");
}

#[test]
fn a_result_in_the_file_that_standard_output_goes_to_is_not_overwritten_by_the_summary() {
    let (url, _arrivals) = record(None);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("run.json");
    let status = program()
        .args(["run", "--rate=20", "--duration=1s", "--generate=3", "--url", &url, "--json"])
        .arg(&path)
        .stdout(File::create(&path).expect("writable"))
        .stderr(Stdio::null())
        .status();
    assert!(is_complete(status.expect("the program runs")));
    assert_eq!(json(&std::fs::read_to_string(&path).expect("written"))["summary"]["failed"], 0);
}

#[test]
fn files_that_cannot_be_written_are_named_before_any_request() {
    let (url, arrivals) = record(None);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::create_dir(path("folder")).expect("created");
    std::fs::write(path("load.txt"), "5 5\n").expect("written");
    for flag in ["--json", "--html", "--csv", "--log", "--junit", "--markdown"] {
        let cases = [
            (vec![flag.to_owned(), path("no/such/folder/file")], "no/such/folder/file"),
            (vec![flag.to_owned(), path("folder")], "folder"),
            (vec![flag.to_owned(), path("load.txt")], "--workload and "),
        ];
        for (flags, words) in cases {
            let workload = path("load.txt");
            let output = program()
                .args(["run", "--generate=3", "--url", &url, "--workload", &workload])
                .args(&flags)
                .output()
                .expect("the program runs");
            let error = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{flags:?}: {error}");
            assert!(error.contains(words) && error.contains(flag), "{flags:?}: {error}");
        }
    }
    std::fs::write(path("token"), "secret").expect("written");
    let overwriting = run(&["--bearer-token-file", &path("token"), "--json", &path("token")]);
    assert_eq!(overwriting.status.code(), Some(1));
    assert!(stderr(&overwriting).contains("--bearer-token-file and --json both name"), "{overwriting:?}");
    assert_eq!(std::fs::read_to_string(path("token")).expect("kept"), "secret");
    let twice = run(&["--json=-", "--junit=-"]);
    assert_eq!((twice.status.code(), stdout(&twice)), (Some(1), String::new()));
    assert!(stderr(&twice).contains("--json and --junit both name standard output"), "{twice:?}");
    assert!(arrivals.times().is_empty(), "requests were sent");
    assert_eq!(std::fs::read_to_string(path("load.txt")).expect("kept"), "5 5\n");
}

#[test]
fn the_result_of_an_earlier_run_does_not_outlive_a_run_that_fails() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (old, bad) = (folder.path().join("run.json"), folder.path().join("bad.txt"));
    std::fs::write(&bad, "five\n").expect("written");
    let unused = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let url = format!("--url=http://{unused}/predict");
    let run = |flags: &[&str]| {
        std::fs::write(&old, "an earlier result").expect("writable");
        let output = program().args(["run", &url]).args(flags).arg("--json").arg(&old).output();
        assert_eq!(output.expect("the program runs").status.code(), Some(1));
        std::fs::read_to_string(&old).expect("the file exists")
    };
    assert_eq!(run(&["--rate=5", "--duration=1s"]), "");
    // Nothing was begun if the command line or the workload is wrong.
    assert_eq!(run(&["--workload", &bad.display().to_string()]), "an earlier result");
}

#[test]
fn a_full_disk_costs_one_file_and_not_the_others() {
    if !Path::new("/dev/full").exists() {
        eprintln!("skipped: this system has no /dev/full");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let output = run(&["--json=/dev/full", "--csv", &path("run.csv"), "--log=/dev/full", "--html", &path("run.html")]);
    let error = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert_eq!(error.matches("write /dev/full: ").count(), 2, "{error}");
    assert!(stdout(&output).contains("attainment  100.00 %"), "the summary is printed nevertheless");
    assert!(std::fs::read_to_string(path("run.csv")).expect("written").starts_with("second,offered"));
    assert!(std::fs::read_to_string(path("run.html")).expect("written").contains("</html>"));
    let (url, _arrivals) = record(None);
    let full = File::options().write(true).open("/dev/full").expect("everyone may write it");
    let to_stdout = program()
        .args(["run", "--rate=20", "--duration=1s", "--generate=3", "--json=-", "--url", &url])
        .stdout(full)
        .output()
        .expect("the program runs");
    assert_eq!(to_stdout.status.code(), Some(1));
    assert!(stderr(&to_stdout).contains("write standard output: "), "{to_stdout:?}");
}

#[test]
fn a_named_pipe_gets_the_result() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pipe = folder.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo is a part of every system");
    assert!(made.success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::read_to_string(pipe).expect("loadgen writes text")
    });
    let output = run(&["--json", &pipe.display().to_string()]);
    assert!(is_complete(output.status), "{}", stderr(&output));
    assert_eq!(json(&reader.join().expect("the reader ends"))["summary"]["failed"], 0);
}

#[test]
fn results_for_ci_systems_name_the_breached_threshold() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (junit, markdown) = (path("junit.xml"), path("summary.md"));
    let thresholds = ["--threshold=errors<=0", "--threshold=goodput>1000", "--name=a <b> & \"c\""];
    let output = run(&[&thresholds[..], &["--junit", &junit, "--markdown", &markdown]].concat());
    assert_eq!(output.status.code(), Some(99), "{}", stderr(&output));
    let junit = std::fs::read_to_string(junit).expect("written");
    for words in [
        "<testsuite name=\"a &lt;b&gt; &amp; &quot;c&quot;\" tests=\"4\"",
        "name=\"errors&lt;=0\"",
        "message=\"goodput&gt;1000: breached, at ",
        "name=\"the run is complete\"",
    ] {
        assert!(junit.contains(words), "{words} is not in\n{junit}");
    }
    let markdown = std::fs::read_to_string(markdown).expect("written");
    for words in ["### Load test: a &lt;b&gt; &amp; \"c\"", "1 of 2 thresholds were breached", "❌ breached", "✅ held"]
    {
        assert!(markdown.contains(words), "{words} is not in\n{markdown}");
    }
    let printed = run(&["--markdown=-", "--quiet"]);
    assert!(stdout(&printed).starts_with("### Load test: 20/s") && stderr(&printed).is_empty(), "{printed:?}");
}

#[test]
fn every_file_of_a_stopped_run_is_partial_and_says_so() {
    let (url, arrivals) = record(None);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    let load = program()
        .args(["run", "--rate=50", "--duration=60s", "--generate=3", "--quiet", "--url", &url])
        .arg("--json")
        .arg(path("run.json"))
        .arg("--junit")
        .arg(path("run.xml"))
        .arg("--markdown")
        .arg(path("run.md"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("loadgen starts");
    until("requests arrive", || arrivals.times().len() > 20);
    kill_process(Pid::from_child(&load), Signal::INT).expect("loadgen is a child of this test");
    let output = load.wait_with_output().expect("the program ends");
    assert_eq!((output.status.code(), stdout(&output), stderr(&output)), (Some(130), String::new(), String::new()));
    let read = |name: &str| std::fs::read_to_string(path(name)).expect("written");
    assert_eq!(json(&read("run.json"))["is_complete"], false);
    assert!(read("run.xml").contains("message=\"the run was stopped after"));
    assert!(read("run.md").contains("**Partial**"));
}

#[test]
fn quiet_is_quiet_also_on_a_terminal() {
    // On other systems, script(1) has other flags.
    if !cfg!(target_os = "linux") || !Path::new("/usr/bin/script").exists() {
        eprintln!("skipped: script(1) of util-linux, which makes a terminal, is not installed");
        return;
    }
    let (url, _arrivals) = record(None);
    let loadgen = env!("CARGO_BIN_EXE_loadgen");
    let line = format!(
        "{loadgen} run --quiet --table 1 --metrics-listen 127.0.0.1:0 --url {url} --rate 20 --duration 1s \
         --generate 300 --size 64; echo status $?"
    );
    let mut script = Command::new("script")
        .args(["-qc", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script starts");
    // script(1) would print the end of its input.
    let _open_input = script.stdin.take();
    let text = stdout(&script.wait_with_output().expect("the program ends"));
    assert!(["status 0", "status 99"].contains(&text.trim()), "{text:?}");
}

#[test]
fn the_metrics_of_loadgen_can_be_read_during_a_run() {
    let (url, arrivals) = record(None);
    let mut load = program()
        .args(["run", "--rate=50", "--duration=60s", "--generate=3", "--objective=750ms", "--url", &url])
        .arg("--metrics-listen=127.0.0.1:0")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("loadgen starts");
    let mut line = String::new();
    let mut errors = BufReader::new(load.stderr.take().expect("standard error is piped"));
    errors.read_line(&mut line).expect("loadgen prints the address");
    let address = line.trim().strip_prefix("metrics     http://").and_then(|rest| rest.strip_suffix("/metrics"));
    let address = address.unwrap_or_else(|| panic!("{line:?} has no address")).to_owned();
    until("requests arrive", || arrivals.times().len() > 50);
    // Samples are collected every 200 ms.
    until("a bucket has answers", || {
        value(&get(&address, "/metrics"), "loadgen_request_duration_seconds_count") > 25.0
    });
    let text = get(&address, "/metrics");
    let (offered, answered) =
        (value(&text, "loadgen_offered_total"), value(&text, "loadgen_requests_total{code=\"answered\"}"));
    assert!(offered >= answered && answered > 25.0, "{text}");
    assert!(value(&text, "loadgen_request_duration_seconds_bucket{le=\"0.75\"}") > 25.0, "{text}");
    assert!(get(&address, "/else").starts_with("HTTP/1.1 404"), "{}", get(&address, "/else"));
    // A second loadgen cannot have the same address.
    let second = run(&["--metrics-listen", &address]);
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains(&format!("listen on {address} (--metrics-listen)")), "{second:?}");
    kill_process(Pid::from_child(&load), Signal::INT).expect("loadgen is a child of this test");
    assert_eq!(load.wait().expect("the program ends").code(), Some(130));
}

/// The whole answer to `GET path`.
fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("loadgen listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("loadgen reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("loadgen answers with text");
    answer
}

/// The value of the series with this name and these labels; 0 if there is none.
fn value(text: &str, series: &str) -> f64 {
    let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    found.map_or(0.0, |value| value.parse().expect("a number"))
}

/// Waits until `done` is true, for 20 s at most. `event` is the awaited event in words, for the message.
fn until(event: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "not within 20 s: {event}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
