//! The figures of a run, and of each of its seconds, as reports have them. Pure.

use crate::latencies::{OfferedPercentiles, Percentiles};
use crate::usage::ReplicaUsage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The figures of a whole run. A latency is the time from the scheduled send time to the whole answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunSummary {
    /// Requests that were scheduled and have ended. After a stop, also those that were unanswered and had already missed
    /// the objective.
    pub offered: usize,
    /// Requests that were answered with status 200 and a prediction.
    pub answered: usize,
    /// Requests that were answered before the end of the run.
    #[serde(default)]
    pub answered_within_run: usize,
    /// Requests that ended without a prediction.
    pub failed: usize,
    /// Number of failed requests by error code.
    pub errors: BTreeMap<String, usize>,
    /// Share of right answers among the answers to labelled images, 0 to 1. Absent without such answers.
    pub accuracy: Option<f64>,
    /// Share of all offered requests that were answered within the objective, 0 to 1.
    pub attainment: f64,
    /// Good answers that came before the end of the run, per second of the run. A good answer came within the objective
    /// and is not known to be wrong.
    pub goodput_per_second: f64,
    /// Answers that came before the end of the run, per second of the run.
    pub throughput_per_second: f64,
    /// Latency of the answered requests, in milliseconds. Absent if no request was answered.
    pub latency_ms: Option<Percentiles>,
    /// Latency of all offered requests, in milliseconds. A failed request counts as infinitely slow.
    #[serde(default)]
    pub offered_latency_ms: OfferedPercentiles,
    /// Length of all requests' bodies together, in bytes.
    pub sent_bytes: u64,
    /// Length of all answers' bodies together, in bytes.
    pub received_bytes: u64,
    /// Use of replicas. Absent if no metrics have the number of replicas.
    pub usage: Option<ReplicaUsage>,
}

/// The figures of an interval: of the requests whose scheduled send time lies in some consecutive seconds of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IntervalSummary {
    /// First second of the interval, counted from 0 at the start of the run.
    pub second: usize,
    /// Length of the interval, in seconds.
    pub seconds: usize,
    /// Requests that were scheduled in the interval.
    pub offered: usize,
    /// Requests of the interval that were answered within the objective.
    pub within_objective: usize,
    /// Requests of the interval that failed.
    pub failed: usize,
    /// Latency of the answered requests, in milliseconds. Absent if no request was answered.
    pub latency_ms: Option<Percentiles>,
}

/// Converts a share (0 to 1) to per cent, rounded to 9 decimals. Without this rounding, 407 of 500 could be slightly
/// less than 81.4 %, and would breach the condition `attainment>=81.4`.
pub fn percent(share: f64) -> f64 {
    (1e11 * share).round() / 1e9
}
