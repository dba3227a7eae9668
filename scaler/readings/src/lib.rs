//! The sources of readings. No figure is guessed: a reading says which dispatchers it lacks.

mod clock;
pub mod counters;
pub mod dispatchers;
pub mod endpoints;
mod exposition;
pub mod flags;
pub mod prometheus;
pub mod snapshot;

use counters::{Continuity, Counters};
use hyper::StatusCode;
use law::observation::Observation;
use service::fetch;
use snapshot::FigureFault;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

/// The figures of all dispatchers. Counters never go back, and never leap when a dispatcher comes, leaves, restarts or
/// is silent for a while.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// The figures and their time, without replicas. Requests and answers are sums over the dispatchers. The capacity
    /// is the largest of theirs, since they share the replicas.
    pub figures: Observation,
    /// A message that says which figures are missing, with the names of silent dispatchers; `None` if none are.
    pub silent: Option<String>,
}

/// The reason why there is no reading.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The number of dispatchers, and the errors of the silent ones, which are all of them.
    #[error("{failed} of {0} dispatchers gave no usable figures: {errors}", failed = .1.len(), errors = listed(.1))]
    Silent(usize, Vec<SnapshotError>),
    /// There is no time since the scaler's start at which the figures of all dispatchers are known. The next snapshots
    /// of the dispatchers bring it.
    #[error("not all dispatchers have been read since the start")]
    TooEarly,
    /// The query for which Prometheus has no series.
    #[error("Prometheus has no series for {0}; check its targets, --prometheus-selector and --prometheus-query")]
    NoDispatcher(String),
    /// Prometheus did not answer, or gave no usable answer.
    #[error(transparent)]
    Prometheus(#[from] prometheus_api::Error),
}

/// The reason why there is no snapshot of a dispatcher.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The name that has no usable addresses, and the reason. It counts as one dispatcher.
    #[error("resolve dns:{0}: {1}; check that it is a headless Service with a ready dispatcher")]
    Name(String, String),
    /// The dispatcher did not answer.
    #[error("{0}; is the dispatcher running there?")]
    Fetch(#[from] fetch::Error),
    /// The endpoint, and the HTTP status of its answer. A dispatcher would have answered with 200.
    #[error("{0} answers {1} on /metrics; give the address that serves the dispatcher's metrics")]
    Status(String, StatusCode),
    /// The dispatcher that Prometheus cannot scrape. Other dispatchers are scraped, or it has no earlier figures.
    #[error("Prometheus cannot scrape {0}; see the reason on its page /targets")]
    Down(String),
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
    /// The dispatcher, and the reason why its figures are not believed.
    #[error("{0}: {1}")]
    Figures(String, FigureFault),
}

/// A source of readings.
#[derive(Debug)]
pub enum ReadingSource {
    /// The dispatchers, which this program scrapes.
    Dispatchers(Box<dispatchers::Dispatchers>),
    /// A Prometheus that scrapes the dispatchers.
    Prometheus(Box<prometheus::Prometheus>),
}

impl ReadingSource {
    /// Makes a reading. `started` is the scaler's start.
    ///
    /// # Errors
    /// If the figures of all dispatchers are missing, too old or not believed.
    ///
    /// # Cancel safety
    /// A dropped call has counted nothing. The next call continues from the last reading.
    pub async fn read(&mut self, started: Instant) -> Result<Reading, Error> {
        match self {
            Self::Dispatchers(source) => source.read(started).await,
            Self::Prometheus(source) => source.read(started).await,
        }
    }
}

/// The silent dispatchers of the last reading, so that the log names each of them once.
#[derive(Debug, Default)]
struct Silence(BTreeSet<String>);

impl Silence {
    /// Makes a reading without the figures of the dispatchers `silent`, of `dispatchers` in all.
    fn reading(
        &mut self,
        counters: &mut Counters,
        dispatchers: usize,
        silent: BTreeMap<String, SnapshotError>,
    ) -> Result<Reading, Error> {
        if !silent.is_empty() && counters.endpoints().all(|endpoint| silent.contains_key(endpoint)) {
            return Err(Error::Silent(dispatchers, silent.into_values().collect()));
        }
        let figures = counters.sum(|endpoint| silent.contains_key(endpoint)).ok_or(Error::TooEarly)?;
        for error in silent.iter().filter(|(endpoint, _)| !self.0.contains(*endpoint)).map(|(_, error)| error) {
            tracing::warn!("a dispatcher is silent, so replicas are added but not removed: {error}");
        }
        for endpoint in self.0.iter().filter(|endpoint| !silent.contains_key(*endpoint)) {
            tracing::info!(endpoint, "the dispatcher is no longer silent");
        }
        self.0 = silent.keys().cloned().collect();
        let silent = match (silent.is_empty(), figures.is_partial) {
            (false, _) => Some(Error::Silent(dispatchers, silent.into_values().collect()).to_string()),
            (true, true) => Some("a dispatcher has come, left or restarted, and some of its counts are missing".into()),
            (true, false) => None,
        };
        Ok(Reading { figures: Observation { is_partial: silent.is_some(), ..figures }, silent })
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
