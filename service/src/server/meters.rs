//! The metrics of the connections of one listener: their names, their HELP texts and their values.

use super::limits::Limit;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

/// Gauge by `listener` (main, admin or external-metrics): open connections.
const CONNECTIONS: &str = "http_connections";
/// Gauge by `listener`: connections with a request whose answer is not yet sent.
const BUSY_CONNECTIONS: &str = "http_busy_connections";
/// Counter by `listener` and `reason`: connections that a limit has closed.
const CLOSED: &str = "http_connections_closed_total";

/// The names of the metrics of connections, which every program exports.
pub const CONNECTION_METRICS: [&str; 3] = [CONNECTIONS, BUSY_CONNECTIONS, CLOSED];

/// The metrics of one listener. Each handle is looked up once, because a look-up hashes the name and the labels.
#[derive(Debug)]
pub(super) struct ConnectionMeters {
    /// Open connections.
    pub(super) open: Gauge,
    /// Connections with a request whose answer is not yet sent.
    pub(super) busy: Gauge,
    /// The counters of connections that a limit has closed, in the order of [`Limit::ALL`].
    closed: [Counter; Limit::ALL.len()],
}

impl ConnectionMeters {
    /// The metrics of the listener with this name. All of them exist from now on, since a rate over a counter that begins
    /// at 1 is too small.
    pub(super) fn new(listener: &'static str) -> Self {
        describe_gauge!(CONNECTIONS, "Open connections of a listener.");
        describe_gauge!(BUSY_CONNECTIONS, "Connections with a request whose answer is not yet sent.");
        describe_counter!(
            CLOSED,
            "Connections that a limit has closed: idle, header_timeout, write_timeout, age, per_peer or head_memory."
        );
        let (open, busy) =
            (gauge!(CONNECTIONS, "listener" => listener), gauge!(BUSY_CONNECTIONS, "listener" => listener));
        open.set(0.0);
        busy.set(0.0);
        let counter = |limit: Limit| counter!(CLOSED, "listener" => listener, "reason" => limit.as_str());
        Self { open, busy, closed: Limit::ALL.map(counter) }
    }

    /// Counts a connection that `limit` has closed.
    pub(super) fn count_closed(&self, limit: Limit) {
        self.closed[limit as usize].increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_documents_list_the_metrics_and_their_reasons() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/api.md");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        let reasons = Limit::ALL.map(Limit::as_str).join(", ");
        for row in [
            format!("| `{CONNECTIONS}` | gauge | `listener` = main, admin, external-metrics |"),
            format!("| `{BUSY_CONNECTIONS}` | gauge | `listener` = main, admin, external-metrics |"),
            format!("| `{CLOSED}` | counter | `listener` = main, admin, external-metrics, `reason` = {reasons} |"),
        ] {
            assert!(text.lines().any(|line| line.starts_with(&row)), "docs/api.md lacks the row {row}");
        }
        let listed = text.lines().filter(|line| line.starts_with("| `http_")).count();
        assert_eq!(listed, 3, "docs/api.md lists metrics of connections that no program exports");
    }
}
