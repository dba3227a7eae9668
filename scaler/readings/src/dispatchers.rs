//! Scrapes all dispatchers at the same time.
//!
//! A published dispatcher that does not answer is silent after two seconds. Until then, the readings wait for it, so
//! that no counts are lost if one scrape fails. A dispatcher that is no longer published may still be draining, so it is
//! scraped while it answers, for a minute at most.

use super::counters::Counters;
use super::endpoints::{DispatcherFlag, Endpoints};
use super::snapshot::Snapshot;
use super::{Error, Reading, Silence, SnapshotError, exposition, log_restart};
use futures_util::future::join_all;
use hyper::StatusCode;
use service::fetch;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Longest time for one scrape.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The longest time that a dispatcher drains: twice the grace that Kubernetes gives a pod by default.
const DRAINING: Duration = Duration::from_secs(60);

/// The age in seconds of a dispatcher's newest figures above which the readings do without them.
const SILENT_AFTER: f64 = 2.0;

/// The dispatchers as a source of readings.
#[derive(Debug)]
pub struct Dispatchers {
    endpoints: Endpoints,
    counters: Counters,
    silence: Silence,
    /// Dispatchers that are no longer published, with the time at which this was first seen.
    leaving: BTreeMap<String, Duration>,
}

/// The outcome of one scrape.
struct Answer {
    endpoint: String,
    /// The time since the scaler's start at which the answer was received.
    received: Duration,
    snapshot: Result<Snapshot, SnapshotError>,
}

impl Dispatchers {
    /// A source that scrapes the dispatchers that `flags` name.
    pub fn new(flags: impl IntoIterator<Item = DispatcherFlag>) -> Self {
        let (counters, silence) = (Counters::default(), Silence::default());
        Self { endpoints: Endpoints::new(flags), counters, silence, leaving: BTreeMap::new() }
    }

    /// Scrapes all dispatchers once. `started` is the scaler's start.
    pub async fn read(&mut self, started: Instant) -> Result<Reading, Error> {
        let (published, unresolved) = self.endpoints.published(started.elapsed()).await;
        let answers = self.scrape(started, &published).await;
        self.enter(started.elapsed(), &published, unresolved, answers)
    }

    /// Scrapes the published dispatchers, and those that may still be draining.
    async fn scrape(&self, started: Instant, published: &BTreeSet<String>) -> Vec<Answer> {
        let draining = self.counters.endpoints().filter(|endpoint| !published.contains(*endpoint));
        let all = published.iter().map(String::as_str).chain(draining);
        join_all(all.map(async |endpoint| {
            let snapshot = snapshot(endpoint).await;
            Answer { endpoint: endpoint.into(), received: started.elapsed(), snapshot }
        }))
        .await
    }

    /// Makes a reading of the answers of all scrapes. `at` is the time since the scaler's start. Each name of
    /// `unresolved` counts as a silent dispatcher.
    fn enter(
        &mut self,
        at: Duration,
        published: &BTreeSet<String>,
        unresolved: BTreeMap<String, SnapshotError>,
        answers: Vec<Answer>,
    ) -> Result<Reading, Error> {
        let dispatchers = published.len() + unresolved.len();
        self.leaving.retain(|endpoint, _| !published.contains(endpoint));
        // The readings wait for dispatchers that have failed only lately.
        let (mut silent, mut failed) = (unresolved, BTreeMap::new());
        for Answer { endpoint, received, snapshot } in answers {
            let entered = snapshot.map(|snapshot| self.counters.enter(&endpoint, received.as_secs_f64(), snapshot));
            if !published.contains(&endpoint) {
                let since = *self.leaving.entry(endpoint.clone()).or_insert(at);
                if !matches!(entered, Ok(Ok(_))) || at.saturating_sub(since) >= DRAINING {
                    tracing::info!(endpoint, "the dispatcher has left");
                    self.counters.close(&endpoint);
                    self.leaving.remove(&endpoint);
                }
                continue;
            }
            let newest = self.counters.newest(&endpoint);
            match entered {
                Ok(Ok(continuity)) => log_restart(&endpoint, continuity),
                Ok(Err(fault)) => {
                    let error = SnapshotError::Figures(endpoint.clone(), fault);
                    silent.insert(endpoint, error);
                }
                Err(error) if newest.is_some_and(|newest| at.as_secs_f64() < newest + SILENT_AFTER) => {
                    failed.insert(endpoint, error);
                }
                Err(error) => _ = silent.insert(endpoint, error),
            }
        }
        if silent.len() + failed.len() == dispatchers {
            silent.append(&mut failed);
            return Err(Error::Silent(dispatchers, silent.into_values().collect()));
        }
        self.silence.reading(&mut self.counters, dispatchers, silent)
    }
}

