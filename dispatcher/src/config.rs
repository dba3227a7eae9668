//! Flags → what the dispatcher runs with.

use crate::discovery::Source;
use crate::queue::Bounds;
use clap::Parser;
use service::options::{Intake, Process};
use service::server::Drain;
use std::net::SocketAddr;

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
    /// Bounds of a request
    #[command(flatten)]
    pub intake: Intake,
    /// Flags of every program
    #[command(flatten)]
    pub process: Process,
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
    /// What one request may cost.
    pub intake: Intake,
    /// How it leaves.
    pub drain: Drain,
}

impl TryFrom<Args> for Config {
    type Error = anyhow::Error;

    fn try_from(args: Args) -> anyhow::Result<Self> {
        let Intake { max_body_bytes, drain_delay, grace, .. } = args.intake;
        anyhow::ensure!(
            max_body_bytes <= args.queue_bytes,
            "--max-body-bytes ({max_body_bytes}) must not exceed --queue-bytes ({}), or such a body could never wait",
            args.queue_bytes
        );
        Ok(Self {
            listen: args.listen,
            replicas: args.replicas,
            queue: Bounds { length: args.queue_length as usize, bytes: args.queue_bytes as usize },
            intake: args.intake,
            drain: Drain { delay: drain_delay, grace, with_parent: args.process.exit_with_parent },
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
