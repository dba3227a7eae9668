//! `lab backtest` on a history that the test has written into a real Prometheus, so that the expected figures are
//! known.

use crate::server::{archive, skipped};
use admission::Order;
use hyper::Request;
use hyper::body::Incoming;
use indicatif::ProgressBar;
use lab::backtest::history::History;
use lab::backtest::history_reader::{Error, HistoryReader};
use lab::backtest::period::Period;
use lab::simulate::plant::Plant;
use lab::simulate::plant::disturbances::Disturbances;
use lab::simulate::plant::settings::PlantSettings;
use lab::simulate::requests::generate;
use lab::simulate::time_distribution::TimeDistribution;
use law::histogram::Histogram;
use readings::prometheus::client::Client;
use serde_json::Value;
use service::respond;
use std::fmt::Write;
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;
use tokio::process::Command;
use workload::arrivals::ArrivalProcess;
use workload::shape::Shape;

/// The label matchers of the dispatchers of a test. All samples have this label.
const SELECTOR: &str = "namespace=\"shop\"";

/// The time between two scrapes, in seconds.
const SCRAPE: u64 = 15;

/// An hour in seconds.
const HOUR: u64 = 3600;

/// A day in seconds.
const DAY: u64 = 24 * HOUR;

/// The text of a file in the OpenMetrics format.
#[derive(Default)]
struct Text(String);

impl Text {
    /// Adds a sample with `labels` and [`SELECTOR`]. `at` is in seconds since 1970.
    fn sample(&mut self, name: &str, labels: &str, value: f64, at: u64) {
        writeln!(self.0, "{name}{{{labels},{SELECTOR}}} {value} {at}").expect("writing to a string cannot fail");
    }

    fn histogram(&mut self, name: &str, labels: &str, histogram: &Histogram, at: u64) {
        for &(bound, count) in &histogram.buckets {
            let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".into() };
            self.sample(&format!("{name}_bucket"), &format!("{labels},le=\"{bound}\""), count, at);
        }
        self.sample(&format!("{name}_sum"), labels, histogram.sum, at);
        self.sample(&format!("{name}_count"), labels, histogram.count(), at);
    }

    fn end(self) -> String {
        self.0 + "# EOF\n"
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is past 1970").as_secs()
}

/// The figures of one dispatcher at one scrape.
struct DispatcherScrape<'a> {
    instance: &'a str,
    admitted: f64,
    shed: Option<f64>,
    outcomes: &'a [(&'a str, f64)],
    /// Whether this is the newer of two versions with different buckets. The older version has a bucket up to 0.1 s
    /// with 50 % of the answers. The newer version has a bucket up to 0.2 s with 70 % of them. Both have 90 % within
    /// 0.5 s.
    is_newer: bool,
    replicas: f64,
}

impl DispatcherScrape<'_> {
    fn write(&self, text: &mut Text, at: u64) {
        let Self { admitted, replicas, .. } = *self;
        let instance = format!("instance=\"{}\"", self.instance);
        let with = |label: &str, value: &str| format!("{instance},{label}=\"{value}\"");
        text.sample("dispatcher_enqueued_requests_total", &instance, admitted, at);
        if let Some(shed) = self.shed {
            text.sample("dispatcher_shed_total", &with("reason", "overloaded"), shed, at);
        }
        for (code, count) in self.outcomes {
            text.sample("dispatcher_requests_total", &with("code", code), *count, at);
        }
        let first = if self.is_newer { (0.2, 0.7 * admitted) } else { (0.1, 0.5 * admitted) };
        let buckets = vec![first, (0.5, 0.9 * admitted), (f64::INFINITY, admitted)];
        let latency = Histogram { buckets, sum: 0.2 * admitted };
        text.histogram("dispatcher_request_duration_seconds", &instance, &latency, at);
        let buckets = vec![(0.05, 0.0), (0.1, admitted), (f64::INFINITY, admitted)];
        let service = Histogram { buckets, sum: 0.08 * admitted };
        text.histogram("dispatcher_replica_work_seconds", &instance, &service, at);
        text.sample("dispatcher_capacity", &instance, 2.0 * replicas, at);
        text.sample("dispatcher_replicas", &with("state", "ready"), replicas, at);
        text.sample("dispatcher_replicas", &with("state", "ejected"), 9.0, at);
    }
}

