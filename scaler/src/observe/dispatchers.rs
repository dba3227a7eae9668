//! Scrapes every dispatcher itself, all at the same time.
//!
//! A published dispatcher that does not answer makes the reading partial, for as long as it is published. A dispatcher that
//! is no longer published is scraped while it answers, for a minute at most, since it may still be draining; then it has
//! left.

use super::counters::Counters;
use super::endpoints::{Endpoints, Place};
use super::snapshot::Snapshot;
use super::{Error, Failure, Reading, exposition, log_restart};
use futures_util::future::join_all;
use hyper::StatusCode;
use service::fetch;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Time limit of one scrape.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Longest time that a dispatcher drains: twice the grace that Kubernetes gives a pod.
const DRAINING: Duration = Duration::from_secs(60);

/// The dispatchers as a source of readings.
#[derive(Debug)]
pub struct Dispatchers {
    endpoints: Endpoints,
    counters: Counters,
    /// Known dispatchers that are no longer published, with the time since which they are not.
    leaving: BTreeMap<String, Duration>,
}

impl Dispatchers {
    /// The dispatchers at these places.
    pub fn new(places: impl IntoIterator<Item = Place>) -> Self {
        Self { endpoints: Endpoints::new(places), counters: Counters::default(), leaving: BTreeMap::new() }
    }

    /// Scrapes all dispatchers once, `at` after the scaler's start.
    ///
    /// # Errors
    /// See [`Error`]; one dispatcher without figures is enough.
    pub async fn read(&mut self, at: Duration) -> Result<Reading, Error> {
        let published = self.endpoints.published(at).await?;
        self.scrape(at, &published).await
    }

    async fn scrape(&mut self, at: Duration, published: &BTreeSet<String>) -> Result<Reading, Error> {
        self.leaving.retain(|endpoint, _| !published.contains(endpoint));
        for endpoint in self.counters.endpoints().filter(|endpoint| !published.contains(*endpoint)) {
            self.leaving.entry(endpoint.into()).or_insert(at);
        }
        let all = published.iter().chain(self.leaving.keys());
        let answers: Vec<(String, Result<Snapshot, Failure>)> =
            join_all(all.map(async |endpoint| (endpoint.clone(), snapshot(endpoint).await))).await;

        let mut failures = Vec::new();
        for (endpoint, answer) in answers {
            let entered = answer.and_then(|snapshot| {
                let entered = self.counters.enter(&endpoint, at.as_secs_f64(), snapshot);
                entered.map_err(|fault| Failure::Figures(endpoint.clone(), fault))
            });
            match (entered, self.leaving.get(&endpoint)) {
                (Ok(entry), None) => log_restart(&endpoint, entry),
                (Err(failure), None) => failures.push(failure),
                (Ok(_), Some(&since)) if at.saturating_sub(since) < DRAINING => {}
                (_, Some(_)) => {
                    tracing::info!(endpoint, "the dispatcher has left");
                    self.counters.close(&endpoint);
                    self.leaving.remove(&endpoint);
                }
            }
        }
        match failures.is_empty() {
            true => Ok(self.counters.sum(Duration::ZERO)),
            false => Err(Error::Partial(published.len(), failures)),
        }
    }
}

