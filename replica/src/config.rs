//! Flags → what a replica runs with.

use crate::decode::Limits;
use crate::labels;
use crate::model::{Architecture, Device, Precision, Setup, Source, Wanted};
use crate::pipeline::Sizes;
use crate::transform;
use anyhow::{Context, ensure};
use clap::Parser;
use service::options::{Process, RequestLimits};
use service::server::DrainConfig;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

/// Classifies pictures with a residual network, or with any TorchScript classifier.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:\n  replica                                            the bundled model of textured shapes\n  \
    replica --weights resnet50.pth --labels imagenet   torchvision's ImageNet weights\n  \
    replica --torchscript model.pt --allow-torchscript --sha256 \"$(sha256sum < model.pt | cut -c-64)\"\n\n\
    curl -H 'Content-Type: image/jpeg' --data-binary @picture.jpg http://127.0.0.1:6000/predict"
)]
pub struct Args {
    /// Address to serve on; port 0 picks a free one and prints it
    #[arg(long, env = "ROUNDHOUSE_LISTEN", default_value = "0.0.0.0:6000")]
    pub listen: SocketAddr,
    /// Weights with torchvision's names, .safetensors or .pth; without it, the bundled model
    #[arg(long, env = "ROUNDHOUSE_WEIGHTS")]
    pub weights: Option<PathBuf>,
    /// resnet18, resnet34 or resnet50; by default what the weights' names look like
    #[arg(long, env = "ROUNDHOUSE_ARCHITECTURE", requires = "weights")]
    pub architecture: Option<Architecture>,
    /// A TorchScript classifier, [n, 3, side, side] to [n, classes]; needs the next two
    #[arg(
        long,
        env = "ROUNDHOUSE_TORCHSCRIPT",
        conflicts_with = "weights",
        requires = "allow_torchscript",
        requires = "sha256"
    )]
    pub torchscript: Option<PathBuf>,
    /// TorchScript is a program: allow this one to run
    #[arg(long, requires = "torchscript")]
    pub allow_torchscript: bool,
    /// SHA-256 of the TorchScript file, 64 hexadecimal digits; another file is not run
    #[arg(long, env = "ROUNDHOUSE_SHA256", requires = "torchscript", value_parser = sha256)]
    pub sha256: Option<[u8; 32]>,
    /// Class names: weights (the file's own), imagenet, or a file with one a line
    #[arg(long, env = "ROUNDHOUSE_LABELS", default_value = "weights")]
    pub labels: labels::Source,
    /// How pictures become the model's input
    #[command(flatten)]
    pub transform: transform::Flags,
    /// What computes convolutions on the processor in f32: auto measures at start
    #[arg(long, env = "ROUNDHOUSE_KERNEL", value_enum, default_value_t = Wanted::Auto)]
    pub kernel: Wanted,
    /// cpu, cuda, cuda:1, …, or auto: the first CUDA device if there is one
    #[arg(long, env = "ROUNDHOUSE_DEVICE", default_value_t = Device::Cpu)]
    pub device: Device,
    /// Of weights and of what lies between layers; less than f32 is libtorch's, and its error with weights is logged at start
    #[arg(long, env = "ROUNDHOUSE_PRECISION", value_enum, default_value_t = Precision::F32)]
    pub precision: Precision,
    /// Pictures in one forward pass at most
    #[arg(long, env = "ROUNDHOUSE_MAX_BATCH", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub max_batch: u32,
    /// How long a picture may wait for others to go with
    #[arg(long, env = "ROUNDHOUSE_BATCH_WAIT", default_value = "0s", value_parser = humantime::parse_duration)]
    pub batch_wait: Duration,
    /// Requests taken at once; more are answered 503 busy. By default, two batches for each worker: one to compute, and one
    /// to be there when it is done
    #[arg(long, env = "ROUNDHOUSE_CAPACITY", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub capacity: Option<u32>,
    /// Forward passes at the same time, each with its own model; by default as many as the processors that this process may
    /// use, by its control group too, have room for, and one with --device cuda or auto
    #[arg(long, env = "ROUNDHOUSE_WORKERS", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub workers: Option<u32>,
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
    pub request_limits: RequestLimits,
    /// Flags of every program
    #[command(flatten)]
    pub process: Process,
}

/// Checked settings.
#[derive(Debug)]
pub struct Config {
    /// Address to serve on.
    pub listen: SocketAddr,
    /// Where the model comes from.
    pub model: Source,
    /// How it is run.
    pub setup: Setup,
    /// How pictures become its input, where the file does not say or is not to be believed.
    pub transform: transform::Flags,
    /// Where class names come from.
    pub labels: labels::Source,
    /// Of the pipeline.
    pub sizes: Sizes,
    /// What one request may cost.
    pub request_limits: RequestLimits,
    /// What one picture may cost.
    pub pixels: Limits,
    /// Name in answers and logs.
    pub name: String,
    /// How it leaves.
    pub drain: DrainConfig,
}

