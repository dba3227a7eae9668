//! What all dispatchers say of themselves, as one reading. A reading is whole or an error: nothing here guesses.

pub mod dispatchers;
mod exposition;
pub mod flags;
pub mod ledger;
pub mod prometheus;
pub mod roster;
pub mod snapshot;

use hyper::StatusCode;
use law::histogram::Histogram;
use ledger::Entry;
use service::fetch;
use snapshot::Fault;
use std::fmt;
use std::time::Duration;

/// What the dispatchers say. Counters never go back and never leap when a dispatcher comes, goes or starts again.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// Requests waiting, over all dispatchers.
    pub queue_length: f64,
    /// Requests sent to replicas, unanswered, over all dispatchers.
    pub in_flight: f64,
    /// Requests that all replicas in rotation take at once. The dispatchers share the replicas, so this is the largest
    /// of their figures and not the sum.
    pub capacity: f64,
    /// Requests ever admitted or refused for want of capacity.
    pub arrivals: f64,
    /// Dispatched → answered, seconds, ever.
    pub service: Histogram,
    /// What a replica worked for an answer, seconds, ever: see [`service::wire::metric::REPLICA_WORK`].
    pub work: Histogram,
    /// Accepted → answered, seconds, ever.
    pub latency: Histogram,
    /// How old the oldest of these figures is; zero for a scrape.
    pub age: Duration,
}

/// Why there is no reading.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name has no addresses, or has had none for too long.
    #[error("resolve dns:{name}: {reason}; is it a headless Service with a ready dispatcher?")]
    Name {
        /// `NAME:PORT`
        name: String,
        /// The resolver's words.
        reason: String,
    },
    /// Without these dispatchers the figures would be too low.
    #[error("{} of {of} dispatchers gave no usable figures: {}", .failures.len(), listed(.failures))]
    Partial {
        /// How many there are.
        of: usize,
        /// At least one.
        failures: Vec<Failure>,
    },
    /// Prometheus knows of no dispatcher at all.
    #[error("Prometheus has no series for {query}; check its targets, --prometheus-selector and --prometheus-query")]
    Nobody {
        /// What was asked.
        query: String,
    },
    /// Prometheus knows when, or for whom, but not the other.
    #[error(
        "Prometheus has figures of {endpoint} but not their age; --prometheus-age-query must cover the same series"
    )]
    NoAge {
        /// Labels of the dispatcher.
        endpoint: String,
    },
    /// The figures are too old to act upon.
    #[error(
        "the figures of {endpoint} are {:.0} s old, over the limit of {:.0} s; does Prometheus still reach it? \
         (--prometheus-stale-after should be three scrape intervals)",
        .age.as_secs_f64(), .limit.as_secs_f64()
    )]
    Stale {
        /// Labels of the dispatcher.
        endpoint: String,
        /// Of its newest sample.
        age: Duration,
        /// What is permitted.
        limit: Duration,
    },
    /// Prometheus cannot be asked, or does not understand.
    #[error(transparent)]
    Prometheus(#[from] prometheus::client::Error),
}

/// Why one dispatcher's figures are missing.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nobody answered.
    #[error("{0}; is the dispatcher running there?")]
    Fetch(#[from] fetch::Error),
    /// Somebody else answered.
    #[error("{endpoint} answers {status} on /metrics; give the address that serves the dispatcher's metrics")]
    Status {
        /// Who.
        endpoint: String,
        /// Not 200.
        status: StatusCode,
    },
    /// Prometheus cannot scrape it, but others, or has not told its figures since this program started.
    #[error("{endpoint} is down for Prometheus; see its targets")]
    Down {
        /// Labels of the dispatcher.
        endpoint: String,
    },
    /// The figures cannot be true.
    #[error("{endpoint}: {fault}")]
    Figures {
        /// Who.
        endpoint: String,
        /// What is wrong with them.
        fault: Fault,
    },
}

/// Where readings come from.
#[derive(Debug)]
pub enum Observe {
    /// From the dispatchers' own `/metrics`.
    Dispatchers(dispatchers::Dispatchers),
    /// From a Prometheus that scrapes them.
    Prometheus(Box<prometheus::Prometheus>),
}

impl Observe {
    /// Reads once; `at` is the time since the scaler started.
    ///
    /// # Errors
    /// See [`Error`].
    ///
    /// # Cancel safety
    /// Dropped, it has read nothing; the next one goes on from what was read before.
    pub async fn read(&mut self, at: Duration) -> Result<Reading, Error> {
        match self {
            Self::Dispatchers(source) => source.read(at).await,
            Self::Prometheus(source) => source.read(at).await,
        }
    }
}

/// Says what no reading shows, since its counters go on.
fn tell(endpoint: &str, entry: Entry) {
    if entry == Entry::Restarted {
        tracing::info!(endpoint, "the dispatcher has started again; what it counts from zero is added to what it had");
    }
}

/// The first few, so that a message stays a line.
fn listed(failures: &[Failure]) -> impl fmt::Display {
    const SHOWN: usize = 3;
    let mut text: Vec<String> = failures.iter().take(SHOWN).map(ToString::to_string).collect();
    text.extend((failures.len() > SHOWN).then(|| format!("and {} more", failures.len() - SHOWN)));
    text.join("; ")
}
