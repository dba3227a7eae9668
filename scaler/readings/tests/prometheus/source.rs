//! Readings from a real Prometheus that scrapes fake dispatchers.

use crate::server::{TIMEOUT, prometheus, skipped};
use hyper::body::Incoming;
use hyper::{Method, Request};
use law::histogram::Histogram;
use law::observation::Observation;
use readings::prometheus::client::{BaseUrl, Client};
use readings::prometheus::{Prometheus, Queries};
use readings::{Error, Reading, SnapshotError};
use service::respond::{self, Reply};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;

/// The greatest age of figures that are used: three scrapes.
const LIMIT: Duration = Duration::from_secs(3);

/// The address of a fake dispatcher whose port the system picks.
const ANY_PORT: &str = "127.0.0.1:0";

/// A fake dispatcher that answers each path with a text, which a test can change.
struct FakeExporter {
    address: SocketAddr,
    text: Arc<Mutex<String>>,
    server: JoinHandle<()>,
}

impl FakeExporter {
    async fn start(address: SocketAddr, text: String) -> Self {
        let socket = TcpSocket::new_v4().expect("sockets can be created");
        socket.set_reuseaddr(true).expect("the system has the option");
        socket.bind(address).expect("the port is free");
        let listener: TcpListener = socket.listen(16).expect("the socket is bound");
        let address = listener.local_addr().expect("the listener is bound");
        let text = Arc::new(Mutex::new(text));
        let answers = text.clone();
        let handle = move |_request: Request<Incoming>| {
            let reply: Reply = respond::text(
                "text/plain; version=0.0.4",
                answers.lock().expect("no thread panics while it holds the lock").clone(),
            );
            std::future::ready(reply)
        };
        let server =
            tokio::spawn(service::server::serve(listener, None, handle, std::future::pending(), Duration::ZERO));
        Self { address, text, server }
    }

    fn set_text(&self, text: String) {
        *self.text.lock().expect("no thread panics while it holds the lock") = text;
    }

    async fn stop(self) -> SocketAddr {
        self.server.abort();
        let _cancelled = self.server.await;
        self.address
    }
}

/// The metrics of a dispatcher that has admitted `admitted` requests and answered all but four of them within 0.1 s.
fn exposition(admitted: u32) -> String {
    let answered = admitted - 4;
    let histogram = |name: &str| {
        format!(
            "# TYPE {name} histogram\n{name}_bucket{{le=\"0.1\"}} {answered}\n{name}_bucket{{le=\"0.5\"}} {answered}\n\
             {name}_bucket{{le=\"+Inf\"}} {answered}\n{name}_sum {}\n{name}_count {answered}\n",
            f64::from(answered) / 16.0
        )
    };
    format!(
        "# TYPE dispatcher_queue_length gauge\ndispatcher_queue_length 1\n\
         # TYPE dispatcher_in_flight gauge\ndispatcher_in_flight{{replica=\"a:1\"}} 2\n\
         dispatcher_in_flight{{replica=\"b:1\"}} 1\n\
         # TYPE dispatcher_capacity gauge\ndispatcher_capacity 8\n\
         # TYPE dispatcher_enqueued_requests_total counter\ndispatcher_enqueued_requests_total {admitted}\n\
         # TYPE dispatcher_shed_total counter\ndispatcher_shed_total{{reason=\"queue_full\"}} 5\n\
         dispatcher_shed_total{{reason=\"overloaded\"}} 2\n{}{}{}",
        histogram("dispatcher_upstream_duration_seconds"),
        histogram("dispatcher_replica_work_seconds"),
        histogram("dispatcher_request_duration_seconds"),
    )
}

/// The reading that must follow from `exposition(admitted)`.
fn reading(admitted: u32, at: Duration) -> Reading {
    let answered = f64::from(admitted - 4);
    let buckets = [0.1, 0.5, f64::INFINITY].map(|bound| (bound, answered)).to_vec();
    let histogram = Histogram { buckets, sum: answered / 16.0 };
    let figures = Observation {
        at,
        queue_length: 1.0,
        in_flight: 3.0,
        request_seconds: histogram.sum,
        capacity: 8.0,
        arrivals: f64::from(admitted) + 7.0,
        service: histogram.clone(),
        work: histogram.clone(),
        latency: histogram,
        ..Observation::default()
    };
    Reading { figures, silent: None }
}

/// A source of readings, with the default queries over the series with the label that relabelling has added.
struct PrometheusReader {
    source: Prometheus,
    began: Instant,
}

impl PrometheusReader {
    fn new(base: &BaseUrl) -> Self {
        let client = Client::new(base.clone(), None).expect("a client without a token reads no file");
        let queries = Queries::of("app=\"roundhouse\"");
        Self { source: Prometheus::new(client, queries, LIMIT), began: Instant::now() }
    }

    async fn read(&mut self) -> Result<Reading, Error> {
        self.source.read(self.began).await
    }

