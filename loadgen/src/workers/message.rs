//! The messages between coordinator and worker, but for the task. All are JSON. Does no I/O.

use crate::progress::ProgressReport;
use crate::slowest::SlowRequest;
use crate::tally::Tally;
use crate::timeline::SecondFigures;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Path of the worker's clock: GET answers a [`ClockReading`].
pub const CLOCK: &str = "/clock";

/// Path that takes a [`super::task::Task`]: POST answers with a [`WorkerLine`] in each line.
pub const RUN: &str = "/run";

/// Path that takes a [`Start`]: POST begins the load of the task.
pub const START: &str = "/start";

/// Path that ends the load early: POST without a body.
pub const STOP: &str = "/stop";

/// Media type of a task. A page in a browser cannot send it to a worker, since that takes the worker's consent.
pub const TASK_TYPE: &str = "application/x-loadgen-task";

/// Media type of the other bodies.
pub const JSON_TYPE: &str = "application/json";

/// Longest [`WorkerLine`], in bytes. The result with two full histograms has less than 12 MB.
pub const MAX_LINE_BYTES: usize = 16 << 20;

/// Longest body of the other messages, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 64 << 10;

/// A reading of the worker's clocks, and its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockReading {
    /// Version of the worker's loadgen.
    pub version: String,
    /// Whether the worker has a task.
    pub is_busy: bool,
    /// The worker's monotonic clock, in microseconds since its start.
    pub monotonic_us: u64,
    /// The worker's system clock, in microseconds since the Unix epoch.
    pub system_us: u64,
}

/// The start of the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The start on the worker's monotonic clock, in microseconds.
    pub start_us: u64,
}

/// A line of the answer to a task. [`WorkerLine::Ready`] is the first, [`WorkerLine::Result`] or [`WorkerLine::Failed`]
/// the last.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerLine {
    /// The worker has connected to the server, and waits for the start.
    Ready,
    /// The progress since the last such line. The worker sends one each second.
    Progress(Box<ProgressReport>),
    /// The figures of a second whose requests have ended. Figures of one second are added up.
    Second(Box<SecondFigures>),
    /// The figures of the worker's part.
    Result(Box<PartResult>),
    /// The reason why the worker cannot send its part.
    Failed(String),
}

impl WorkerLine {
    /// The line, with its end.
    pub fn to_bytes(&self) -> Bytes {
        let mut line = serde_json::to_vec(self).expect("a line has no map with other keys than strings");
        line.push(b'\n');
        line.into()
    }
}

/// The figures of a worker's part of the load.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PartResult {
    /// The figures of all requests.
    pub tally: Tally,
    /// The slowest requests, the slowest first.
    pub slowest: Vec<SlowRequest>,
    /// Requests in flight at the end of a part that was stopped, which had not missed the objective yet.
    pub unfinished: usize,
    /// Length of the part without its warm-up, in microseconds.
    pub length_us: u64,
    /// Whether the part came to its planned end.
    pub is_complete: bool,
}
