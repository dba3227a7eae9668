//! Flags → what a replica runs with.

use crate::decode::Limits;
use crate::labels;
use crate::pipeline::Sizes;
use clap::Parser;
use service::options::{Intake, Process};
use service::server::Drain;
use std::net::SocketAddr;
use std::path::PathBuf;

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
    /// Width × height of one picture
    #[arg(long, env = "ROUNDHOUSE_MAX_PIXELS", default_value_t = Limits::default().max_pixels)]
    pub max_pixels: u64,
    /// Name in answers and logs; the process id's by default
    #[arg(long, env = "ROUNDHOUSE_NAME")]
    pub name: Option<String>,
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
    /// A file of weights; none is the bundled model.
    pub weights: Option<PathBuf>,
    /// Where class names come from.
    pub labels: labels::Source,
    /// Of the pipeline.
    pub sizes: Sizes,
    /// libtorch's threads.
    pub threads: usize,
    /// What one request may cost.
    pub intake: Intake,
    /// What one picture may cost.
    pub pixels: Limits,
    /// Name in answers and logs.
    pub name: String,
    /// How it leaves.
    pub drain: Drain,
}

impl TryFrom<Args> for Config {
    type Error = anyhow::Error;

    fn try_from(args: Args) -> anyhow::Result<Self> {
        anyhow::ensure!(args.max_pixels > 0, "--max-pixels must be at least 1");
        let capacity = args.capacity as usize;
        let Intake { drain_delay, grace, .. } = args.intake;
        Ok(Self {
            listen: args.listen,
            weights: args.weights,
            labels: args.labels,
            // No batch is ever larger than what is let in, so none larger needs warming up.
            sizes: Sizes { capacity, max_batch: capacity.min(args.max_batch as usize) },
            threads: args.threads as usize,
            intake: args.intake,
            pixels: Limits { max_pixels: args.max_pixels },
            name: args.name.unwrap_or_else(|| format!("replica-{}", std::process::id())),
            drain: Drain { delay: drain_delay, grace, with_parent: args.process.exit_with_parent },
        })
    }
}