/// Adds the scrapes of 22 hours, numbered from 0 to 5280, of which the first is at `first`. The scrapes of `a` lie on
/// the points of the period, and the others lie between them. Two hours after the first scrape, Prometheus is down for
/// an hour. `b` is replaced by `c` after 8 hours. `a` restarts as a newer version after 10 hours.
fn day(text: &mut Text, first: u64) {
    for scrape in (0..=480).chain(720..=5280_u64) {
        let at = first + scrape * SCRAPE;
        let replicas = if (1920..2880).contains(&scrape) { 3.0 } else { 2.0 };
        let is_newer = scrape >= 2400;
        let a = DispatcherScrape {
            instance: "a:5052",
            admitted: if is_newer { 10 + 30 * (scrape - 2400) } else { 1000 + 30 * scrape } as f64,
            shed: (1200..2400).contains(&scrape).then_some(40.0),
            outcomes: match scrape {
                1440..2400 => &[("ok", 9.0), ("replica_failed", 3.0)],
                3000.. => &[("ok", 9.0), ("deadline_exceeded", 5.0)],
                _ => &[("ok", 9.0)],
            },
            is_newer,
            replicas,
        };
        a.write(text, at);
        let at = at - 4;
        let (instance, admitted) = match scrape {
            0..=1920 => ("b:5052", 500 + 20 * scrape),
            1924.. => ("c:5052", 10 + 20 * (scrape - 1924)),
            _ => continue,
        };
        let admitted = admitted as f64;
        DispatcherScrape { instance, admitted, shed: None, outcomes: &[], is_newer: scrape > 1920, replicas }
            .write(text, at);
        for (replica, startup) in [("r1", 4.5), ("r2", 4.5), ("r3", 9.0)] {
            text.sample("replica_startup_seconds", &format!("instance=\"{replica}\""), startup, at);
        }
    }
}

async fn read(client: &Client, selector: &str, period: Period) -> Result<History, Error> {
    HistoryReader { client, selector, period }.read(&ProgressBar::hidden()).await
}

