//! Scrapes every dispatcher itself, all at the same time.
//!
//! A published dispatcher that does not answer makes the reading partial, for as long as it is published. One that is
//! published no more is scraped on while it answers, for a minute at most, since it may still be draining; then it has
//! left.

use super::ledger::Ledger;
use super::roster::{Place, Roster};
use super::snapshot::Snapshot;
use super::{Error, Failure, Reading, exposition, tell};
use futures_util::future::join_all;
use hyper::StatusCode;
use service::fetch;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// For one scrape.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Twice the grace that Kubernetes gives a pod.
const DRAINING: Duration = Duration::from_secs(60);

/// Asks every dispatcher, again and again.
#[derive(Debug)]
pub struct Dispatchers {
    roster: Roster,
    ledger: Ledger,
    /// Known and no longer published, with the time since when.
    leaving: BTreeMap<String, Duration>,
}

impl Dispatchers {
    /// The dispatchers at these places.
    pub fn new(places: impl IntoIterator<Item = Place>) -> Self {
        Self { roster: Roster::new(places), ledger: Ledger::default(), leaving: BTreeMap::new() }
    }

    /// Scrapes all once, `at` after the scaler's start.
    ///
    /// # Errors
    /// See [`Error`]; one dispatcher without figures is enough.
    pub async fn read(&mut self, at: Duration) -> Result<Reading, Error> {
        let published = self.roster.published(at).await?;
        self.scrape(at, &published).await
    }

    async fn scrape(&mut self, at: Duration, published: &BTreeSet<String>) -> Result<Reading, Error> {
        self.leaving.retain(|endpoint, _| !published.contains(endpoint));
        for endpoint in self.ledger.endpoints().filter(|endpoint| !published.contains(*endpoint)) {
            self.leaving.entry(endpoint.into()).or_insert(at);
        }
        let all = published.iter().chain(self.leaving.keys());
        let answers: Vec<(String, Result<Snapshot, Failure>)> =
            join_all(all.map(async |endpoint| (endpoint.clone(), snapshot(endpoint).await))).await;

        let mut failures = Vec::new();
        for (endpoint, answer) in answers {
            let entered = answer.and_then(|snapshot| {
                let entered = self.ledger.enter(&endpoint, at.as_secs_f64(), snapshot);
                entered.map_err(|fault| Failure::Figures { endpoint: endpoint.clone(), fault })
            });
            match (entered, self.leaving.get(&endpoint)) {
                (Ok(entry), None) => tell(&endpoint, entry),
                (Err(failure), None) => failures.push(failure),
                (Ok(_), Some(&since)) if at.saturating_sub(since) < DRAINING => {}
                (_, Some(_)) => {
                    tracing::info!(endpoint, "the dispatcher has left");
                    self.ledger.close(&endpoint);
                    self.leaving.remove(&endpoint);
                }
            }
        }
        match failures.is_empty() {
            true => Ok(self.ledger.sum(Duration::ZERO)),
            false => Err(Error::Partial { of: published.len(), failures }),
        }
    }
}

