//! The limit of open files, where it permits fewer connections than a run may need. Pure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A run with fewer connections than this may be too slow for the load, so the limit is reported at its start.
const FEW: usize = 1000;

/// The number of connections that the limit of open files permits, where it is less than the default of
/// `--connections`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectionLimit {
    /// The limit of open files of loadgen (`ulimit -n`).
    pub open_files: u64,
    /// The number of connections that this limit permits.
    pub connections: usize,
}

impl ConnectionLimit {
    /// Whether so few connections are permitted that many loads need more.
    pub fn is_low(&self) -> bool {
        self.connections < FEW
    }
}

impl fmt::Display for ConnectionLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { open_files, connections } = self;
        let plural = if *connections == 1 { "" } else { "s" };
        write!(f, "the limit of {open_files} open files permits only {connections} connection{plural}; ")?;
        f.write_str("raise it before the start (ulimit -n, or ulimit -Hn for its upper bound)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_and_its_remedy_are_named() {
        let text = ConnectionLimit { open_files: 64, connections: 1 }.to_string();
        assert!(text.starts_with("the limit of 64 open files permits only 1 connection;"), "{text}");
        assert!(text.contains("ulimit -n"), "{text}");
        assert!(ConnectionLimit { open_files: 1024, connections: 928 }.is_low());
        assert!(!ConnectionLimit { open_files: 4096, connections: 3904 }.is_low());
    }
}