async fn snapshot(endpoint: &str) -> Result<Snapshot, Failure> {
    let (status, body) = fetch::get(endpoint, "/metrics", TIMEOUT).await?;
    if status != StatusCode::OK {
        return Err(Failure::Status(endpoint.into(), status));
    }
    let samples = exposition::parse(&body).and_then(|samples| Snapshot::of(&samples));
    samples.map_err(|fault| Failure::Figures(endpoint.into(), fault))
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

    /// Answers `/metrics` with a text that a test can change.
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
            let answers = text.clone();
            let handle = move |request: Request<Incoming>| {
                let text = answers.lock().expect("whole").clone();
                async move { answer(&request, text).await }
            };
            let server =
                tokio::spawn(service::server::serve(listener, None, handle, std::future::pending(), Duration::ZERO));
            Self { endpoint, text, server }
        }

        fn set(&self, text: &str) {
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

    /// Two dispatchers that have admitted 10 and 20 requests, and a source that has read them at 0 s.
    async fn two() -> (Dispatchers, Stub, Stub) {
        let (one, two) = (Stub::start(&counting(10)).await, Stub::start(&counting(20)).await);
        let mut source = Dispatchers::new([]);
        let figures = read(&mut source, 0, &[&one, &two]).await.expect("whole").figures;
        assert_eq!((figures.queue_length, figures.arrivals), (4.0, 30.0));
        (source, one, two)
    }

    async fn read(source: &mut Dispatchers, at: u64, published: &[&Stub]) -> Result<Reading, Error> {
        let published = published.iter().map(|stub| stub.endpoint.clone()).collect();
        source.scrape(Duration::from_secs(at), &published).await
    }

    fn failures(outcome: Result<Reading, Error>) -> Vec<Failure> {
        match outcome {
            Err(Error::Partial(_, failures)) => failures,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn several_dispatchers_are_one_reading() {
        let (one, two) = (Stub::start(&counting(10)).await, Stub::start(&counting(20)).await);
        let places = [&one, &two].map(|stub| stub.endpoint.parse().expect("an address"));
        let mut source = Dispatchers::new(places);
        let Reading { figures, age } = source.read(Duration::ZERO).await.expect("whole");
        assert_eq!((figures.queue_length, figures.in_flight, figures.capacity), (4.0, 2.0, 8.0));
        assert_eq!((figures.arrivals, age), (30.0, Duration::ZERO));
        one.set(&counting(3));
        two.set(&counting(21));
        assert_eq!(source.read(Duration::from_secs(2)).await.expect("whole").figures.arrivals, 34.0);
    }

    #[tokio::test]
    async fn a_dispatcher_without_an_answer_makes_the_reading_partial_until_it_is_unpublished() {
        let (mut source, one, two) = two().await;
        two.set("silence");
        let began = std::time::Instant::now();
        let found = failures(read(&mut source, 2, &[&one, &two]).await);
        assert!(began.elapsed() < 5 * TIMEOUT, "a scrape is bounded");
        assert!(matches!(&found[..], [failure @ Failure::Fetch(_)] if failure.to_string().contains(&two.endpoint)));
        two.set("503");
        assert!(matches!(&failures(read(&mut source, 4, &[&one, &two]).await)[..], [Failure::Status(..)]));
        two.set("dispatcher_queue_length NaN");
        let found = failures(read(&mut source, 6, &[&one, &two]).await);
        assert!(matches!(&found[..], [Failure::Figures(_, Fault::Number(..))]));
        two.set("silence");
        assert!(read(&mut source, 7200, &[&one, &two]).await.is_err(), "for as long as it is published");

        one.set(&counting(11));
        assert_eq!(read(&mut source, 7202, &[&one]).await.expect("it has left").figures.arrivals, 31.0);
        two.set(&counting(5000));
        assert_eq!(read(&mut source, 7204, &[&one, &two]).await.expect("it is back").figures.arrivals, 31.0);
    }

    #[tokio::test]
    async fn a_draining_dispatcher_is_counted_until_it_is_gone_or_a_minute_has_passed() {
        let (mut source, one, two) = self::two().await;
        two.set(&counting(23));
        let draining = read(&mut source, 2, &[&one]).await.expect("unpublished, still there").figures;
        assert_eq!((draining.queue_length, draining.arrivals), (4.0, 33.0));
        two.stop().await;
        let gone = read(&mut source, 4, &[&one]).await.expect("whole without it").figures;
        assert_eq!((gone.queue_length, gone.arrivals), (2.0, 33.0));

        let (mut source, one, two) = self::two().await;
        for (at, enqueued, queue_length) in [(59, 11, 4.0), (61, 12, 4.0), (119, 13, 2.0), (121, 14, 2.0)] {
            one.set(&counting(enqueued));
            two.set(&counting(enqueued + 10));
            assert_eq!(read(&mut source, at, &[&one]).await.expect("whole").figures.queue_length, queue_length, "{at}");
        }
    }

    #[tokio::test]
    async fn an_answer_without_end_is_refused() {
        let stub = Stub::start(&"# padding\n".repeat(1 << 20)).await;
        let found = failures(read(&mut Dispatchers::new([]), 0, &[&stub]).await);
        assert!(matches!(&found[..], [Failure::Fetch(_)]), "{found:?}");
    }
}
