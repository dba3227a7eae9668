//! Flags that several programs share, so that each flag has one description.

use crate::body::BodyLimits;
use crate::readiness::Readiness;
use clap::Args;
use std::time::Duration;

/// Flags of every program that runs as a server.
#[derive(Debug, Clone, Args)]
pub struct ProcessFlags {
    /// Drain and exit when the parent process ends; standard input must be a pipe that only the parent holds open
    #[arg(long)]
    pub exit_with_parent: bool,
    /// Log level: error, warn, info or debug, or a list with a level for one program, such as dispatcher=debug,info
    #[arg(long, env = "ROUNDHOUSE_LOG", default_value = "info")]
    pub log: String,
}

/// Flags of a program that classifies images: the limits of one request, and the times for draining.
#[derive(Debug, Clone, Args)]
pub struct RequestLimits {
    /// Largest body of a request, in bytes
    #[arg(long, env = "ROUNDHOUSE_MAX_BODY_BYTES", default_value_t = 20 << 20)]
    pub max_body_bytes: u64,
    /// Time in which the body of a request must arrive, such as 10s
    #[arg(long, env = "ROUNDHOUSE_BODY_TIMEOUT", default_value = "10s", value_parser = positive_duration)]
    pub body_timeout: Duration,
    /// Longest time from the arrival of a whole request to its answer, such as 5s; applies even if the client allows
    /// more by x-request-timeout-ms
    #[arg(long, env = "ROUNDHOUSE_DEADLINE", default_value = "5s", value_parser = positive_duration)]
    pub deadline: Duration,
    /// Time after SIGTERM in which new requests are still accepted, while /readyz reports not ready, such as 2s
    #[arg(long, env = "ROUNDHOUSE_DRAIN_DELAY", default_value = "0s", value_parser = duration)]
    pub drain_delay: Duration,
    /// Longest time after --drain-delay in which accepted requests may finish, such as 10s
    #[arg(long, env = "ROUNDHOUSE_GRACE", default_value = "10s", value_parser = duration)]
    pub grace: Duration,
}

impl RequestLimits {
    /// The limits of one body. `readiness` tells whether the process drains.
    pub fn body(&self, readiness: Readiness) -> BodyLimits {
        BodyLimits { max_bytes: self.max_body_bytes as usize, timeout: self.body_timeout, readiness }
    }

    /// The time for one request. `requested` is the timeout that the client sent. The result is never longer than
    /// [`RequestLimits::deadline`].
    pub fn timeout(&self, requested: Option<Duration>) -> Duration {
        requested.map_or(self.deadline, |requested| requested.min(self.deadline))
    }
}

/// The longest duration that a flag may have. The standard library panics if an instant is moved by a duration that the
/// system's clock cannot hold.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// Parses a duration of at most 366 days, in humantime's notation, such as `1s 500ms`.
///
/// # Errors
/// If `text` is not such a duration. The error is a message for the user.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration > LONGEST => Err("must be at most 366days".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

/// Parses a duration that is longer than zero and at most 366 days, in humantime's notation.
///
/// # Errors
/// If `text` is not such a duration. The error is a message for the user.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be longer than 0s".into()),
        duration => Ok(duration),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_without_a_unit_and_a_duration_of_zero_are_refused() {
        assert_eq!(positive_duration("1s 500ms"), Ok(Duration::from_millis(1500)));
        for text in ["0s", "0ms", "5", "-1s", "soon", ""] {
            assert!(positive_duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_duration_that_a_clock_cannot_hold_is_refused() {
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(duration("366days"), Ok(LONGEST));
        for text in ["366days 1ns", "500000000000years", "18446744073709551615s"] {
            assert!(duration(text).is_err() && positive_duration(text).is_err(), "{text:?}");
        }
    }
}