#[tokio::test]
async fn every_request_of_a_recorded_day_is_found() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let period = Period { start: now() - 26 * HOUR, step: SCRAPE, steps: 5760 };
    let mut text = Text::default();
    day(&mut text, period.start + HOUR);
    let Some((_server, base)) = archive(folder.path(), &text.end()).await else { return skipped() };
    let client = Client::new(base, None).expect("no token");
    let history = read(&client, SELECTOR, period).await.expect("there is a history");

    // The terms of `a` are: the requests before the gap, those after it, the counts of the newer version at its first
    // scrape, and its later requests.
    let a = 30.0 * 480.0 + 30.0 * 1679.0 + 10.0 + 30.0 * 2880.0;
    let (b, c) = (20.0 * 480.0 + 20.0 * 1200.0, 20.0 * 3356.0);
    let (admitted, shed) = (a + b + c, 40.0);
    assert_eq!(history.load.total(), admitted + shed);
    assert_eq!((history.shed, history.dispatchers, history.restarts), (shed, 3, 1));
    // Three of the 24 hours are unknown: one before all scrapes, one in the gap, and one after all scrapes.
    assert_eq!(history.load.unknown(), 3.0 / 24.0);
    let workload = history.load.workload();
    let second = |hour: u64, second: u64| workload.per_second[(hour * HOUR + second) as usize];
    assert_eq!(workload.per_second.len() as u64, DAY);
    assert_eq!((second(0, 3599), second(1, 0), second(1, 900)), (0.0, 50.0 / 15.0, 50.0 / 15.0));
    assert_eq!((second(2, 3599), second(3, 0), second(3, 3599), second(4, 0)), (50.0 / 15.0, 0.0, 0.0, 50.0 / 15.0));
    assert_eq!(second(6, 0), 50.0 / 15.0);
    assert_eq!(second(5, 3599), 90.0 / 15.0, "50 requests were admitted and 40 were refused in that step");

    let answers = history.answers.as_ref().expect("the answers are plausible");
    assert_eq!(answers.latency.count(), admitted);
    assert_eq!(answers.latency.buckets.len(), 2, "only the bounds that both versions have remain");
    let near = |found: Option<f64>, expected: f64| {
        assert!(found.is_some_and(|found| (found - expected).abs() < 1e-9), "{found:?} {expected}");
    };
    near(answers.work.mean(), 0.08);
    assert_eq!((history.slots, history.startup), (Some(2), Some(Duration::from_millis(4500))));
    let row = history.recorded(Duration::from_millis(500));
    near(row.attainment, (0.9 * admitted - 3.0) / (admitted + shed));
    near(row.shed, shed / (admitted + shed));
    near(row.expired, 5.0 / (admitted + shed));
    // 90 % of the answers are within 0.5 s, so the median lies at 5/9 of that bucket. The other percentiles lie in the
    // last bucket, so they are its lower bound.
    near(row.p50_seconds, 0.5 * 5.0 / 9.0);
    assert_eq!((row.p95_seconds, row.p99_seconds), (Some(0.5), Some(0.5)));
    let replica_hours = 2.0 * 2.0 + 5.0 * 2.0 + 4.0 * 3.0 + 10.0 * 2.0;
    assert_eq!(row.replica_seconds, Some(3600.0 * replica_hours));
    assert_eq!((row.peak, row.changes), (Some(3), Some(2.0)));
    // An objective of 600 ms lies in the last bucket, so its attainment is not known.
    assert_eq!(history.recorded(Duration::from_millis(600)).attainment, None);

    let error = read(&client, "namespace=\"nowhere\"", period).await.expect_err("no samples").to_string();
    for word in ["namespace=\"nowhere\"", "--prometheus-selector", "--since", "5m"] {
        assert!(error.contains(word), "{error}");
    }
    let before = Period { start: period.start - DAY, ..period };
    assert!(matches!(read(&client, SELECTOR, before).await, Err(Error::NoSamples { .. })));
    let error = read(&client, "namespace==\"shop\"", period).await.expect_err("the selector is invalid").to_string();
    assert!(error.contains("refused") && error.contains("parse error"), "{error}");
}

#[tokio::test]
async fn every_request_is_found_if_a_period_takes_several_queries() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let period = Period { start: now() - 31 * DAY, step: 60, steps: 30 * 24 * 60 };
    assert_eq!(period.ranges().count(), 4);
    let mut text = Text::default();
    // There are scrapes in five hours: at both ends of the period, and where one query ends and the next begins.
    let hours = [0, 11_000 - 30, 22_000 - 30, 33_000 - 30, period.steps - 60];
    for hour in hours {
        for point in hour..=hour + 60 {
            let at = period.at(point);
            text.sample("dispatcher_enqueued_requests_total", "instance=\"a:5052\"", 60.0 * point as f64, at);
        }
    }
    let Some((_server, base)) = archive(folder.path(), &text.end()).await else { return skipped() };
    let client = Client::new(base, None).expect("no token");
    let bar = ProgressBar::hidden();
    let history = HistoryReader { client: &client, selector: "", period }.read(&bar).await.expect("there is a history");
    assert_eq!(history.load.total(), 60.0 * 60.0 * 5.0);
    let workload = history.load.workload();
    for hour in hours {
        let rates = &workload.per_second[hour * 60..(hour + 60) * 60];
        assert!(rates.iter().all(|rate| *rate == 1.0), "point {hour}");
    }
    assert!((1.0 - history.load.unknown() - 5.0 / 720.0).abs() < 1e-4, "{}", history.load.unknown());
    // The reader makes four queries for the counters, and ten for the ends of five spans.
    assert_eq!((bar.position(), bar.length()), (14, Some(14)));
    // Figures that were not recorded are unknown, and not zero.
    let row = history.recorded(Duration::from_millis(500));
    assert_eq!((row.attainment, row.p50_seconds, row.replica_seconds), (None, None, None));
    assert_eq!((row.peak, row.changes, row.expired, history.slots, history.startup), (None, None, None, None, None));
}

