//! The source of readings with a real Prometheus, which scrapes stubs of dispatchers.

use crate::server::{PATIENCE, prometheus, skipped};
use hyper::body::Incoming;
use hyper::{Method, Request};
use law::histogram::Histogram;
use law::observation::Observation;
use scaler::observe::prometheus::client::{BaseUrl, Client};
use scaler::observe::prometheus::{Prometheus, Queries};
use scaler::observe::{Error, Reading};
use service::respond::{self, Reply};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;

/// Oldest figures that are used: three scrapes.
const LIMIT: Duration = Duration::from_secs(3);

/// Answers each path with a text that a test can change.
struct Stub {
    address: SocketAddr,
    text: Arc<Mutex<String>>,
    server: JoinHandle<()>,
}

impl Stub {
    async fn start(address: SocketAddr, text: String) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option");
        socket.bind(address).expect("a free port");
        let listener: TcpListener = socket.listen(16).expect("a listener");
        let address = listener.local_addr().expect("bound");
        let text = Arc::new(Mutex::new(text));
        let answers = text.clone();
        let handle = move |_request: Request<Incoming>| {
            let reply: Reply = respond::text("text/plain; version=0.0.4", answers.lock().expect("whole").clone());
            std::future::ready(reply)
        };
        let server =
            tokio::spawn(service::server::serve(listener, None, handle, std::future::pending(), Duration::ZERO));
        Self { address, text, server }
    }

    fn set(&self, text: String) {
        *self.text.lock().expect("whole") = text;
    }

    async fn stop(self) -> SocketAddr {
        self.server.abort();
        let _cancelled = self.server.await;
        self.address
    }
}

/// The metrics of a dispatcher that has admitted so many requests, and answered all but four of them within 0.1 s.
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

fn reading(admitted: u32, age: Duration) -> Reading {
    let answered = f64::from(admitted - 4);
    let buckets = [0.1, 0.5, f64::INFINITY].map(|bound| (bound, answered)).to_vec();
    let histogram = Histogram { buckets, sum: answered / 16.0 };
    let figures = Observation {
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
    Reading { figures, age }
}

/// A source with the default queries over this job.
struct Source {
    source: Prometheus,
    began: Instant,
}

impl Source {
    fn new(base: &BaseUrl) -> Self {
        let client = Client::new(base.clone(), None).expect("no token");
        let queries = Queries::of("job=\"dispatcher\"");
        Self { source: Prometheus::new(client, queries, LIMIT), began: Instant::now() }
    }

    async fn read(&mut self) -> Result<Reading, Error> {
        self.source.read(self.began.elapsed()).await
    }

    /// Reads until an outcome is the one that is waited for. Returns all outcomes.
    async fn until(&mut self, is_it: impl Fn(&Result<Reading, Error>) -> bool) -> Vec<Result<Reading, Error>> {
        let mut outcomes = Vec::new();
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                outcomes.push(self.read().await);
                if is_it(&outcomes[outcomes.len() - 1]) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        if waited.await.is_err() {
            panic!("it never came; last: {:?}", outcomes.last());
        }
        outcomes
    }

    /// Reads until so many requests have arrived, refused ones included.
    async fn until_arrived(&mut self, arrivals: u32) -> Reading {
        let is_it = |outcome: &Result<Reading, Error>| {
            outcome.as_ref().is_ok_and(|reading| reading.figures.arrivals >= f64::from(arrivals))
        };
        self.until(is_it).await.pop().expect("the last is it").expect("it was good")
    }
}

#[tokio::test]
async fn a_reading_has_the_figures_of_the_dispatcher() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let stub = Stub::start("127.0.0.1:0".parse().expect("an address"), exposition(20)).await;
    let Some((mut server, base)) = prometheus(folder.path(), &[stub.address]).await else {
        return skipped();
    };
    let mut source = Source::new(&base);

    let first = source.until(Result::is_ok).await;
    for before in &first[..first.len() - 1] {
        assert!(matches!(before, Err(Error::NoDispatcher(_) | Error::Prometheus(_))), "{before:?}");
    }
    let first = first.into_iter().next_back().expect("one at least").expect("good");
    assert_eq!(first, reading(20, first.age));

    stub.set(exposition(30));
    let next = source.until_arrived(37).await;
    assert_eq!(next, reading(30, next.age));

    // The dispatcher restarts and counts from zero; the reading goes on.
    let address = stub.stop().await;
    let stub = Stub::start(address, exposition(6)).await;
    let continued = source.until_arrived(50).await.figures;
    assert_eq!(continued.arrivals, 30.0 + 7.0 + 6.0 + 7.0);
    assert_eq!(continued.service.count(), 26.0 + 2.0);
    stub.set(exposition(9));
    assert_eq!(source.until_arrived(53).await.figures.arrivals, 53.0);

    // When the dispatcher is gone, its figures are used until they are too old.
    stub.stop().await;
    let outcomes = source.until(|outcome| matches!(outcome, Err(Error::Stale(..)))).await;
    match outcomes.last() {
        Some(Err(Error::Stale(endpoint, age, limit))) => {
            assert!(endpoint.contains(&address.to_string()) && age > limit, "{endpoint} {age:?}");
        }
        other => panic!("{other:?}"),
    }
    let oldest = outcomes.iter().flatten().map(|reading| reading.age).max();
    assert!(oldest.is_some_and(|oldest| oldest > Duration::from_secs(1) && oldest <= LIMIT), "{oldest:?}");

    // A source that starts now knows that a dispatcher is missing.
    let outcomes = Source::new(&base).until(|outcome| matches!(outcome, Err(Error::Partial(..)))).await;
    assert!(outcomes.iter().all(Result::is_err));
    let error = outcomes.last().expect("one at least").as_ref().expect_err("down").to_string();
    assert!(error.contains(&address.to_string()), "{error}");

    let stub = Stub::start(address, exposition(11)).await;
    assert_eq!(source.until_arrived(55).await.figures.arrivals, 55.0, "it was the same process all the time");

    server.kill().await.expect("it runs");
    let error = source.read().await.expect_err("no Prometheus");
    assert!(matches!(&error, Error::Prometheus(_)) && error.to_string().contains(&base.to_string()), "{error}");
    stub.stop().await;
}