impl TryFrom<Args> for Config {
    type Error = anyhow::Error;

    fn try_from(args: Args) -> anyhow::Result<Self> {
        ensure!(args.max_pixels > 0, "--max-pixels must be at least 1");
        let processors = available_parallelism().context("ask the system how many processors there are")?.get();
        let (threads, max_batch) = (args.threads as usize, args.max_batch as usize);
        // On a card they would share one stream, and each have its own weights.
        let most = if args.device == Device::Cpu { (processors / threads).max(1) } else { 1 };
        let workers = args.workers.map_or(most, |workers| workers as usize);
        let capacity = args.capacity.map_or(2 * workers * max_batch, |capacity| capacity as usize);
        let RequestLimits { drain_delay, grace, .. } = args.request_limits;
        let model = match (args.torchscript, args.sha256, args.weights) {
            (Some(path), Some(sha256), _) => Source::TorchScript(path, sha256),
            (_, _, Some(path)) => Source::Weights(path, args.architecture),
            _ => Source::Bundled,
        };
        // No batch is ever larger than what is let in, so none larger needs warming up.
        let max_batch = capacity.min(max_batch);
        Ok(Self {
            listen: args.listen,
            model,
            setup: Setup { kernel: args.kernel, device: args.device, precision: args.precision, threads, max_batch },
            transform: args.transform,
            labels: args.labels,
            sizes: Sizes {
                capacity,
                max_batch,
                batch_wait: args.batch_wait,
                decoders: processors.min(capacity),
                workers,
            },
            request_limits: args.request_limits,
            pixels: Limits { max_pixels: args.max_pixels },
            name: args.name.unwrap_or_else(|| format!("replica-{}", std::process::id())),
            drain: DrainConfig { delay: drain_delay, grace, exit_with_parent: args.process.exit_with_parent },
        })
    }
}

fn sha256(text: &str) -> Result<[u8; 32], String> {
    let digits: Option<Vec<u8>> = text.chars().map(|digit| Some(digit.to_digit(16)? as u8)).collect();
    let bytes = digits
        .filter(|digits| digits.len() == 64)
        .map(|digits| std::array::from_fn(|index| digits[2 * index] << 4 | digits[2 * index + 1]));
    bytes.ok_or_else(|| "64 hexadecimal digits are needed, as sha256sum prints them".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::error::ErrorKind;

    fn config(flags: &[&str]) -> Result<Config, ErrorKind> {
        let args = Args::try_parse_from([&["replica"], flags].concat()).map_err(|error| error.kind())?;
        Ok(Config::try_from(args).expect("flags that fit"))
    }

    #[test]
    fn capacity_is_two_batches_for_each_worker() {
        for (flags, workers, capacity, max_batch) in [
            (&["--workers=1"][..], 1, 2, 1),
            (&["--workers=3", "--max-batch=4"], 3, 24, 4),
            (&["--workers=2", "--capacity=3", "--max-batch=8"], 2, 3, 3),
            (&["--threads=256"], 1, 2, 1),
        ] {
            let sizes = config(flags).expect("fits").sizes;
            assert_eq!((sizes.workers, sizes.capacity, sizes.max_batch), (workers, capacity, max_batch), "{flags:?}");
        }
    }

    #[test]
    fn code_runs_only_with_permission_and_its_hash() {
        let hash = "--sha256=00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";
        let script = "--torchscript=model.pt";
        let Source::TorchScript(_, found) = config(&[script, "--allow-torchscript", hash]).expect("fits").model else {
            panic!("TorchScript was asked for");
        };
        assert_eq!(found[..3], [0x00, 0x11, 0x22]);
        assert_eq!(found[31], 0xff);
        for (flags, expected) in [
            (&[script][..], ErrorKind::MissingRequiredArgument),
            (&[script, hash], ErrorKind::MissingRequiredArgument),
            (&[script, "--allow-torchscript"], ErrorKind::MissingRequiredArgument),
            (&[script, "--allow-torchscript", hash, "--weights=w.pth"], ErrorKind::ArgumentConflict),
            (&[script, "--allow-torchscript", "--sha256=12"], ErrorKind::ValueValidation),
            (&[script, "--allow-torchscript", &hash.replace("00", "0x")], ErrorKind::ValueValidation),
            (&["--architecture=resnet34"], ErrorKind::MissingRequiredArgument),
            (&["--architecture=vgg", "--weights=w.pth"], ErrorKind::ValueValidation),
            (&["--device=gpu"], ErrorKind::ValueValidation),
        ] {
            assert_eq!(config(flags).err(), Some(expected), "{flags:?}");
        }
    }
}
