//! The limits of connections, which are flags of every program that clients connect to.

use crate::options::positive_duration;
use clap::Args;
use std::time::Duration;

/// The largest chunk of a chunked body, for programs that set no limit of their own, in bytes.
const MAX_CHUNK_BYTES: u64 = 1 << 30;

/// The limits of the connections of one listener.
#[derive(Debug, Clone, Args)]
pub struct ConnectionLimits {
    /// Largest head of a request (its first line and its headers), in bytes; a request with a larger one gets 431
    #[arg(long, env = "ROUNDHOUSE_MAX_HEADER_BYTES", default_value_t = 16 << 10)]
    #[arg(value_parser = clap::value_parser!(u32).range(1 << 10..=64 << 10))]
    pub max_header_bytes: u32,
    /// Time in which the head of a request must arrive, and a TLS or HTTP/2 handshake must end, such as 10s
    #[arg(long, env = "ROUNDHOUSE_HEADER_TIMEOUT", default_value = "30s", value_parser = positive_duration)]
    pub header_timeout: Duration,
    /// Time after which a connection without a request is closed, such as 75s; each connection adds up to a fifth at
    /// random; should be longer than that of a load balancer in front
    #[arg(long, env = "ROUNDHOUSE_IDLE_TIMEOUT", default_value = "75s", value_parser = positive_duration)]
    pub idle_timeout: Duration,
    /// Time in which a client must read an answer, such as 30s; then its connection is reset
    #[arg(long, env = "ROUNDHOUSE_WRITE_TIMEOUT", default_value = "30s", value_parser = positive_duration)]
    pub write_timeout: Duration,
    /// Age at which a connection takes no more requests and closes after the last answer, such as 1h; each connection
    /// adds up to a fifth at random
    #[arg(long, env = "ROUNDHOUSE_MAX_CONNECTION_AGE", default_value = "1h", value_parser = positive_duration)]
    pub max_connection_age: Duration,
    /// Most connections of one client address (for IPv6, of one /64 network); by default there is no limit, because a
    /// load balancer in front has few addresses
    #[arg(long, env = "ROUNDHOUSE_MAX_CONNECTIONS_PER_PEER", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections_per_peer: Option<u32>,
    /// The largest chunk of a chunked body, in bytes. No flag: a program sets it to its largest body.
    #[arg(skip = MAX_CHUNK_BYTES)]
    pub max_chunk_bytes: u64,
}

/// A limit that closes connections: the label `reason` of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// `--idle-timeout`.
    Idle,
    /// `--header-timeout`.
    HeaderTimeout,
    /// `--write-timeout`.
    WriteTimeout,
    /// `--max-connection-age`.
    Age,
    /// `--max-connections-per-peer`.
    PerPeer,
    /// The memory of all incomplete heads.
    HeadMemory,
}

impl Limit {
    /// Every limit, in the order of the enum.
    pub(super) const ALL: [Self; 6] =
        [Self::Idle, Self::HeaderTimeout, Self::WriteTimeout, Self::Age, Self::PerPeer, Self::HeadMemory];

    /// The value of the label.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::HeaderTimeout => "header_timeout",
            Self::WriteTimeout => "write_timeout",
            Self::Age => "age",
            Self::PerPeer => "per_peer",
            Self::HeadMemory => "head_memory",
        }
    }
}

impl Default for ConnectionLimits {
    /// The values of the flags that are not given.
    fn default() -> Self {
        Self {
            max_header_bytes: 16 << 10,
            header_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            max_connection_age: Duration::from_secs(3600),
            max_connections_per_peer: None,
            max_chunk_bytes: MAX_CHUNK_BYTES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        limits: ConnectionLimits,
    }

    #[test]
    fn the_default_is_that_of_the_flags() {
        let parsed = Program::try_parse_from(["program"]).expect("no flag is required").limits;
        assert_eq!(format!("{parsed:?}"), format!("{:?}", ConnectionLimits::default()));
    }

    #[test]
    fn an_error_names_the_refused_flag() {
        for (flag, value) in [
            ("--max-header-bytes", "1023"),
            ("--max-header-bytes", "65537"),
            ("--header-timeout", "0s"),
            ("--idle-timeout", "soon"),
            ("--write-timeout", "600days"),
            ("--max-connection-age", "-1s"),
            ("--max-connections-per-peer", "0"),
        ] {
            let flag_and_value = format!("{flag}={value}");
            let error = Program::try_parse_from(["program", &flag_and_value]).expect_err("the value is refused");
            let error = error.to_string();
            assert!(error.contains(flag) && error.contains(value), "{error}");
        }
    }
}
