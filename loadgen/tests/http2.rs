//! Runs over HTTP/2: how requests share connections, and what happens when a server takes no more of them, leaves or
//! stalls.

mod common;

use common::server::{self, ANSWER, Ending, Reply, Settings};
use common::{FinishedRun, check_made, program, run, stderr};
use std::net::TcpListener;
use std::sync::Mutex;
use std::time::{Duration, Instant};

fn http2(settings: Settings) -> Settings {
    Settings { is_http2: true, ..settings }
}

/// An answer after `milliseconds`.
fn slow(milliseconds: u64) -> Reply {
    Reply { after: Duration::from_millis(milliseconds), ..Reply::ok(ANSWER) }
}

fn check_all_answered(run: &FinishedRun) {
    let summary = &run.report["summary"];
    check_made(&run.output);
    assert_eq!(summary["answered"], summary["offered"], "{summary}");
}

#[test]
fn requests_share_a_connection_and_say_what_the_url_and_the_headers_say() {
    let heads = std::sync::Arc::new(Mutex::new(Vec::new()));
    let recorded = heads.clone();
    let (address, seen) = server::start(http2(Settings::default()), move |head, body| {
        let authority = head.uri.authority().map(ToString::to_string).unwrap_or_default();
        let is_whole = head.headers["content-length"].to_str().ok() == Some(&body.len().to_string());
        let line =
            format!("{authority} {} {} {is_whole}", head.uri.path(), head.headers["content-type"].to_str().unwrap());
        recorded.lock().expect("no thread panics").push(line);
        slow(50)
    });
    let url = format!("--url=http://{address}/predict");
    let load = ["--rate=200", "--duration=1s", "--arrivals=uniform", "--http2"];
    let result = run(&[&load[..], &[&url]].concat());
    check_all_answered(&result);
    assert_eq!((seen.connections(), seen.requests()), (1, 200));
    assert!((5..=30).contains(&seen.most_streams()), "{} streams", seen.most_streams());
    let expected = format!("{address} /predict image/jpeg true");
    assert!(heads.lock().expect("no thread panics").iter().all(|line| *line == expected), "{heads:?}");
    // The header Host becomes the authority.
    heads.lock().expect("no thread panics").clear();
    check_all_answered(&run(&[&load[..], &[&url, "--header=Host: a.example"]].concat()));
    assert!(heads.lock().expect("no thread panics")[0].starts_with("a.example /predict"), "{heads:?}");
}

#[test]
fn a_connection_is_opened_when_all_have_as_many_requests_as_the_user_or_the_server_permits() {
    for (settings, flags) in [
        (Settings { max_streams: Some(2), ..Settings::default() }, &[][..]),
        (Settings::default(), &["--streams=2"]),
        (Settings { max_streams: Some(2), ..Settings::default() }, &["--connections=5"]),
    ] {
        let (address, seen) = server::start(http2(settings), |_, _| slow(100));
        let url = format!("--url=http://{address}/predict");
        // Ten requests at a time, of which each connection takes two.
        let load = ["--closed=10", "--duration=2s", "--http2"];
        let result = run(&[&load[..], &[&url], flags].concat());
        check_all_answered(&result);
        assert_eq!(seen.most_streams(), 2, "{flags:?}");
        assert!((5..=10).contains(&seen.connections()), "{} connections with {flags:?}", seen.connections());
        assert!(seen.requests() > 100, "{} requests with {flags:?}", seen.requests());
    }
}

#[test]
fn with_all_connections_full_a_request_waits_for_a_stream() {
    let settings = Settings { max_streams: Some(2), ..Settings::default() };
    let (address, seen) = server::start(http2(settings), |_, _| slow(50));
    let url = format!("--url=http://{address}/predict");
    let result = run(&["--closed=10", "--duration=1s", "--http2", "--connections=1", &url]);
    check_all_answered(&result);
    assert_eq!((seen.most_streams(), seen.connections()), (2, 1));
}

#[test]
fn a_server_that_leaves_with_goaway_loses_no_request() {
    let settings = Settings { ending: Some((30, Ending::GoAway)), ..Settings::default() };
    let (address, seen) = server::start(http2(settings), |_, _| slow(40));
    let url = format!("--url=http://{address}/predict");
    let result = run(&["--rate=200", "--duration=1s", "--arrivals=uniform", "--http2", &url]);
    check_all_answered(&result);
    assert_eq!((seen.connections(), seen.requests()), (2, 200));
}

#[test]
fn a_lost_connection_fails_only_its_own_requests() {
    let settings = Settings { ending: Some((30, Ending::Close)), ..Settings::default() };
    let (address, seen) = server::start(http2(settings), |_, _| slow(40));
    let url = format!("--url=http://{address}/predict");
    let result = run(&["--rate=200", "--duration=1s", "--arrivals=uniform", "--http2", &url]);
    let summary = &result.report["summary"];
    let failed = summary["failed"].as_u64().expect("a number");
    // 40 ms have 8 requests.
    assert!((1..=20).contains(&failed), "{summary}");
    assert_eq!(summary["errors"]["reset"], failed, "{summary}");
    assert_eq!(seen.connections(), 2);
}

#[test]
fn a_stalled_connection_fails_only_its_own_requests() {
    // Forty requests get no answer. They fill the first connection.
    let stalled = Mutex::new(0);
    let (address, seen) = server::start(http2(Settings::default()), move |_, _| {
        let mut count = stalled.lock().expect("no thread panics");
        *count += 1;
        if (20..60).contains(&*count) { slow(60_000) } else { slow(0) }
    });
    let url = format!("--url=http://{address}/predict");
    let result =
        run(&["--rate=100", "--duration=2s", "--arrivals=uniform", "--http2", "--streams=40", "--timeout=500ms", &url]);
    let summary = &result.report["summary"];
    assert_eq!(summary["errors"]["client_timeout"], 40, "{summary}");
    assert_eq!((summary["failed"].as_u64(), seen.requests()), (Some(40), 200), "{summary}");
}

#[test]
fn a_dead_connection_is_left_after_the_first_timeout() {
    // No request of the first third of a second gets an answer, so the first connection never has one.
    let (address, seen) = {
        let first = Mutex::new(None::<Instant>);
        server::start(http2(Settings::default()), move |_, _| {
            let mut first = first.lock().expect("no thread panics");
            let since = first.get_or_insert_with(Instant::now).elapsed();
            if since < Duration::from_millis(330) { slow(60_000) } else { slow(0) }
        })
    };
    let url = format!("--url=http://{address}/predict");
    let result = run(&["--rate=20", "--duration=2s", "--arrivals=uniform", "--http2", "--timeout=300ms", &url]);
    let summary = &result.report["summary"];
    let failed = summary["failed"].as_u64().expect("a number");
    assert!((5..=8).contains(&failed), "{summary}");
    assert_eq!(seen.connections(), 2, "the connection without answers, and the one after it");
}

#[test]
fn a_server_without_http2_is_refused_before_the_run() {
    let (address, seen) = server::start(Settings::default(), |_, _| Reply::ok(ANSWER));
    // This server says nothing at all.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let silent_address = silent.local_addr().expect("an address");
    for (address, words) in [(address, "does not speak HTTP/2"), (silent_address, "within 5s")] {
        let url = format!("--url=http://{address}/predict");
        let output = program()
            .args(["run", "--rate=5", "--duration=1s", "--generate=3", "--http2", &url])
            .output()
            .expect("the program runs");
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(seen.requests(), 0);
    drop(silent);
}
