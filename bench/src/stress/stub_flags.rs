//! Flags for the stub replicas behind the dispatcher, and the capacity that follows from them.

use crate::stub::{AnswerDelay, Record, StubReplicas, StubSettings};
use anyhow::Result;
use clap::{Args, value_parser};
use service::options::positive_duration;
use std::time::{Duration, Instant};

/// The stubs behind the dispatcher.
#[derive(Debug, Args)]
pub(crate) struct StubFlags {
    /// Stub replicas, each for one request at a time
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u8).range(1..=100))]
    replicas: u8,
    /// Time that a stub takes for a request
    #[arg(long, default_value = "20ms", value_parser = positive_duration)]
    service_time: Duration,
}

impl StubFlags {
    /// Starts the stubs.
    ///
    /// # Errors
    /// When loopback has no ports left.
    pub(crate) fn start(&self) -> Result<StubReplicas> {
        let work = AnswerDelay::Fixed(self.service_time);
        StubReplicas::start(StubSettings { count: self.replicas.into(), work, ..StubSettings::default() })
    }

    /// Requests per second that the stubs can do by their flags.
    pub(crate) fn rate(&self) -> f64 {
        f64::from(self.replicas) / self.service_time.as_secs_f64()
    }

    /// Requests per second that the stubs could have done, by the time that they really took.
    pub(crate) fn capacity(&self, records: &[Record]) -> f64 {
        f64::from(self.replicas) * records.len() as f64 / busy(records, Instant::now()).as_secs_f64()
    }

    /// The share of the time from `start` to `end` in which the stubs worked, 0 to 1.
    pub(crate) fn utilisation(&self, records: &[Record], start: Instant, end: Instant) -> f64 {
        busy(records, end).as_secs_f64() / (end - start).as_secs_f64() / f64::from(self.replicas)
    }
}

/// Time that the stubs worked before `end`, summed over the requests.
fn busy(records: &[Record], end: Instant) -> Duration {
    records.iter().map(|record| record.done.min(end).saturating_duration_since(record.arrived)).sum()
}