async fn snapshot(endpoint: &str) -> Result<Snapshot, SnapshotError> {
    let (mut status, mut body) = fetch::get(endpoint, "/metrics/sums", TIMEOUT).await?;
    if status == StatusCode::NOT_FOUND {
        // A dispatcher of an older version has only the answer with a series for each replica.
        (status, body) = fetch::get(endpoint, "/metrics", TIMEOUT).await?;
    }
    if status != StatusCode::OK {
        return Err(SnapshotError::Status(endpoint.into(), status));
    }
    let samples = exposition::parse(&body).and_then(|samples| Snapshot::of(&samples));
    samples.map_err(|fault| SnapshotError::Figures(endpoint.into(), fault))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;
    use hyper::body::Incoming;
    use service::respond;
    use tokio::net::TcpListener;
    use tokio::sync::watch;
    use tokio::task::JoinHandle;

    /// A dispatcher whose answer a test sets: a text with metrics, `silence` or `503`. The texts are the answer of one
    /// path only.
    struct StubDispatcher {
        endpoint: String,
        metrics: watch::Sender<String>,
        server: JoinHandle<()>,
    }

    impl StubDispatcher {
        async fn start(metrics: &str) -> Self {
            Self::start_with("/metrics/sums", metrics).await
        }

        async fn start_with(path: &'static str, metrics: &str) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let endpoint = listener.local_addr().expect("bound").to_string();
            let (metrics, set) = watch::channel(metrics.to_owned());
            let handle = move |request: Request<Incoming>| {
                let text = set.borrow().clone();
                async move {
                    match text.as_str() {
                        _ if request.uri().path() != path => respond::not_found(request.uri().path(), "", ""),
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
            "dispatcher_queue_length 2\ndispatcher_in_flight{{replica=\"r:1\"}} 0\ndispatcher_capacity 8\n\
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

    /// Makes a reading at `at` seconds. The answers count as received at that time.
    async fn read(source: &mut Dispatchers, at: u64, published: &[&StubDispatcher]) -> Result<Reading, Error> {
        let published = published.iter().map(|stub| stub.endpoint.clone()).collect();
        let answers = source.scrape(Instant::now(), &published).await;
        let at = Duration::from_secs(at);
        let answers = answers.into_iter().map(|answer| Answer { received: at, ..answer }).collect();
        source.enter(at, &published, BTreeMap::new(), answers)
    }

    /// The queue length and the arrivals of a whole reading.
    async fn figures(source: &mut Dispatchers, at: u64, published: &[&StubDispatcher]) -> (f64, f64) {
        let reading = read(source, at, published).await.unwrap_or_else(|error| panic!("at {at} s: {error}"));
        assert_eq!((reading.figures.at, &reading.silent), (Duration::from_secs(at), &None));
        (reading.figures.queue_length, reading.figures.arrivals)
    }

    /// The message of a partial reading about the silent dispatcher, with the queue length and the arrivals.
    async fn partial(source: &mut Dispatchers, at: u64, published: &[&StubDispatcher]) -> (String, f64, f64) {
        let Reading { figures, silent } = read(source, at, published).await.expect("the other one speaks");
        assert!(figures.is_partial && figures.at == Duration::from_secs(at), "{figures:?}");
        (silent.expect("one is silent"), figures.queue_length, figures.arrivals)
    }

    #[tokio::test]
    async fn a_dispatcher_without_sums_is_asked_for_all_its_metrics() {
        let (new, old) =
            (StubDispatcher::start(&counting(10)).await, StubDispatcher::start_with("/metrics", &counting(20)).await);
        let mut source = Dispatchers::new([]);
        assert_eq!(figures(&mut source, 0, &[&new, &old]).await, (4.0, 30.0));
    }

    #[tokio::test]
    async fn several_dispatchers_are_one_reading() {
        let (one, two) = (StubDispatcher::start(&counting(10)).await, StubDispatcher::start(&counting(20)).await);
        let mut source = Dispatchers::new([&one, &two].map(|stub| stub.endpoint.parse().expect("an address")));
        let started = Instant::now();
        let reading = loop {
            // The answers come at two times, so the first ones may have no time in common.
            match source.read(started).await {
                Err(Error::TooEarly) => tokio::time::sleep(Duration::from_millis(10)).await,
                outcome => break outcome.expect("whole"),
            }
        };
        let Reading { figures, silent } = reading;
        assert_eq!((figures.queue_length, figures.in_flight, figures.capacity), (4.0, 0.0, 8.0));
        assert_eq!((figures.arrivals, figures.is_partial, silent), (30.0, false, None));
        assert!(figures.at <= started.elapsed());
    }

    #[tokio::test]
    async fn a_dispatcher_without_an_answer_is_silent_until_it_answers_or_is_unpublished() {
        let (mut source, one, two) = two().await;
        let both = [&one, &two];
        two.set("silence");
        one.count(11);
        let began = Instant::now();
        let waiting = read(&mut source, 1, &both).await.expect("the last figures");
        assert!(began.elapsed() < 5 * TIMEOUT, "a scrape is bounded");
        assert_eq!((waiting.figures.at, waiting.silent), (Duration::ZERO, None), "one scrape may fail");
        let (hung, queue_length, arrivals) = partial(&mut source, 2, &both).await;
        assert!(hung.contains("1 of 2") && hung.contains(&two.endpoint) && !hung.contains(&one.endpoint), "{hung}");
        assert_eq!((queue_length, arrivals), (2.0, 31.0), "without the silent one");
        two.set("503");
        assert!(partial(&mut source, 4, &both).await.0.contains("503"));
        two.set("dispatcher_queue_length NaN");
        assert!(partial(&mut source, 6, &both).await.0.contains("NaN"));
        two.set(&"# padding\n".repeat(1 << 20));
        assert!(partial(&mut source, 8, &both).await.0.contains("more than"), "an answer without end");
        one.set("silence");
        match read(&mut source, 9, &both).await {
            Err(Error::Silent(2, errors)) => assert!(matches!(errors[..], [SnapshotError::Fetch(_), _])),
            other => panic!("{other:?}"),
        }

        // Of the 10 requests of 10 s, those since the last reading count.
        one.count(11);
        two.count(30);
        assert_eq!(figures(&mut source, 10, &both).await, (4.0, 33.0), "it is back");
        one.count(12);
        two.set("silence");
        assert_eq!(partial(&mut source, 7200, &both).await.2, 34.0, "for as long as it is published");
        let (missing, _, arrivals) = partial(&mut source, 7202, &[&one]).await;
        assert!(missing.contains("left") && arrivals == 34.0, "it has left: {missing}");
        assert_eq!(figures(&mut source, 7204, &[&one]).await.1, 34.0, "without it");
        two.count(5000);
        assert_eq!(partial(&mut source, 7206, &both).await.2, 34.0, "a new one");
        assert_eq!(figures(&mut source, 7208, &both).await.1, 34.0, "its counts are known from now on");
    }

    #[tokio::test]
    async fn a_name_without_addresses_leaves_the_figures_of_the_others() {
        let one = StubDispatcher::start(&counting(10)).await;
        let flags = [one.endpoint.as_str(), "dns:no-such-host.invalid:5052"];
        let mut source = Dispatchers::new(flags.map(|flag| flag.parse().expect("a place")));
        let Reading { figures, silent } = source.read(Instant::now()).await.expect("one dispatcher speaks");
        let silent = silent.expect("the name has no addresses");
        assert!(silent.contains("1 of 2") && silent.contains("dns:no-such-host.invalid:5052"), "{silent}");
        assert_eq!((figures.is_partial, figures.arrivals), (true, 10.0));
        let mut source = Dispatchers::new(["dns:no-such-host.invalid:5052".parse().expect("a place")]);
        assert!(matches!(source.read(Instant::now()).await, Err(Error::Silent(1, _))), "no dispatcher is published");
    }

    #[tokio::test]
    async fn figures_that_are_not_believed_make_the_reading_partial_at_once() {
        let (mut source, one, two) = two().await;
        two.count(1 << 31);
        let (message, _, arrivals) = partial(&mut source, 1, &[&one, &two]).await;
        assert!(message.contains("grew by") && arrivals == 30.0, "{message}");
    }

    #[tokio::test]
    async fn a_draining_dispatcher_is_counted_until_it_is_gone_or_a_minute_has_passed() {
        let (mut source, one, two) = self::two().await;
        two.count(23);
        assert_eq!(figures(&mut source, 2, &[&one]).await, (4.0, 33.0), "unpublished, still there");
        two.server.abort();
        let _cancelled = two.server.await;
        assert_eq!(partial(&mut source, 4, &[&one]).await.2, 33.0, "gone before it was idle");
        assert_eq!(figures(&mut source, 6, &[&one]).await, (2.0, 33.0), "gone");

        let (mut source, one, two) = self::two().await;
        for at in [2, 4] {
            two.count(23);
            assert_eq!(figures(&mut source, at, &[&one]).await, (4.0, 33.0), "drained");
        }
        two.server.abort();
        let _cancelled = two.server.await;
        assert_eq!(figures(&mut source, 6, &[&one]).await, (2.0, 33.0), "all its counts are known");

        let (mut source, one, two) = self::two().await;
        for (at, enqueued, queue_length) in [(59, 11, 4.0), (61, 12, 4.0), (119, 13, 2.0)] {
            one.count(enqueued);
            two.count(enqueued + 10);
            assert_eq!(figures(&mut source, at, &[&one]).await.0, queue_length, "at {at} s");
        }
        assert_eq!(partial(&mut source, 121, &[&one]).await.1, 2.0, "it was not idle at the end");
    }
}
