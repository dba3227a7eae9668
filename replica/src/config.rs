//! Flags → what a replica runs with.

use crate::decode::Limits;
use crate::labels;
use crate::pipeline::Sizes;
use clap::Parser;
use service::body;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Classifies pictures with a ResNet-18.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:\n  replica                                            the bundled model of textured shapes\n  \
    replica --weights resnet18.pth --labels imagenet   torchvision's ImageNet weights\n\n\
    curl -H 'Content-Type: image/jpeg' --data-binary @picture.jpg http://127.0.0.1:6000/predict"
)]
pub struct Args {
    /// Address to serve on; port 0 picks a free one and prints it
    #[arg(long, env = "ROUNDHOUSE_LISTEN", default_value = "0.0.0.0:6000")]
    pub listen: SocketAddr,
    /// Weights with torchvision's names, .safetensors or .pth; without it, the bundled model
    #[arg(long, env = "ROUNDHOUSE_WEIGHTS")]
    pub weights: Option<PathBuf>,
    /// Class names: weights (the file's own), imagenet, or a file with one a line
    #[arg(long, env = "ROUNDHOUSE_LABELS", default_value = "weights")]
    pub labels: labels::Source,
    /// Requests taken at once; more are answered 503 busy
    #[arg(long, env = "ROUNDHOUSE_CAPACITY", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub capacity: u32,
    /// Pictures in one forward pass at most
    #[arg(long, env = "ROUNDHOUSE_MAX_BATCH", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub max_batch: u32,
    /// Threads of one forward pass
    #[arg(long, env = "ROUNDHOUSE_THREADS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,
    /// Bytes of one request's body
    #[arg(long, env = "ROUNDHOUSE_MAX_BODY_BYTES", default_value_t = 20 << 20)]
    pub max_body_bytes: u64,
    /// Width × height of one picture
    #[arg(long, env = "ROUNDHOUSE_MAX_PIXELS", default_value_t = Limits::default().max_pixels)]
    pub max_pixels: u64,
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
    /// Name in answers and logs; the process id's by default
    #[arg(long, env = "ROUNDHOUSE_NAME")]
    pub name: Option<String>,
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
    /// A file of weights; none is the bundled model.
    pub weights: Option<PathBuf>,
    /// Where class names come from.
    pub labels: labels::Source,
    /// Of the pipeline.
    pub sizes: Sizes,
    /// libtorch's threads.
    pub threads: usize,
    /// What one body may cost.
    pub body: body::Limits,
    /// What one picture may cost.
    pub pixels: Limits,
    /// Longest time for a request.
    pub deadline: Duration,
    /// SIGTERM → no new requests.
    pub drain_delay: Duration,
    /// No new requests → exit, at most.
    pub grace: Duration,
    /// Name in answers and logs.
    pub name: String,
    /// Whether the parent's end is a reason to stop.
    pub exit_with_parent: bool,
}

impl TryFrom<Args> for Config {
    type Error = anyhow::Error;

    fn try_from(args: Args) -> anyhow::Result<Self> {
        anyhow::ensure!(!args.deadline.is_zero(), "--deadline must be longer than 0s");
        anyhow::ensure!(args.max_pixels > 0, "--max-pixels must be at least 1");
        let capacity = args.capacity as usize;
        Ok(Self {
            listen: args.listen,
            weights: args.weights,
            labels: args.labels,
            // No batch is ever larger than what is let in, so none larger needs warming up.
            sizes: Sizes { capacity, max_batch: capacity.min(args.max_batch as usize) },
            threads: args.threads as usize,
            body: body::Limits { max_bytes: args.max_body_bytes as usize, timeout: args.body_timeout },
            pixels: Limits { max_pixels: args.max_pixels },
            deadline: args.deadline,
            drain_delay: args.drain_delay,
            grace: args.grace,
            name: args.name.unwrap_or_else(|| format!("replica-{}", std::process::id())),
            exit_with_parent: args.exit_with_parent,
        })
    }
}