/// Adds the samples of a simulated dispatcher with three replicas over two hours, in which the replicas are overloaded
/// now and then. `first` is the time of the first sample. Returns the number of offered requests and the number of
/// requests that were answered in time.
fn simulated(text: &mut Text, first: u64) -> (f64, f64) {
    let service_times = TimeDistribution::new(Duration::from_millis(55), 0.2);
    let settings = PlantSettings {
        order: Order::LateLast,
        objective: Duration::from_millis(500),
        deadline: Duration::from_secs(5),
        max_queue_length: 1000,
        slots: 1,
        workers: 1,
        max_batch: 1,
        batch_growth: 1.0,
        service_times: service_times.clone(),
        startup: Duration::ZERO,
        starts_per_second: f64::INFINITY,
        max_placed: 100,
        cores: f64::INFINITY,
        disturbances: Disturbances::NONE,
    };
    let shape: Shape = "square:low=10,high=62,period=600,length=7200".parse().expect("a shape");
    let workload = shape.workload();
    let mut requests = generate(&workload, ArrivalProcess::Poisson, &service_times, 99).peekable();
    let mut plant = Plant::new(settings, 3, 1);
    let labels = "instance=\"a:5052\",job=\"dispatcher\"";
    let with = |label: &str| format!("{labels},{label}");
    for scrape in 0..=480 {
        let since = scrape * SCRAPE;
        plant.run(&mut requests, Duration::from_secs(since));
        let (seen, totals, at) = (plant.observe(), plant.totals().clone(), first + since);
        let (offered, shed) = (totals.offered as f64, totals.shed as f64);
        text.sample("dispatcher_enqueued_requests_total", labels, offered - shed, at);
        if shed > 0.0 {
            text.sample("dispatcher_shed_total", &with("reason=\"overloaded\""), shed, at);
        }
        text.sample("dispatcher_requests_total", &with("code=\"ok\""), seen.latency.count(), at);
        text.sample("dispatcher_capacity", labels, seen.capacity, at);
        text.sample("dispatcher_replicas", &with("state=\"ready\""), seen.replicas.ready as f64, at);
        // As with a real dispatcher, the series of a histogram appear with its first sample.
        if seen.latency.count() > 0.0 {
            text.histogram("dispatcher_request_duration_seconds", labels, &seen.latency, at);
            text.histogram("dispatcher_replica_work_seconds", labels, &seen.service, at);
        }
    }
    (plant.totals().offered as f64, plant.totals().in_time as f64)
}

