//! The flags for the stub replicas behind the dispatcher, and the capacity and utilisation of the stub replicas.

use crate::stub::{AnswerDelay, Record, StubReplicas, StubSettings};
use anyhow::Result;
use clap::{Args, value_parser};
use service::options::positive_duration;
use std::time::{Duration, Instant};

/// The flags for the stub replicas.
#[derive(Debug, Args)]
pub(crate) struct StubFlags {
    /// Number of stub replicas, each with one slot
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u8).range(1..=100))]
    replicas: u8,
    /// Time after which a stub replica answers a request
    #[arg(long, default_value = "20ms", value_parser = positive_duration)]
    service_time: Duration,
}

impl StubFlags {
    /// Starts the stub replicas.
    ///
    /// # Errors
    /// If no port on loopback is free.
    pub(crate) fn start(&self) -> Result<StubReplicas> {
        let answer_delay = AnswerDelay::Fixed(self.service_time);
        StubReplicas::start(StubSettings { count: self.replicas.into(), answer_delay, ..StubSettings::default() })
    }

    /// The capacity by the flags, in requests per second.
    pub(crate) fn rate(&self) -> f64 {
        f64::from(self.replicas) / self.service_time.as_secs_f64()
    }

    /// The capacity by the measured service times, in requests per second.
    pub(crate) fn capacity(&self, records: &[Record]) -> f64 {
        f64::from(self.replicas) * records.len() as f64 / busy(records, Instant::now()).as_secs_f64()
    }

    /// The share of the slots that were taken, averaged over the time from `start` to `end`, 0 to 1.
    pub(crate) fn utilisation(&self, records: &[Record], start: Instant, end: Instant) -> f64 {
        busy(records, end).as_secs_f64() / (end - start).as_secs_f64() / f64::from(self.replicas)
    }
}

/// The time before `end` in which slots were taken, summed over the requests.
fn busy(records: &[Record], end: Instant) -> Duration {
    records.iter().map(|record| record.done.min(end).saturating_duration_since(record.arrived)).sum()
}