    /// Reads until an outcome satisfies `is_wanted`. Returns all outcomes.
    async fn read_until(&mut self, is_wanted: impl Fn(&Result<Reading, Error>) -> bool) -> Vec<Result<Reading, Error>> {
        let mut outcomes = Vec::new();
        let waited = tokio::time::timeout(TIMEOUT, async {
            loop {
                outcomes.push(self.read().await);
                if is_wanted(&outcomes[outcomes.len() - 1]) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        if waited.await.is_err() {
            panic!("timed out after {TIMEOUT:?}; the last outcome was {:?}", outcomes.last());
        }
        outcomes
    }

    /// Reads until `arrivals` requests have arrived, refused ones included.
    async fn read_until_arrivals(&mut self, arrivals: u32) -> Reading {
        let is_wanted = |outcome: &Result<Reading, Error>| {
            // The figures of two dispatchers are interpolated, which rounds them.
            outcome.as_ref().is_ok_and(|reading| reading.figures.arrivals > f64::from(arrivals) - 1e-6)
        };
        last_reading(self.read_until(is_wanted).await)
    }
}

fn last_reading(mut outcomes: Vec<Result<Reading, Error>>) -> Reading {
    outcomes.pop().expect("there is at least one outcome").expect("the last outcome is a reading")
}

fn last_error(mut outcomes: Vec<Result<Reading, Error>>) -> String {
    outcomes.pop().expect("there is at least one outcome").expect_err("the last outcome is an error").to_string()
}

#[tokio::test]
async fn a_reading_has_the_figures_of_the_dispatcher() {
    let folder = tempfile::tempdir().expect("temporary folders can be created");
    let exporter = FakeExporter::start(ANY_PORT.parse().expect("the text is an address"), exposition(20)).await;
    let Some((mut server, base)) = prometheus(folder.path(), &[exporter.address]).await else {
        return skipped();
    };
    let mut reader = PrometheusReader::new(&base);

    let first = reader.read_until(Result::is_ok).await;
    for before in &first[..first.len() - 1] {
        let is_early = matches!(before, Err(Error::NoDispatcher(_) | Error::TooEarly | Error::Prometheus(_)));
        assert!(is_early, "{before:?}");
    }
    let first = last_reading(first);
    assert_eq!(first, reading(20, first.figures.at));

    exporter.set_text(exposition(30));
    let next = reader.read_until_arrivals(37).await;
    assert_eq!(next, reading(30, next.figures.at));

    // The dispatcher restarts and counts from zero. The counters of the reading go on.
    let address = exporter.stop().await;
    let exporter = FakeExporter::start(address, exposition(6)).await;
    let continued = reader.read_until_arrivals(50).await.figures;
    assert_eq!(continued.arrivals, 30.0 + 7.0 + 6.0 + 7.0);
    assert_eq!(continued.service.count(), 26.0 + 2.0);
    exporter.set_text(exposition(9));
    assert_eq!(reader.read_until_arrivals(53).await.figures.arrivals, 53.0);

    // When the dispatcher has stopped, its last figures are used until they are too old.
    exporter.stop().await;
    let outcomes = reader.read_until(|outcome| matches!(outcome, Err(Error::Silent(..)))).await;
    match outcomes.last() {
        Some(Err(Error::Silent(1, errors))) => match &errors[..] {
            [SnapshotError::Stale(endpoint, age, limit)] => {
                assert!(endpoint.contains(&address.to_string()) && age > limit, "{endpoint} {age:?}");
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
    assert!(outcomes.len() > 10 && outcomes.iter().rev().skip(1).all(Result::is_ok), "{outcomes:?}");

    // A source that starts now gives no reading, and names the dispatcher that is down.
    let outcomes = PrometheusReader::new(&base).read_until(|outcome| matches!(outcome, Err(Error::Silent(..)))).await;
    assert!(outcomes.iter().all(Result::is_err));
    let error = last_error(outcomes);
    assert!(error.contains(&address.to_string()), "{error}");

    let exporter = FakeExporter::start(address, exposition(11)).await;
    let arrivals = reader.read_until_arrivals(55).await.figures.arrivals;
    assert_eq!(arrivals, 55.0, "a dispatcher whose counters go on has not restarted");

    server.kill().await.expect("the process was started by this test");
    let error = reader.read().await.expect_err("Prometheus was killed");
    assert!(matches!(&error, Error::Prometheus(_)) && error.to_string().contains(&base.to_string()), "{error}");
    exporter.stop().await;
}

/// The exposition of a dispatcher without requests in flight. Figures that stay the same while requests are in flight are
/// no news.
fn idle(enqueued: u32) -> String {
    exposition(enqueued).replace("a:1\"} 2", "a:1\"} 0").replace("b:1\"} 1", "b:1\"} 0")
}

#[tokio::test]
async fn each_dispatcher_has_counters_of_its_own() {
    let folder = tempfile::tempdir().expect("temporary folders can be created");
    let any = ANY_PORT.parse().expect("the text is an address");
    let (one, two) = (FakeExporter::start(any, idle(20)).await, FakeExporter::start(any, idle(1000)).await);
    let Some((_server, base)) = prometheus(folder.path(), &[one.address, two.address]).await else {
        return skipped();
    };
    let mut reader = PrometheusReader::new(&base);
    // A Prometheus that has just started scrapes one dispatcher before the other.
    let are_both =
        |outcome: &Result<Reading, Error>| outcome.as_ref().is_ok_and(|reading| reading.figures.queue_length > 1.0);
    let both = last_reading(reader.read_until(are_both).await).figures;
    assert_eq!((both.queue_length, both.in_flight, both.capacity), (2.0, 0.0, 8.0));
    // Only the first dispatcher restarts.
    one.set_text(idle(10));
    let before = both.arrivals as u32;
    let restarted = reader.read_until_arrivals(before + 17).await;
    assert!((restarted.figures.arrivals - both.arrivals - 17.0).abs() < 1e-6, "{restarted:?}");
    // The message names the dispatcher whose figures cannot be true.
    two.set_text(idle(1001).replace("dispatcher_queue_length 1", "dispatcher_queue_length NaN"));
    let is_partial = |outcome: &Result<Reading, Error>| outcome.as_ref().is_ok_and(|reading| reading.silent.is_some());
    let Reading { figures, silent } = last_reading(reader.read_until(is_partial).await);
    let silent = silent.expect("one is silent");
    assert!(figures.is_partial && figures.queue_length == 1.0, "{figures:?}");
    assert!(silent.contains(&two.address.to_string()) && silent.contains("NaN"), "{silent}");
    // A dispatcher that cannot be scraped is silent, and has not left. The other one goes on.
    let address = two.stop().await;
    one.set_text(idle(15));
    let is_down = |outcome: &Result<Reading, Error>| {
        let silent = outcome.as_ref().ok().and_then(|reading| reading.silent.as_ref());
        silent.is_some_and(|silent| silent.contains("cannot scrape") && silent.contains(&address.to_string()))
    };
    reader.read_until(is_down).await;
    let silent = reader.read_until_arrivals(before + 22).await;
    assert!(silent.figures.is_partial, "{silent:?}");
}

#[tokio::test]
async fn the_error_of_a_refused_query_has_the_message_of_prometheus() {
    let folder = tempfile::tempdir().expect("temporary folders can be created");
    let Some((_server, base)) = prometheus(folder.path(), &[]).await else {
        return skipped();
    };
    let client = Client::new(base.clone(), None).expect("a client without a token reads no file");
    let mut source = Prometheus::new(client, Queries::of("job==\"x\""), LIMIT);
    let began = Instant::now();
    let mut outcome = source.read(began).await;
    while began.elapsed() < TIMEOUT && outcome.as_ref().is_err_and(|error| error.to_string().contains("503")) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        outcome = source.read(began).await;
    }
    let error = outcome.expect_err("job==\"x\" is no PromQL").to_string();
    assert!(error.contains("refused") && error.contains("parse error"), "{error}");
    let mut reader = PrometheusReader::new(&base);
    let outcomes = reader.read_until(|outcome| matches!(outcome, Err(Error::NoDispatcher(_)))).await;
    assert!(outcomes.iter().all(Result::is_err));
    let mut queries = Queries::of("");
    queries.set_figures("dispatcher_queue_length or dispatcher_capacity".into());
    let client = Client::new(base, None).expect("a client without a token reads no file");
    let outcome = Prometheus::new(client, queries, LIMIT).read(began).await;
    assert!(matches!(outcome, Err(Error::NoDispatcher(_))), "the query that follows is PromQL: {outcome:?}");
}

#[tokio::test]
async fn the_token_and_the_prefix_reach_the_server() {
    let token = tempfile::NamedTempFile::new().expect("temporary files can be created");
    std::fs::write(&token, "first\n").expect("the file is writable");
    let listener = TcpListener::bind(ANY_PORT).await.expect("there is a free port");
    let base = format!("http://{}/behind/a/prefix", listener.local_addr().expect("the listener is bound"));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let handle = move |request: Request<Incoming>| {
        let token =
            request.headers().get("authorization").map(|value| value.to_str().expect("tokens are ASCII").to_owned());
        assert_eq!(request.method(), Method::GET);
        log.lock().expect("no thread panics while it holds the lock").push((request.uri().to_string(), token));
        let body = r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#;
        std::future::ready(respond::text("application/json", body.into()))
    };
    tokio::spawn(service::server::serve(listener, None, handle, std::future::pending(), Duration::ZERO));
    let client = Client::new(base.parse().expect("the text is a URL"), Some(token.path().into()))
        .expect("the token file is readable");
    assert_eq!(client.query("up{job=\"a b\"} == 0").await.expect("the server answers an empty vector"), []);
    std::fs::write(&token, "second\n").expect("the file is writable");
    client.query("up").await.expect("the server answers an empty vector");
    let seen = seen.lock().expect("no thread panics while it holds the lock");
    let query = "up%7Bjob%3D%22a%20b%22%7D%20%3D%3D%200";
    assert_eq!(seen[0], (format!("/behind/a/prefix/api/v1/query?query={query}"), Some("Bearer first".into())));
    assert_eq!(seen[1].1.as_deref(), Some("Bearer second"));
}
