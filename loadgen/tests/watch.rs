//! The metrics of other programs that loadgen reads during a run: over real sockets, from servers that are slow, silent
//! or wrong.

mod common;

use common::{program, record, run, stderr};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Starts a server whose `/metrics` are the result of `answer` for the number of requests before. It closes the
/// connection without an answer if the result is `None`.
fn serve(address: &str, answer: impl Fn(usize) -> Option<String> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind(address).expect("a free port");
    let bound = listener.local_addr().expect("the listener has an address");
    let (answer, requests) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (answer, before) = (answer.clone(), requests.fetch_add(1, Ordering::Relaxed));
            std::thread::spawn(move || {
                let _request = stream.read(&mut [0; 4096]);
                if let Some(body) = answer(before) {
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                    let _sent = stream.write_all((head + &body).as_bytes());
                }
            });
        }
    });
    bound
}

/// The metrics of a dispatcher with this queue and these replicas in its rotation.
fn dispatcher(queue: u32, replicas: u32) -> String {
    format!(
        "# TYPE dispatcher_queue_length gauge\ndispatcher_queue_length {queue}\n\
        # TYPE dispatcher_replicas gauge\ndispatcher_replicas{{state=\"ejected\"}} 7\n\
        dispatcher_replicas{{state=\"ready\"}} {replicas}\n"
    )
}

/// The metrics of a scaler with these targets and the replicas that it asks for.
fn scaler(targets: &[(&str, u32)]) -> String {
    let line = |(target, count): &(&str, u32)| format!("scaler_desired_replicas{{target=\"{target}\"}} {count}\n");
    "scaler_build_info{version=\"1\"} 1\n".to_owned() + &targets.iter().map(line).collect::<String>()
}

/// The times and the values of one figure in a report.
fn series(report: &Value, figure: &str) -> Vec<(f64, f64)> {
    let glimpses = report["glimpses"].as_array().expect("the report has metrics");
    let point = |glimpse: &Value| Some((glimpse["at_seconds"].as_f64()?, glimpse[figure].as_f64()?));
    glimpses.iter().filter_map(point).collect()
}

#[test]
fn queues_of_several_dispatchers_are_added_and_their_replicas_count_once() {
    let (url, _arrivals) = record(None);
    let one = serve("127.0.0.1:0", |_| Some(dispatcher(4, 3)));
    let two = serve("127.0.0.1:0", |_| Some(dispatcher(5, 2)));
    let scaler = serve("127.0.0.1:0", |_| Some(scaler(&[("front", 6), ("back", 1)])));
    let mut flags = vec!["--rate=10".into(), "--duration=2s".into(), "--scaler-target=front".into()];
    // A repetition counts once.
    flags.extend([one, two, one, scaler].map(|address| format!("--scrape={address}")));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let run = run(&[&["--url", &url], &flags[..]].concat());
    assert!(matches!(run.status, Some(0 | 99)), "{}", stderr(&run.output));
    for (figure, expected) in [("queue_length", 9.0), ("replicas", 3.0), ("desired_replicas", 6.0)] {
        let series = series(&run.report, figure);
        assert!(series.len() >= 2 && series.iter().all(|&(_, value)| value == expected), "{figure}: {series:?}");
    }
    let usage = &run.report["summary"]["usage"];
    assert_eq!((&usage["source"], &usage["replica_seconds"]), (&"scaler".into(), &12.0.into()), "{usage}");
}

#[test]
fn a_silent_dispatcher_keeps_its_last_queue_for_three_seconds() {
    let (url, _arrivals) = record(None);
    // It answers the check before the load, and the first scrape.
    let silent = serve("127.0.0.1:0", |before| (before < 2).then(|| dispatcher(5, 2)));
    let other = serve("127.0.0.1:0", |_| Some(dispatcher(4, 3)));
    let scrape = [silent, other].map(|address| format!("--scrape={address}"));
    let run = run(&["--url", &url, "--rate=10", "--duration=5s", &scrape[0], &scrape[1]]);
    let queue = series(&run.report, "queue_length");
    let at = |from: f64, to: f64| queue.iter().filter(move |(at, _)| (from..to).contains(at)).map(|&(_, value)| value);
    assert!(at(0.0, 2.5).count() >= 2 && at(0.0, 2.5).all(|value| value == 9.0), "{queue:?}");
    assert!(at(3.5, 5.0).count() >= 1 && at(3.5, 5.0).all(|value| value == 4.0), "{queue:?}");
}

