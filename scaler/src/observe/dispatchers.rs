//! Scrapes all dispatchers at the same time.
//!
//! A published dispatcher that does not answer makes the reading partial. A dispatcher that is no longer published may
//! still be draining, so it is scraped while it answers, for a minute at most.

use super::counters::Counters;
use super::endpoints::{DispatcherFlag, Endpoints};
use super::snapshot::Snapshot;
use super::{Error, Reading, SnapshotError, exposition, log_restart};
use futures_util::future::join_all;
use hyper::StatusCode;
use service::fetch;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Longest time for one scrape.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The longest time that a dispatcher drains: twice the grace that Kubernetes gives a pod by default.
const DRAINING: Duration = Duration::from_secs(60);

/// The dispatchers as a source of readings.
#[derive(Debug)]
pub struct Dispatchers {
    endpoints: Endpoints,
    counters: Counters,
    /// Dispatchers that are no longer published, with the time at which this was first seen.
    leaving: BTreeMap<String, Duration>,
}

impl Dispatchers {
    /// A source that scrapes the dispatchers that `flags` name.
    pub fn new(flags: impl IntoIterator<Item = DispatcherFlag>) -> Self {
        Self { endpoints: Endpoints::new(flags), counters: Counters::default(), leaving: BTreeMap::new() }
    }

    /// Scrapes all dispatchers once. `at` is the time since the scaler's start.
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
        let answers: Vec<(String, Result<Snapshot, SnapshotError>)> =
            join_all(all.map(async |endpoint| (endpoint.clone(), snapshot(endpoint).await))).await;

        let mut errors = Vec::new();
        for (endpoint, answer) in answers {
            let entered = answer.and_then(|snapshot| {
                let entered = self.counters.enter(&endpoint, at.as_secs_f64(), snapshot);
                entered.map_err(|fault| SnapshotError::Figures(endpoint.clone(), fault))
            });
            match (entered, self.leaving.get(&endpoint)) {
                (Ok(continuity), None) => log_restart(&endpoint, continuity),
                (Err(error), None) => errors.push(error),
                (Ok(_), Some(&since)) if at.saturating_sub(since) < DRAINING => {}
                (_, Some(_)) => {
                    tracing::info!(endpoint, "the dispatcher has left");
                    self.counters.close(&endpoint);
                    self.leaving.remove(&endpoint);
                }
            }
        }
        match errors.is_empty() {
            true => Ok(self.counters.sum(Duration::ZERO)),
            false => Err(Error::Partial(published.len(), errors)),
        }
    }
}