#[tokio::test]
async fn dispatchers_are_told_apart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let any = "127.0.0.1:0".parse().expect("an address");
    let (one, two) = (Stub::start(any, exposition(20)).await, Stub::start(any, exposition(1000)).await);
    let Some((_server, base)) = prometheus(folder.path(), &[one.address, two.address]).await else {
        return skipped();
    };
    let mut source = Source::new(&base);
    // A Prometheus that has just started scrapes one dispatcher before the other.
    let are_both =
        |outcome: &Result<Reading, Error>| outcome.as_ref().is_ok_and(|reading| reading.figures.queue_length > 1.0);
    let both = source.until(are_both).await.pop().expect("one at least").expect("good").figures;
    assert_eq!((both.queue_length, both.in_flight, both.capacity), (2.0, 6.0, 8.0));
    // Only the first dispatcher restarts.
    one.set(exposition(10));
    let before = both.arrivals as u32;
    assert_eq!(source.until_arrived(before + 1).await.figures.arrivals, both.arrivals + 17.0);
    // The message names the dispatcher whose figures cannot be true.
    two.set(exposition(1001).replace("dispatcher_queue_length 1", "dispatcher_queue_length NaN"));
    let outcomes = source.until(|outcome| matches!(outcome, Err(Error::Partial(..)))).await;
    let error = outcomes.last().expect("one at least").as_ref().expect_err("an error").to_string();
    assert!(error.contains(&two.address.to_string()) && error.contains("NaN"), "{error}");
}

#[tokio::test]
async fn a_query_that_prometheus_refuses_is_quoted_with_its_words() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some((_server, base)) = prometheus(folder.path(), &[]).await else {
        return skipped();
    };
    let client = Client::new(base.clone(), None).expect("no token");
    let mut source = Prometheus::new(client, Queries::of("job==\"x\""), LIMIT);
    let mut outcome = source.read(Duration::ZERO).await;
    let began = Instant::now();
    while began.elapsed() < PATIENCE && outcome.as_ref().is_err_and(|error| error.to_string().contains("503")) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        outcome = source.read(Duration::ZERO).await;
    }
    let error = outcome.expect_err("no PromQL").to_string();
    assert!(error.contains("refused") && error.contains("parse error"), "{error}");
    let mut source = Source::new(&base);
    let outcomes = source.until(|outcome| matches!(outcome, Err(Error::NoDispatcher(_)))).await;
    assert!(outcomes.iter().all(Result::is_err));
}

#[tokio::test]
async fn the_token_and_the_prefix_reach_the_server() {
    let token = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(&token, "first\n").expect("writable");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let base = format!("http://{}/behind/a/prefix", listener.local_addr().expect("bound"));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let handle = move |request: Request<Incoming>| {
        let token = request.headers().get("authorization").map(|value| value.to_str().expect("ASCII").to_owned());
        assert_eq!(request.method(), Method::GET);
        log.lock().expect("whole").push((request.uri().to_string(), token));
        let body = r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#;
        std::future::ready(respond::text("application/json", body.into()))
    };
    tokio::spawn(service::server::serve(listener, None, handle, std::future::pending(), Duration::ZERO));
    let client = Client::new(base.parse().expect("a base"), Some(token.path().into())).expect("a token");
    assert_eq!(client.query("up{job=\"a b\"} == 0").await.expect("an empty vector"), []);
    std::fs::write(&token, "second\n").expect("writable");
    client.query("up").await.expect("an empty vector");
    let seen = seen.lock().expect("whole");
    let query = "up%7Bjob%3D%22a%20b%22%7D%20%3D%3D%200";
    assert_eq!(seen[0], (format!("/behind/a/prefix/api/v1/query?query={query}"), Some("Bearer first".into())));
    assert_eq!(seen[1].1.as_deref(), Some("Bearer second"));
}