#[test]
fn slow_malformed_and_endless_answers_do_not_hold_up_the_others() {
    let (url, _arrivals) = record(None);
    let slow = serve("127.0.0.1:0", |before| {
        if before > 0 {
            std::thread::sleep(Duration::from_secs(20));
        }
        Some(dispatcher(100, 1))
    });
    let malformed = serve("127.0.0.1:0", |before| {
        Some(if before > 0 { "dispatcher_queue_length{\nwhat?".into() } else { dispatcher(100, 1) })
    });
    let endless = serve("127.0.0.1:0", |before| {
        Some(if before > 0 { "dispatcher_queue_length 7\n".repeat(1 << 20) } else { dispatcher(100, 1) })
    });
    let good = serve("127.0.0.1:0", |_| Some(dispatcher(4, 3)));
    let scrape = [slow, malformed, endless, good].map(|address| format!("--scrape={address}"));
    let scrape: Vec<&str> = scrape.iter().map(String::as_str).collect();
    let run = run(&[&["--url", &url, "--rate=10", "--duration=4s"], &scrape[..]].concat());
    assert!(matches!(run.status, Some(0 | 99)), "{}", stderr(&run.output));
    let queue = series(&run.report, "queue_length");
    assert!(queue.len() >= 3 && queue.iter().all(|&(_, value)| value == 4.0), "{queue:?}");
}

#[test]
fn a_name_stands_for_all_its_addresses() {
    let (url, _arrivals) = record(None);
    // Not every machine has this name for both families, so one address must be enough.
    let port = serve("127.0.0.1:0", |_| Some(dispatcher(4, 3))).port();
    let run = run(&["--url", &url, "--rate=10", "--duration=2s", &format!("--scrape=dns:localhost:{port}")]);
    assert!(matches!(run.status, Some(0 | 99)), "{}", stderr(&run.output));
    let queue = series(&run.report, "queue_length");
    assert!(queue.len() >= 2 && queue.iter().all(|&(_, value)| value == 4.0), "{queue:?}");
}

#[test]
fn the_host_of_the_url_is_read_besides_the_scaler_but_not_besides_other_dispatchers() {
    let (recorder, _arrivals) = record(None);
    // This server has the metrics of a dispatcher, and no answer to any request.
    let loaded = serve("127.0.0.1:0", |_| Some(dispatcher(8, 5)));
    let other = serve("127.0.0.1:0", |_| Some(dispatcher(4, 3)));
    let scaler = serve("127.0.0.1:0", |_| Some(scaler(&[("replica", 2)])));
    let report = |url: &str, flag: &str| {
        run(&["--url", url, "--rate=5", "--duration=2s", "--threshold=errors<=100", flag]).report
    };
    let besides = report(&format!("http://{loaded}/predict"), &format!("--scaler={scaler}"));
    assert!(series(&besides, "queue_length").iter().all(|&(_, value)| value == 8.0), "{besides}");
    assert!(series(&besides, "desired_replicas").iter().any(|&(_, value)| value == 2.0), "{besides}");
    let instead = report(&format!("http://{loaded}/predict"), &format!("--scrape={other}"));
    assert!(series(&instead, "queue_length").iter().all(|&(_, value)| value == 4.0), "{instead}");
    // A server that is no dispatcher has no metrics, and that is no error.
    let none = run(&["--url", &recorder, "--rate=10", "--duration=1s"]);
    assert!(matches!(none.status, Some(0 | 99)) && series(&none.report, "queue_length").is_empty());
}

#[test]
fn programs_that_cannot_be_read_are_named_before_any_request() {
    let (url, arrivals) = record(None);
    let unused = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let other = serve("127.0.0.1:0", |_| Some("http_requests_total 4\n".into()));
    let closing = serve("127.0.0.1:0", |_| None);
    let several = serve("127.0.0.1:0", |_| Some(scaler(&[("front", 6), ("back", 1)])));
    let scrape = |address: &dyn std::fmt::Display| format!("--scrape={address}");
    let many: Vec<String> = (1..=65).map(|port| format!("--scrape=127.0.0.1:{port}")).collect();
    let cases = [
        (1, vec![scrape(&unused)], vec!["--scrape", "connect to"]),
        (1, vec![format!("--scaler={unused}")], vec!["--scaler", "connect to"]),
        (1, vec![scrape(&other)], vec!["no metrics of a dispatcher or a scaler"]),
        (1, vec![scrape(&closing)], vec!["no complete HTTP answer"]),
        (1, vec![scrape(&several)], vec!["2 targets: back, front", "--scaler-target"]),
        (1, vec![scrape(&several), "--scaler-target=middle".into()], vec!["\"middle\"", "back, front"]),
        (1, vec!["--scaler-target=front".into()], vec!["--scaler-target needs", "--scrape HOST:PORT"]),
        (1, vec![scrape(&"dns:no-such-host.invalid:80")], vec!["resolve no-such-host.invalid:80"]),
        (1, many, vec!["65 times", "64"]),
        (2, vec![scrape(&"http://127.0.0.1:80")], vec!["without a scheme", "write HOST:PORT"]),
        (2, vec!["--metrics-listen=:9100".into()], vec!["127.0.0.1:9100"]),
    ];
    for (status, flags, words) in cases {
        let output = program()
            .args(["run", "--rate=5", "--duration=1s", "--generate=3", "--url", &url])
            .args(&flags)
            .output()
            .expect("the program runs");
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(status), "{flags:?}: {error}");
        assert!(words.iter().all(|word| error.contains(word)), "{flags:?}: {error}");
    }
    assert!(arrivals.times().is_empty(), "requests were sent");
}