async fn snapshot(endpoint: &str) -> Result<Snapshot, SnapshotError> {
    let (status, body) = fetch::get(endpoint, "/metrics", TIMEOUT).await?;
    if status != StatusCode::OK {
        return Err(SnapshotError::Status(endpoint.into(), status));
    }
    let samples = exposition::parse(&body).and_then(|samples| Snapshot::of(&samples));
    samples.map_err(|fault| SnapshotError::Figures(endpoint.into(), fault))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::snapshot::FigureFault;
    use hyper::Request;
    use hyper::body::Incoming;
    use service::respond;
    use std::time::Instant;
    use tokio::net::TcpListener;
    use tokio::sync::watch;
    use tokio::task::JoinHandle;

    /// A dispatcher whose answer a test sets: a text with metrics, `silence` or `503`.
    struct StubDispatcher {
        endpoint: String,
        metrics: watch::Sender<String>,
        server: JoinHandle<()>,
    }

    impl StubDispatcher {
        async fn start(metrics: &str) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let endpoint = listener.local_addr().expect("bound").to_string();
            let (metrics, set) = watch::channel(metrics.to_owned());
            let handle = move |request: Request<Incoming>| {
                assert_eq!(request.uri().path(), "/metrics");
                let text = set.borrow().clone();
                async move {
                    match text.as_str() {
                        "silence" => std::future::pending().await,
                        "503" => respond::json(StatusCode::SERVICE_UNAVAILABLE, &"starting"),
                        _ => respond::text("text/plain", text),
                    }
                }
            };
            let end = std::future::pending();
            let server = tokio::spawn(service::server::serve(listener, None, handle, end, Duration::ZERO));
            Self { endpoint, metrics, server }
        }

        fn set(&self, metrics: &str) {
            self.metrics.send_replace(metrics.to_owned());
        }

        /// Sets the number of admitted requests.
        fn count(&self, enqueued: u32) {
            self.set(&counting(enqueued));
        }
    }

    fn counting(enqueued: u32) -> String {
        format!(
            "dispatcher_queue_length 2\ndispatcher_in_flight{{replica=\"r:1\"}} 1\ndispatcher_capacity 8\n\
             dispatcher_enqueued_requests_total {enqueued}\n"
        )
    }

    /// Two dispatchers that have admitted 10 and 20 requests, and a source that has read them at 0 s.
    async fn two() -> (Dispatchers, StubDispatcher, StubDispatcher) {
        let (one, two) = (StubDispatcher::start(&counting(10)).await, StubDispatcher::start(&counting(20)).await);
        let mut source = Dispatchers::new([]);
        assert_eq!(figures(&mut source, 0, &[&one, &two]).await, (4.0, 30.0));
        (source, one, two)
    }

    async fn read(source: &mut Dispatchers, at: u64, published: &[&StubDispatcher]) -> Result<Reading, Error> {
        let published = published.iter().map(|stub| stub.endpoint.clone()).collect();
        source.scrape(Duration::from_secs(at), &published).await
    }

    /// The queue length and the arrivals of a whole reading.
    async fn figures(source: &mut Dispatchers, at: u64, published: &[&StubDispatcher]) -> (f64, f64) {
        let figures = read(source, at, published).await.unwrap_or_else(|error| panic!("at {at} s: {error}")).figures;
        (figures.queue_length, figures.arrivals)
    }

    /// The only error of a partial reading.
    async fn only_error(source: &mut Dispatchers, at: u64, published: &[&StubDispatcher]) -> SnapshotError {
        match read(source, at, published).await {
            Err(Error::Partial(_, mut errors)) if errors.len() == 1 => errors.remove(0),
            other => panic!("at {at} s: {other:?}"),
        }
    }

    #[tokio::test]
    async fn several_dispatchers_are_one_reading() {
        let (one, two) = (StubDispatcher::start(&counting(10)).await, StubDispatcher::start(&counting(20)).await);
        let mut source = Dispatchers::new([&one, &two].map(|stub| stub.endpoint.parse().expect("an address")));
        let Reading { figures, age } = source.read(Duration::ZERO).await.expect("whole");
        assert_eq!((figures.queue_length, figures.in_flight, figures.capacity), (4.0, 2.0, 8.0));
        assert_eq!((figures.arrivals, age), (30.0, Duration::ZERO));
        one.count(3);
        two.count(21);
        assert_eq!(source.read(Duration::from_secs(2)).await.expect("whole").figures.arrivals, 34.0);
    }

    #[tokio::test]
    async fn a_dispatcher_without_an_answer_makes_the_reading_partial_until_it_is_unpublished() {
        let (mut source, one, two) = two().await;
        let both = [&one, &two];
        two.set("silence");
        let began = Instant::now();
        let hung = only_error(&mut source, 2, &both).await;
        assert!(began.elapsed() < 5 * TIMEOUT, "a scrape is bounded");
        assert!(matches!(&hung, SnapshotError::Fetch(_)) && hung.to_string().contains(&two.endpoint), "{hung}");
        two.set("503");
        assert!(matches!(only_error(&mut source, 4, &both).await, SnapshotError::Status(..)));
        two.set("dispatcher_queue_length NaN");
        assert!(matches!(only_error(&mut source, 6, &both).await, SnapshotError::Figures(_, FigureFault::Number(..))));
        two.set(&"# padding\n".repeat(1 << 20));
        assert!(matches!(only_error(&mut source, 8, &both).await, SnapshotError::Fetch(_)), "an answer without end");
        two.set("silence");
        assert!(read(&mut source, 7200, &both).await.is_err(), "for as long as it is published");

        one.count(11);
        assert_eq!(figures(&mut source, 7202, &[&one]).await.1, 31.0, "it has left");
        two.count(5000);
        assert_eq!(figures(&mut source, 7204, &both).await.1, 31.0, "it is back");
    }

    #[tokio::test]
    async fn a_draining_dispatcher_is_counted_until_it_is_gone_or_a_minute_has_passed() {
        let (mut source, one, two) = self::two().await;
        two.count(23);
        assert_eq!(figures(&mut source, 2, &[&one]).await, (4.0, 33.0), "unpublished, still there");
        two.server.abort();
        let _cancelled = two.server.await;
        assert_eq!(figures(&mut source, 4, &[&one]).await, (2.0, 33.0), "gone");

        let (mut source, one, two) = self::two().await;
        for (at, enqueued, queue_length) in [(59, 11, 4.0), (61, 12, 4.0), (119, 13, 2.0), (121, 14, 2.0)] {
            one.count(enqueued);
            two.count(enqueued + 10);
            assert_eq!(figures(&mut source, at, &[&one]).await.0, queue_length, "at {at} s");
        }
    }
}
