//! Flags → what the dispatcher runs with.

use crate::discovery::Source;
use crate::queue::Bounds;
use clap::Parser;
use service::body;
use std::net::SocketAddr;
use std::time::Duration;

/// Queues pictures and hands them to replicas that are free.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:\n  dispatcher --replicas static:127.0.0.1:6000,127.0.0.1:6001\n  \
    dispatcher --replicas file:/run/roundhouse/replicas --deadline 3s\n\n\
    curl -H 'Content-Type: image/jpeg' --data-binary @picture.jpg http://127.0.0.1:5052/predict"
)]
pub struct Args {
    /// Address to serve on; port 0 picks a free one and prints it
    #[arg(long, env = "ROUNDHOUSE_LISTEN", default_value = "0.0.0.0:5052")]
    pub listen: SocketAddr,
    /// Where replicas are found: static:HOST:PORT,…, file:PATH (one host:port a line) or
    /// kubernetes:NAMESPACE/SERVICE[:PORTNAME]
    #[arg(long, env = "ROUNDHOUSE_REPLICAS")]
    pub replicas: Source,
    /// Requests that may wait
    #[arg(long, env = "ROUNDHOUSE_QUEUE_LENGTH", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub queue_length: u32,
    /// Bytes of waiting requests together
    #[arg(long, env = "ROUNDHOUSE_QUEUE_BYTES", default_value_t = 256 << 20)]
    pub queue_bytes: u64,
    /// Bytes of one request's body
    #[arg(long, env = "ROUNDHOUSE_MAX_BODY_BYTES", default_value_t = 20 << 20)]
    pub max_body_bytes: u64,
    /// Time in which a body must arrive
    #[arg(long, env = "ROUNDHOUSE_BODY_TIMEOUT", default_value = "10s", value_parser = humantime::parse_duration)]
    pub body_timeout: Duration,
    /// Longest time for a request, whatever its client asks for
    #[arg(long, env = "ROUNDHOUSE_DEADLINE", default_value = "5s", value_parser = humantime::parse_duration)]
    pub deadline: Duration,
    /// After SIGTERM, how long new requests are still accepted
    #[arg(long, env = "ROUNDHOUSE_DRAIN_DELAY", default_value = "0s", value_parser = humantime::parse_duration)]
    pub drain_delay: Duration,
    /// After that, how long accepted requests may take to finish
    #[arg(long, env = "ROUNDHOUSE_GRACE", default_value = "10s", value_parser = humantime::parse_duration)]
    pub grace: Duration,
    /// Drain and exit when standard input closes, that is, when the parent process ends
    #[arg(long)]
    pub exit_with_parent: bool,
    /// What to log: error, warn, info, debug, or target=level,…
    #[arg(long, env = "ROUNDHOUSE_LOG", default_value = "info")]
    pub log: String,
}

/// Checked settings.
#[derive(Debug)]
pub struct Config {
    /// Address to serve on.
    pub listen: SocketAddr,
    /// Where replicas are found.
    pub replicas: Source,
    /// How much may wait.
    pub queue: Bounds,
    /// What one body may cost.
    pub body: body::Limits,
    /// Longest time for a request.
    pub deadline: Duration,
    /// SIGTERM → no new requests.
    pub drain_delay: Duration,
    /// No new requests → exit, at most.
    pub grace: Duration,
    /// Whether the parent's end is a reason to stop.
    pub exit_with_parent: bool,
}

impl TryFrom<Args> for Config {
    type Error = anyhow::Error;

    fn try_from(args: Args) -> anyhow::Result<Self> {
        anyhow::ensure!(!args.deadline.is_zero(), "--deadline must be longer than 0s");
        anyhow::ensure!(
            args.max_body_bytes <= args.queue_bytes,
            "--max-body-bytes ({}) must not exceed --queue-bytes ({}), or such a body could never wait",
            args.max_body_bytes,
            args.queue_bytes
        );
        Ok(Self {
            listen: args.listen,
            replicas: args.replicas,
            queue: Bounds { length: args.queue_length as usize, bytes: args.queue_bytes as usize },
            body: body::Limits { max_bytes: args.max_body_bytes as usize, timeout: args.body_timeout },
            deadline: args.deadline,
            drain_delay: args.drain_delay,
            grace: args.grace,
            exit_with_parent: args.exit_with_parent,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &[&str]) -> Result<Config, String> {
        let all = ["dispatcher", "--replicas", "static:a:1"].iter().chain(flags);
        let args = Args::try_parse_from(all).map_err(|error| error.to_string())?;
        Config::try_from(args).map_err(|error| error.to_string())
    }

    #[test]
    fn bad_flags_are_named() {
        assert!(config(&[]).is_ok());
        for (flags, word) in [
            (["--deadline", "0s"], "--deadline"),
            (["--deadline", "soon"], "soon"),
            (["--queue-length", "0"], "queue-length"),
            (["--queue-bytes", "1"], "--max-body-bytes"),
            (["--listen", "here"], "here"),
            (["--max-body-bytes", "much"], "max-body-bytes"),
        ] {
            let error = config(&flags).expect_err("refused");
            assert!(error.contains(word), "{flags:?}: {error}");
        }
    }
}
