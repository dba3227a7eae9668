//! Runs against a server that records when each request arrives. The requests must arrive as scheduled, and the report
//! must agree with the log of the requests.

mod common;

use common::{record, run};
use std::time::Duration;
use workload::Workload;
use workload::arrivals::{self, ArrivalProcess};

/// The Kolmogorov–Smirnov distance: the largest difference between the distribution function of `gaps` and that of the
/// exponential distribution with this `mean`. Gaps and mean are in seconds.
fn distance_from_exponential(mut gaps: Vec<f64>, mean: f64) -> f64 {
    gaps.sort_by(f64::total_cmp);
    let n = gaps.len() as f64;
    let distances = gaps.iter().enumerate().map(|(rank, gap)| {
        let exact = 1.0 - (-gap / mean).exp();
        (exact - rank as f64 / n).abs().max(((rank + 1) as f64 / n - exact).abs())
    });
    distances.fold(0.0, f64::max)
}

#[test]
fn the_server_receives_every_scheduled_request_with_exponential_gaps() {
    let (url, arrivals) = record(None);
    let run = run(&["--url", &url, "--rate=150", "--duration=8s", "--seed=4"]);
    let schedule = arrivals::schedule(&Workload::constant(150.0, Duration::from_secs(8)), ArrivalProcess::Poisson, 4);
    let received = arrivals.times();
    assert_eq!((run.status, received.len()), (Some(0), schedule.len()), "{}", common::stderr(&run.output));
    assert_eq!(run.report["summary"]["answered"], schedule.len());
    let gaps: Vec<f64> = received.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    // By chance, the distance exceeds this bound once in 100 times.
    let bound = 1.63 / (gaps.len() as f64).sqrt();
    let distance = distance_from_exponential(gaps, 1.0 / 150.0);
    assert!(distance < bound, "{distance} is not below {bound}");
    let logged: Vec<Duration> = run.requests.iter().map(|request| request.scheduled).collect();
    let micros = |times: &[Duration]| times.iter().map(Duration::as_micros).collect::<Vec<_>>();
    assert_eq!(micros(&logged), micros(&schedule));
}

#[test]
fn a_stalled_server_delays_every_request_that_is_scheduled_meanwhile() {
    let length = Duration::from_secs(1);
    let (url, _arrivals) = record(Some((Duration::from_millis(995), length)));
    let run = run(&["--url", &url, "--rate=100", "--duration=3s", "--arrivals=uniform"]);
    common::check_stall(&run, length);
}

#[test]
fn reported_percentiles_are_those_of_the_request_log() {
    let (url, _arrivals) = record(Some((Duration::from_millis(500), Duration::from_millis(300))));
    let run = run(&["--url", &url, "--rate=300", "--duration=3s", "--arrivals=gamma:2"]);
    let mut latencies: Vec<f64> = run.requests.iter().map(|request| request.latency.as_secs_f64() * 1e3).collect();
    latencies.sort_by(f64::total_cmp);
    for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)] {
        let rank = (quantile * latencies.len() as f64).ceil() as usize;
        let (exact, reported) = (latencies[rank - 1], run.report["summary"]["latency_ms"][name].as_f64());
        let reported = reported.expect("the report has this percentile");
        assert!((reported / exact - 1.0).abs() <= 1e-3, "{name}: {reported} is not {exact}");
    }
    let within = latencies.iter().filter(|&&latency| latency <= 500.0).count() as f64 / latencies.len() as f64;
    assert_eq!(run.report["summary"]["attainment"].as_f64(), Some(within));
}

#[test]
fn a_replayed_file_is_followed_second_by_second_and_no_figure_contains_its_warm_up() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("workload.txt");
    std::fs::write(&file, "3 0\t9 # a comment\n\n 4").expect("written");
    let (url, arrivals) = record(None);
    let workload = format!("--workload={}", file.display());
    let run = run(&["--url", &url, &workload, "--arrivals=replayed", "--warmup=1s", "--repeat=2", "--time-scale=0.5"]);
    // The time scale makes two seconds of the four, with (3 + 0) / 2 and (9 + 4) / 2 requests. They are played twice,
    // and `replayed` rounds the sums.
    let offered: Vec<u64> = run.report["seconds"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| row["offered"].as_u64().expect("a number"))
        .collect();
    assert_eq!((offered.iter().sum::<u64>(), offered.len()), (16, 4), "{offered:?}");
    assert_eq!(run.requests.len(), 16);
    let in_warmup = arrivals.times().len() - 16;
    assert!((1..=2).contains(&in_warmup), "{in_warmup} requests in a warm-up of 1.5/s");
}

#[test]
fn a_closed_load_sends_a_request_as_soon_as_one_is_answered() {
    let (url, arrivals) = record(None);
    let run = run(&["--url", &url, "--closed=3", "--duration=500ms"]);
    common::check_made(&run.output);
    let sent = arrivals.times().len();
    assert!(sent > 30, "{sent}");
    assert_eq!(run.report["summary"]["answered"], sent);
    assert_eq!(run.report["setup"]["load"], "3 at a time");
}
