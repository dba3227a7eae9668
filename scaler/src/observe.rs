//! The sources of readings. A reading has the figures of all dispatchers, or there is an error: no figure is guessed.

pub mod counters;
pub mod dispatchers;
pub mod endpoints;
mod exposition;
pub mod flags;
pub mod prometheus;
pub mod snapshot;

use counters::Continuity;
use hyper::StatusCode;
use law::observation::Observation;
use service::fetch;
use snapshot::FigureFault;
use std::fmt;
use std::time::Duration;

/// The figures of all dispatchers. Counters never go back, and never leap when a dispatcher comes, leaves or restarts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// The figures, without time and replicas. Requests and answers are sums over the dispatchers. The capacity is the
    /// largest of theirs, since they share the replicas.
    pub figures: Observation,
    /// The age of the oldest figure; zero for dispatchers that were scraped for this reading.
    pub age: Duration,
}

/// The reason why there is no reading.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name that has no usable addresses, and the reason.
    #[error("resolve dns:{0}: {1}; check that it is a headless Service with a ready dispatcher")]
    Name(String, String),
    /// The number of dispatchers, and the errors of those without figures. The sum of the others would be too low.
    #[error("{failed} of {0} dispatchers gave no usable figures: {errors}", failed = .1.len(), errors = listed(.1))]
    Partial(usize, Vec<SnapshotError>),
    /// The query for which Prometheus has no series.
    #[error("Prometheus has no series for {0}; check its targets, --prometheus-selector and --prometheus-query")]
    NoDispatcher(String),
    /// The dispatcher whose figures have no age.
    #[error("Prometheus has figures of {0} but not their age; --prometheus-age-query must cover the same series")]
    NoAge(String),
    /// The dispatcher, the age of its figures, and the limit of that age.
    #[error(
        "the figures of {0} are {age:.0} s old, over the limit of {limit:.0} s; does Prometheus still reach it? \
         (--prometheus-stale-after should be three scrape intervals)",
        age = .1.as_secs_f64(), limit = .2.as_secs_f64()
    )]
    Stale(String, Duration, Duration),
    /// Prometheus did not answer, or gave no usable answer.
    #[error(transparent)]
    Prometheus(#[from] prometheus_api::Error),
}

/// The reason why there is no snapshot of a dispatcher.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The dispatcher did not answer.
    #[error("{0}; is the dispatcher running there?")]
    Fetch(#[from] fetch::Error),
    /// The endpoint, and the HTTP status of its answer. A dispatcher would have answered with 200.
    #[error("{0} answers {1} on /metrics; give the address that serves the dispatcher's metrics")]
    Status(String, StatusCode),
    /// The dispatcher that Prometheus cannot scrape. Other dispatchers are scraped, or it has no earlier figures.
    #[error("Prometheus cannot scrape {0}; see the reason on its page /targets")]
    Down(String),
    /// The dispatcher, and the reason why its figures are not believed.
    #[error("{0}: {1}")]
    Figures(String, FigureFault),
}

/// A source of readings.
#[derive(Debug)]
pub enum ReadingSource {
    /// The dispatchers, which this program scrapes.
    Dispatchers(dispatchers::Dispatchers),
    /// A Prometheus that scrapes the dispatchers.
    Prometheus(Box<prometheus::Prometheus>),
}

impl ReadingSource {
    /// Makes a reading. `at` is the time since the scaler's start.
    ///
    /// # Errors
    /// If the figures of a dispatcher are missing, too old or not believed.
    ///
    /// # Cancel safety
    /// A dropped call has counted nothing. The next call continues from the last reading.
    pub async fn read(&mut self, at: Duration) -> Result<Reading, Error> {
        match self {
            Self::Dispatchers(source) => source.read(at).await,
            Self::Prometheus(source) => source.read(at).await,
        }
    }
}

/// Logs the restart of a dispatcher. No reading shows it, since the counters of readings go on.
fn log_restart(endpoint: &str, continuity: Continuity) {
    if continuity == Continuity::Restarted {
        tracing::info!(endpoint, "the dispatcher has started again; its new counts are added to those from before");
    }
}

/// The first three errors as a text. The errors of all dispatchers could be too long for a line of the log.
fn listed(errors: &[SnapshotError]) -> impl fmt::Display {
    const LISTED: usize = 3;
    let mut text: Vec<String> = errors.iter().take(LISTED).map(ToString::to_string).collect();
    text.extend((errors.len() > LISTED).then(|| format!("and {} more", errors.len() - LISTED)));
    text.join("; ")
}