#[tokio::test]
async fn a_backtest_with_the_recorded_number_of_replicas_has_the_recorded_attainment() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut text = Text::default();
    let (offered, in_time) = simulated(&mut text, now() - 3 * HOUR);
    assert!(in_time < 0.99 * offered, "the replicas are overloaded now and then");
    let Some((_server, base)) = archive(folder.path(), &text.end()).await else { return skipped() };
    let (json, html) = (folder.path().join("json"), folder.path().join("html"));
    let mut program = Command::new(env!("CARGO_BIN_EXE_lab"));
    program
        .args(["backtest", "--since=4h", "--seeds=2", "--policy=fixed:3,slo", "--max=8"])
        .args(["--prometheus", &base.to_string(), "--prometheus-selector", SELECTOR])
        .args(["--json".as_ref(), json.as_os_str(), "--html".as_ref(), html.as_os_str()]);
    let output = program.kill_on_drop(true).output().await.expect("lab can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let report: Value = serde_json::from_slice(&std::fs::read(json).expect("written")).expect("JSON");
    let (history, rows) = (&report["history"], &report["workloads"][0]);
    assert_eq!(history["requests"], offered);
    assert_eq!((&history["slots"]["value"], &history["slots"]["source"]), (&1.into(), &"recorded".into()));
    assert_eq!(history["startup_seconds"]["source"], "assumed");
    let near = |found: &Value, expected: f64, by: f64| {
        let found = found.as_f64().unwrap_or_else(|| panic!("{found} is no number"));
        assert!((found - expected).abs() <= by, "{found} is not {expected}");
    };
    near(&history["unknown"], 0.5, 0.01);
    near(&history["service_seconds"]["value"], 0.055, 0.0005);
    near(&history["service_variation"]["value"], 0.2, 0.05);
    let recorded = &rows["recorded"];
    near(&recorded["attainment"], in_time / offered, 1e-9);
    // Three replicas for two hours. If a scrape lies on a point, one more step counts.
    near(&recorded["replica_seconds"], 3.0 * 7200.0, 3.0 * 15.0);
    assert_eq!((&recorded["peak"], &recorded["changes"]), (&3.into(), &0.0.into()));
    assert_eq!(recorded["worst_attainment"], Value::Null);
    let [fixed, slo] = rows["laws"].as_array().expect("laws").as_slice() else { panic!("two laws") };
    near(&fixed["attainment"], in_time / offered, 0.03);
    assert!(slo["attainment"].as_f64() > recorded["attainment"].as_f64(), "slo may use more replicas");

    let table = String::from_utf8(output.stdout).expect("text");
    let row = table.lines().find(|line| line.starts_with("recorded ")).expect("a row");
    assert!(row.contains(&format!("{:.2} %", 100.0 * in_time / offered)) && row.contains('–'), "{row}");
    for word in ["(recorded)", "(assumed)", "none for 50."] {
        assert!(table.contains(word), "{word}: {table}");
    }
    let page = std::fs::read_to_string(html).expect("written");
    assert!(page.contains("<h3>recorded</h3><svg") && page.contains("(assumed)"));
}

/// A client of a stub that answers each range query with `data(start, end, step)`. All three are in seconds.
async fn stub(data: impl Fn(u64, u64, u64) -> String + Clone + Send + Sync + 'static) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let base = format!("http://{}", listener.local_addr().expect("bound"));
    let handle = move |request: Request<Incoming>| {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let number = |name: &str| {
            let value = query.split('&').find_map(|pair| pair.strip_prefix(name));
            value.and_then(|value| value.parse().ok()).expect("a range query has whole numbers")
        };
        std::future::ready(respond::text("application/json", data(number("start="), number("end="), number("step="))))
    };
    tokio::spawn(service::server::serve(listener, None, handle, std::future::pending(), Duration::ZERO));
    Client::new(base.parse().expect("a base"), None).expect("no token")
}

