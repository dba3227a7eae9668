//! A cell of the table: one server, one body size and one number of connections, and the measurements of a cell in one
//! round.

use super::wrk::WrkReport;
use std::fmt;
use std::time::Duration;

/// A server to which wrk sends requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ServerKind {
    /// The dispatcher.
    Roundhouse,
    /// NGINX.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// HAProxy with a queue: the slots of a replica bound the requests that it gets, and the others wait.
    HaproxyQueue,
    /// The stub replica behind the other servers. They add latency to its own.
    Direct,
}

impl ServerKind {
    /// The server's name in tables and figures.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Roundhouse => "roundhouse",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::HaproxyQueue => "haproxy-queue",
            Self::Direct => "direct",
        }
    }
}

/// A server with the load on it. Its order is that of the tables and their rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TableCell {
    /// Bytes of a request's body.
    pub(crate) body: u32,
    /// Number of connections, each with one request at a time.
    pub(crate) connections: u32,
    /// The server to which wrk sends the requests.
    pub(crate) server: ServerKind,
}

impl TableCell {
    /// The cell of another server with the same load.
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
    /// Requests that were answered per second.
    pub(crate) requests_per_second: f64,
    /// The median latency in microseconds.
    pub(crate) p50_us: f64,
    /// The 99th percentile of the latency in microseconds.
    pub(crate) p99_us: f64,
    /// The processor time of all processes of the server for one request, in microseconds; `None` for the stub replica.
    pub(crate) cpu_us: Option<f64>,
}

impl CellMeasurement {
    /// The measurements of a run of wrk in which the server's processes used the processor time `cpu`.
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
