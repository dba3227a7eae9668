//! What is measured at once, and what that yields.

use super::wrk::Outcome;
use std::fmt;
use std::time::Duration;

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Server {
    /// The dispatcher.
    Roundhouse,
    /// A peer.
    Nginx,
    /// A peer.
    Haproxy,
    /// The replica itself, for what the others add.
    Direct,
}

impl Server {
    /// In tables and figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Roundhouse => "roundhouse",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Direct => "direct",
        }
    }
}

/// Ordered as a table shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// Bytes of a request.
    pub body: u32,
    /// Requests at once.
    pub connections: u32,
    /// Who answers them.
    pub server: Server,
}

impl Cell {
    /// The same load on another server.
    #[must_use]
    pub fn on(self, server: Server) -> Self {
        Self { server, ..self }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}, body {} B, connections {}", self.server.name(), self.body, self.connections)
    }
}

/// One cell in one round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Answered.
    pub requests_per_second: f64,
    /// Median latency in microseconds.
    pub p50_us: f64,
    /// Its 99th percentile.
    pub p99_us: f64,
    /// Microseconds of processor time of all the server's processes for one request; not counted for the replica.
    pub cpu_us: Option<f64>,
}

impl Sample {
    /// Of a stretch of load during which the server used `cpu`.
    pub fn of(outcome: &Outcome, cpu: Option<Duration>) -> Self {
        let requests = outcome.requests as f64;
        Self {
            requests_per_second: requests / outcome.length.as_secs_f64(),
            p50_us: outcome.p50.as_secs_f64() * 1e6,
            p99_us: outcome.p99.as_secs_f64() * 1e6,
            cpu_us: cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / requests),
        }
    }
}