async fn snapshot(endpoint: &str) -> Result<Snapshot, Failure> {
    let (status, body) = fetch::get(endpoint, "/metrics", TIMEOUT).await?;
    if status != StatusCode::OK {
        return Err(Failure::Status { endpoint: endpoint.into(), status });
    }
    let samples = exposition::parse(&body).and_then(|samples| Snapshot::of(&samples));
    samples.map_err(|fault| Failure::Figures { endpoint: endpoint.into(), fault })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::snapshot::Fault;
    use hyper::body::Incoming;
    use hyper::{Request, Response};
    use service::respond::{self, Reply};
    use std::sync::{Arc, Mutex};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    /// Answers `/metrics` with what it is told to.
    struct Stub {
        endpoint: String,
        text: Arc<Mutex<String>>,
        server: JoinHandle<()>,
    }

    impl Stub {
        async fn start(text: &str) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let endpoint = listener.local_addr().expect("bound").to_string();
            let text = Arc::new(Mutex::new(text.to_owned()));
            let told = text.clone();
            let handle = move |request: Request<Incoming>| {
                let text = told.lock().expect("whole").clone();
                async move { answer(&request, text).await }
            };
            let server =
                tokio::spawn(service::server::serve(listener, None, handle, std::future::pending(), Duration::ZERO));
            Self { endpoint, text, server }
        }

        fn tell(&self, text: &str) {
            text.clone_into(&mut self.text.lock().expect("whole"));
        }

        async fn stop(self) {
            self.server.abort();
            let _cancelled = self.server.await;
        }
    }

    async fn answer(request: &Request<Incoming>, text: String) -> Reply {
        assert_eq!(request.uri().path(), "/metrics");
        match text.as_str() {
            "silence" => std::future::pending().await,
            "503" => {
                let mut reply = Response::default();
                *reply.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                reply
            }
            _ => respond::text("text/plain", text),
        }
    }

    fn counting(enqueued: u32) -> String {
        format!(
            "dispatcher_queue_length 2\ndispatcher_in_flight{{replica=\"r:1\"}} 1\ndispatcher_capacity 8\n\
             dispatcher_enqueued_requests_total {enqueued}\n"
        )
    }

    async fn read(source: &mut Dispatchers, at: u64, published: &[&Stub]) -> Result<Reading, Error> {
        let published = published.iter().map(|stub| stub.endpoint.clone()).collect();
        source.scrape(Duration::from_secs(at), &published).await
    }

    fn faults(outcome: Result<Reading, Error>) -> Vec<Failure> {
        match outcome {
            Err(Error::Partial { failures, .. }) => failures,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn several_dispatchers_are_one_reading() {
        let (one, two) = (Stub::start(&counting(10)).await, Stub::start(&counting(20)).await);
        let places = [&one, &two].map(|stub| stub.endpoint.parse().expect("an address"));
        let mut source = Dispatchers::new(places);
        let reading = source.read(Duration::ZERO).await.expect("whole");
        assert_eq!((reading.queue_length, reading.in_flight, reading.capacity), (4.0, 2.0, 8.0));
        assert_eq!((reading.arrivals, reading.age), (30.0, Duration::ZERO));
        one.tell(&counting(3));
        two.tell(&counting(21));
        let reading = source.read(Duration::from_secs(2)).await.expect("whole");
        assert_eq!(reading.arrivals, 34.0);
    }

    #[tokio::test]
    async fn one_without_an_answer_makes_the_reading_partial_until_it_is_unpublished() {
        let mut source = Dispatchers::new([]);
        let (one, two) = (Stub::start(&counting(10)).await, Stub::start(&counting(20)).await);
        read(&mut source, 0, &[&one, &two]).await.expect("whole");

        two.tell("silence");
        let began = std::time::Instant::now();
        let failures = faults(read(&mut source, 2, &[&one, &two]).await);
        assert!(began.elapsed() < 5 * TIMEOUT, "a scrape is bounded");
        assert!(matches!(&failures[..], [failure @ Failure::Fetch(_)] if failure.to_string().contains(&two.endpoint)));
        two.tell("503");
        assert!(matches!(&faults(read(&mut source, 4, &[&one, &two]).await)[..], [Failure::Status { .. }]));
        two.tell("dispatcher_queue_length NaN");
        let failures = faults(read(&mut source, 6, &[&one, &two]).await);
        assert!(matches!(&failures[..], [Failure::Figures { fault: Fault::Number { .. }, .. }]));
        two.tell("silence");
        assert!(read(&mut source, 7200, &[&one, &two]).await.is_err(), "for as long as it is published");

        one.tell(&counting(11));
        assert_eq!(read(&mut source, 7202, &[&one]).await.expect("it has left").arrivals, 31.0);
        two.tell(&counting(5000));
        assert_eq!(read(&mut source, 7204, &[&one, &two]).await.expect("it is back").arrivals, 31.0);
    }

    #[tokio::test]
    async fn one_that_drains_is_counted_until_it_is_gone() {
        let mut source = Dispatchers::new([]);
        let (one, two) = (Stub::start(&counting(10)).await, Stub::start(&counting(20)).await);
        assert_eq!(read(&mut source, 0, &[&one, &two]).await.expect("whole").queue_length, 4.0);
        two.tell(&counting(23));
        let draining = read(&mut source, 2, &[&one]).await.expect("unpublished, still there");
        assert_eq!((draining.queue_length, draining.arrivals), (4.0, 33.0));
        two.stop().await;
        let gone = read(&mut source, 4, &[&one]).await.expect("whole without it");
        assert_eq!((gone.queue_length, gone.arrivals), (2.0, 33.0));
    }

    #[tokio::test]
    async fn one_that_is_unpublished_for_a_minute_has_left() {
        let mut source = Dispatchers::new([]);
        let (one, two) = (Stub::start(&counting(10)).await, Stub::start(&counting(20)).await);
        for (at, enqueued, queue_length) in [(0, 10, 4.0), (59, 11, 4.0), (61, 12, 4.0), (119, 13, 2.0), (121, 14, 2.0)]
        {
            one.tell(&counting(enqueued));
            two.tell(&counting(enqueued + 10));
            let published = if at == 0 { &[&one, &two][..] } else { &[&one] };
            assert_eq!(read(&mut source, at, published).await.expect("whole").queue_length, queue_length, "{at}");
        }
    }

    #[tokio::test]
    async fn an_answer_without_end_is_refused() {
        let stub = Stub::start(&"# padding\n".repeat(1 << 20)).await;
        let failures = faults(read(&mut Dispatchers::new([]), 0, &[&stub]).await);
        assert!(matches!(&failures[..], [Failure::Fetch(_)]), "{failures:?}");
    }
}