fn matrix(rows: &[String]) -> String {
    format!(r#"{{"status":"success","data":{{"resultType":"matrix","result":[{}]}}}}"#, rows.join(","))
}

#[tokio::test]
async fn an_unusable_answer_of_prometheus_is_refused_with_the_reason() {
    let period = Period { start: 1_800_000_000, step: 15, steps: 240 };
    /// The JSON of a series: one dispatcher's counter, with these values at the first points.
    fn row(start: u64, step: u64, values: &[&str]) -> String {
        let values = values.iter().zip(0..).map(|(value, point)| format!("[{},\"{value}\"]", start + point * step));
        format!(
            r#"{{"metric":{{"__name__":"dispatcher_enqueued_requests_total","instance":"a"}},"values":[{}]}}"#,
            values.collect::<Vec<_>>().join(",")
        )
    }
    type Data = fn(u64, u64, u64) -> String;
    let rows: [(Data, &str); 11] = [
        (|_, _, _| "<html>Sign in</html>".into(), "no matrix"),
        (|_, _, _| String::new(), "no matrix"),
        (|_, _, _| "[".repeat(100_000), "no matrix"),
        (|_, _, _| " ".repeat(65 << 20), "more than 64 MiB"),
        (
            |_, _, _| r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#.into(),
            "no matrix (unknown variant `vector`, expected `matrix`",
        ),
        (|_, _, _| matrix(&[]), "no two samples"),
        (|start, _, step| matrix(&[row(start, step, &["5"])]), "no two samples"),
        (|start, _, step| matrix(&[row(start, step, &["5", "5"])]), "no request arrived"),
        (|start, _, step| matrix(&[row(start, step, &["5", "NaN"])]), "was NaN at 2027-01-15T08:00:15Z"),
        (|start, _, step| matrix(&[row(start, step, &["5", "1e12"])]), "66666666666 requests per second"),
        (|start, _, step| matrix(&[row(start, step, &["5"]), row(start, step, &["6"])]), "more than once"),
    ];
    for (data, word) in rows {
        let client = stub(data).await;
        let error = read(&client, "", period).await.expect_err(word).to_string();
        assert!(error.contains(word), "{word}: {error}");
    }
    let in_turns = |start, _, step| {
        let values: Vec<&str> = ["9000", "100"].into_iter().cycle().take(40).collect();
        matrix(&[row(start, step, &values)])
    };
    let error =
        read(&stub(in_turns).await, "", period).await.expect_err("two dispatchers share an address").to_string();
    assert!(
        error.contains("started again 20 times within 40 points") && error.contains("behind one address"),
        "{error}"
    );
    let no_server = Client::new("http://127.0.0.1:1".parse().expect("a base"), None).expect("no token");
    let error = read(&no_server, "", period).await.expect_err("no samples").to_string();
    assert!(error.contains("is that Prometheus running?"), "{error}");
}

#[tokio::test]
async fn arrivals_are_used_even_if_the_answers_are_implausible() {
    let period = Period { start: 1_800_000_000, step: 15, steps: 240 };
    // There are a counter and a histogram at the first two points. The bucket up to 0.5 s counts more than all answers.
    let torn = |start: u64, end: u64, step: u64| {
        let row = |name: &str, label: &str, values: [u64; 2]| {
            let at = [1_800_000_000, 1_800_000_015].into_iter().zip(values);
            let requested = at.filter(|(at, _)| (start..=end).contains(at) && (at - start).is_multiple_of(step));
            let values: Vec<String> = requested.map(|(at, value)| format!("[{at},\"{value}\"]")).collect();
            format!(r#"{{"metric":{{"__name__":"dispatcher_{name}"{label}}},"values":[{}]}}"#, values.join(","))
        };
        matrix(&[
            row("enqueued_requests_total", "", [5, 35]),
            row("request_duration_seconds_bucket", ",\"le\":\"0.5\"", [9, 90]),
            row("request_duration_seconds_bucket", ",\"le\":\"+Inf\"", [5, 35]),
            row("request_duration_seconds_sum", "", [1, 7]),
        ])
    };
    let history = read(&stub(torn).await, "", period).await.expect("arrivals are known");
    assert_eq!(history.load.total(), 30.0);
    let why = history.answers.as_ref().expect_err("implausible").to_string();
    assert!(why.contains("2027-01-15T08:00:00Z") && why.contains("bucket 0.5 counts 9"), "{why}");
    assert_eq!(history.recorded(Duration::from_millis(500)).attainment, None);
}
