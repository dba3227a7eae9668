//! Flags that several programs take, so that each flag is described once.

use crate::body;
use clap::Args;
use std::time::Duration;

/// Flags of every program that runs as a server.
#[derive(Debug, Clone, Args)]
pub struct Process {
    /// Drain and exit when standard input closes, that is, when the parent process ends
    #[arg(long)]
    pub exit_with_parent: bool,
    /// Log level: error, warn, info or debug; or a list such as dispatcher=debug,info
    #[arg(long, env = "ROUNDHOUSE_LOG", default_value = "info")]
    pub log: String,
}

/// Flags of a program that answers requests with images: limits of one request, and the end of the process.
#[derive(Debug, Clone, Args)]
pub struct RequestLimits {
    /// Largest body of a request, in bytes
    #[arg(long, env = "ROUNDHOUSE_MAX_BODY_BYTES", default_value_t = 20 << 20)]
    pub max_body_bytes: u64,
    /// Time in which a body must arrive
    #[arg(long, env = "ROUNDHOUSE_BODY_TIMEOUT", default_value = "10s", value_parser = positive_duration)]
    pub body_timeout: Duration,
    /// Longest time for a request, even if its client allows more
    #[arg(long, env = "ROUNDHOUSE_DEADLINE", default_value = "5s", value_parser = positive_duration)]
    pub deadline: Duration,
    /// After SIGTERM, how long new requests are still accepted
    #[arg(long, env = "ROUNDHOUSE_DRAIN_DELAY", default_value = "0s", value_parser = humantime::parse_duration)]
    pub drain_delay: Duration,
    /// After that, how long accepted requests may take to finish
    #[arg(long, env = "ROUNDHOUSE_GRACE", default_value = "10s", value_parser = humantime::parse_duration)]
    pub grace: Duration,
}

impl RequestLimits {
    /// The limits of one body, whose bytes count towards `memory_budget`.
    pub fn body(&self, memory_budget: body::MemoryBudget) -> body::Limits {
        body::Limits { max_bytes: self.max_body_bytes as usize, timeout: self.body_timeout, memory_budget }
    }

    /// The time for a request whose client asks for `requested`: never more than [`RequestLimits::deadline`].
    pub fn timeout(&self, requested: Option<Duration>) -> Duration {
        requested.map_or(self.deadline, |requested| requested.min(self.deadline))
    }
}

/// Parses a duration in humantime's notation, such as `1s 500ms`, that is longer than zero.
///
/// # Errors
/// A message for the user if `text` is not such a duration.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than 0s".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_positive_and_have_units() {
        assert_eq!(positive_duration("1s 500ms"), Ok(Duration::from_millis(1500)));
        for text in ["0s", "0ms", "5", "-1s", "soon", ""] {
            assert!(positive_duration(text).is_err(), "{text:?}");
        }
    }
}
