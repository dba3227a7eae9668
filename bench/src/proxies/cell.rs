//! One load on one server, and what a round measures of it.

use super::wrk::WrkReport;
use std::fmt;
use std::time::Duration;

/// The server that answers wrk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ServerKind {
    /// The dispatcher.
    Roundhouse,
    Nginx,
    Haproxy,
    /// The replica itself; the others add their latency to its.
    Direct,
}

impl ServerKind {
    /// The server's name in tables and figures.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Roundhouse => "roundhouse",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Direct => "direct",
        }
    }
}

/// A load on a server. Ordered as the rows of a table are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TableCell {
    /// Bytes of a request's body.
    pub(crate) body: u32,
    /// Connections, each with one request at a time.
    pub(crate) connections: u32,
    pub(crate) server: ServerKind,
}

impl TableCell {
    /// The same load on another server.
    #[must_use]
    pub(crate) fn on(self, server: ServerKind) -> Self {
        Self { server, ..self }
    }
}

impl fmt::Display for TableCell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}, body {} B, connections {}", self.server.name(), self.body, self.connections)
    }
}

/// The measurements of one cell in one round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct CellMeasurement {
    /// Answered requests.
    pub(crate) requests_per_second: f64,
    /// Median latency, microseconds.
    pub(crate) p50_us: f64,
    /// 99th percentile of the latency, microseconds.
    pub(crate) p99_us: f64,
    /// Processor time of all the server's processes for one request, microseconds; `None` for the replica.
    pub(crate) cpu_us: Option<f64>,
}

impl CellMeasurement {
    /// The sample of a run of wrk during which the server used `cpu`.
    pub(crate) fn new(report: &WrkReport, cpu: Option<Duration>) -> Self {
        let requests = report.requests as f64;
        Self {
            requests_per_second: requests / report.length.as_secs_f64(),
            p50_us: report.p50.as_secs_f64() * 1e6,
            p99_us: report.p99.as_secs_f64() * 1e6,
            cpu_us: cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / requests),
        }
    }
}
