//! The figures of all dispatchers as one reading. A reading is whole, or there is an error: nothing here guesses.

pub mod counters;
pub mod dispatchers;
pub mod endpoints;
mod exposition;
pub mod flags;
pub mod prometheus;
pub mod snapshot;

use counters::Entry;
use hyper::StatusCode;
use law::observation::Observation;
use service::fetch;
use snapshot::Fault;
use std::fmt;
use std::time::Duration;

/// The figures of all dispatchers. Counters never go back, and never leap when a dispatcher comes, leaves or restarts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// The figures. Requests are those of all dispatchers together; since the dispatchers share the replicas, the capacity is
    /// the largest of theirs. Time and replicas are not known here.
    pub figures: Observation,
    /// Age of the oldest figure; zero for a scrape.
    pub age: Duration,
}

/// The reason why there is no reading.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name without addresses, and the resolver's words.
    #[error("resolve dns:{0}: {1}; is it a headless Service with a ready dispatcher?")]
    Name(String, String),
    /// The number of dispatchers, and the failures of some of them, without which the figures would be too low.
    #[error("{failed} of {0} dispatchers gave no usable figures: {why}", failed = .1.len(), why = listed(.1))]
    Partial(usize, Vec<Failure>),
    /// A query to which Prometheus knows no dispatcher at all.
    #[error("Prometheus has no series for {0}; check its targets, --prometheus-selector and --prometheus-query")]
    NoDispatcher(String),
    /// A dispatcher whose figures have no age.
    #[error("Prometheus has figures of {0} but not their age; --prometheus-age-query must cover the same series")]
    NoAge(String),
    /// A dispatcher, the age of its figures, and the oldest age that is acted upon.
    #[error(
        "the figures of {0} are {age:.0} s old, over the limit of {limit:.0} s; does Prometheus still reach it? \
         (--prometheus-stale-after should be three scrape intervals)",
        age = .1.as_secs_f64(), limit = .2.as_secs_f64()
    )]
    Stale(String, Duration, Duration),
    /// Prometheus cannot be asked, or does not understand.
    #[error(transparent)]
    Prometheus(#[from] prometheus_api::Error),
}

/// The reason why the figures of one dispatcher are missing.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The dispatcher did not answer.
    #[error("{0}; is the dispatcher running there?")]
    Fetch(#[from] fetch::Error),
    /// An endpoint, and the status with which another program than a dispatcher answers there.
    #[error("{0} answers {1} on /metrics; give the address that serves the dispatcher's metrics")]
    Status(String, StatusCode),
    /// A dispatcher that Prometheus cannot scrape while it scrapes others, or without any figures since this program
    /// started.
    #[error("{0} is down for Prometheus; see its targets")]
    Down(String),
    /// A dispatcher, and the reason why its figures cannot be true.
    #[error("{0}: {1}")]
    Figures(String, Fault),
}

/// A source of readings.
#[derive(Debug)]
pub enum Source {
    /// The dispatchers' own `/metrics`.
    Dispatchers(dispatchers::Dispatchers),
    /// A Prometheus that scrapes them.
    Prometheus(Box<prometheus::Prometheus>),
}

impl Source {
    /// Reads once, `at` after the scaler's start.
    ///
    /// # Errors
    /// See [`Error`].
    ///
    /// # Cancel safety
    /// If it is dropped, it has read nothing; the next call goes on from the last reading.
    pub async fn read(&mut self, at: Duration) -> Result<Reading, Error> {
        match self {
            Self::Dispatchers(source) => source.read(at).await,
            Self::Prometheus(source) => source.read(at).await,
        }
    }
}

/// Logs a restart, which no reading shows, since its counters go on.
fn log_restart(endpoint: &str, entry: Entry) {
    if entry == Entry::Restarted {
        tracing::info!(endpoint, "the dispatcher has started again; what it counts from zero is added to what it had");
    }
}

/// The first few failures, so that a message stays a line.
fn listed(failures: &[Failure]) -> impl fmt::Display {
    const SHOWN: usize = 3;
    let mut text: Vec<String> = failures.iter().take(SHOWN).map(ToString::to_string).collect();
    text.extend((failures.len() > SHOWN).then(|| format!("and {} more", failures.len() - SHOWN)));
    text.join("; ")
}
