//! The flags of a replica → its checked settings.

use crate::decode::Limits;
use crate::labels::LabelSource;
use crate::model::{Architecture, Device, KernelChoice, ModelSource, Precision, Setup};
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

/// Classifies images with a residual network, or with any TorchScript classifier.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:\n  replica                                            the bundled model of textured shapes\n  \
    replica --weights resnet50.pth --labels imagenet   torchvision's ImageNet weights\n  \
    replica --torchscript model.pt --allow-torchscript --sha256 \"$(sha256sum < model.pt | cut -c-64)\"\n\n\
    curl -H 'Content-Type: image/jpeg' --data-binary @image.jpg http://127.0.0.1:6000/predict"
)]
pub struct Args {
    /// Address to serve on; port 0 picks a free one and prints it
    #[arg(long, env = "ROUNDHOUSE_LISTEN", default_value = "0.0.0.0:6000")]
    pub listen: SocketAddr,
    /// Weights with torchvision's names, .safetensors or .pth; without it, the bundled model
    #[arg(long, env = "ROUNDHOUSE_WEIGHTS")]
    pub weights: Option<PathBuf>,
    /// resnet18, resnet34 or resnet50; by default recognised by the names of the weights
    #[arg(long, env = "ROUNDHOUSE_ARCHITECTURE", requires = "weights")]
    pub architecture: Option<Architecture>,
    /// A TorchScript classifier, [n, 3, side, side] to [n, classes]; needs --allow-torchscript and --sha256
    #[arg(
        long,
        env = "ROUNDHOUSE_TORCHSCRIPT",
        conflicts_with = "weights",
        requires = "allow_torchscript",
        requires = "sha256"
    )]
    pub torchscript: Option<PathBuf>,
    /// Allow the TorchScript file to run: it is a program
    #[arg(long, requires = "torchscript")]
    pub allow_torchscript: bool,
    /// SHA-256 of the TorchScript file, 64 hexadecimal digits; another file is not run
    #[arg(long, env = "ROUNDHOUSE_SHA256", requires = "torchscript", value_parser = sha256)]
    pub sha256: Option<[u8; 32]>,
    /// Class names: weights (those in the weights' metadata), imagenet, or a file with one name on each line
    #[arg(long, env = "ROUNDHOUSE_LABELS", default_value = "weights")]
    pub labels: LabelSource,
    /// How images become the model's input
    #[command(flatten)]
    pub transform: transform::Flags,
    /// What computes convolutions on the CPU in f32: auto measures at start
    #[arg(long, env = "ROUNDHOUSE_KERNEL", value_enum, default_value_t = KernelChoice::Auto)]
    pub kernel: KernelChoice,
    /// cpu, cuda, cuda:1, …, or auto: the first CUDA device if there is one
    #[arg(long, env = "ROUNDHOUSE_DEVICE", default_value_t = Device::Cpu)]
    pub device: Device,
    /// Precision of weights and activations; f16 and bf16 are computed by libtorch, and for weights their difference
    /// from f32 is logged at start
    #[arg(long, env = "ROUNDHOUSE_PRECISION", value_enum, default_value_t = Precision::F32)]
    pub precision: Precision,
    /// Most images in one forward pass
    #[arg(long, env = "ROUNDHOUSE_MAX_BATCH", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub max_batch: u32,
    /// Longest time that an image waits for others to join its batch
    #[arg(long, env = "ROUNDHOUSE_BATCH_WAIT", default_value = "0s", value_parser = humantime::parse_duration)]
    pub batch_wait: Duration,
    /// Images taken at once; requests beyond them are answered 503 busy. By default two batches for each worker: one
    /// that is computed, and one that waits
    #[arg(long, env = "ROUNDHOUSE_CAPACITY", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub capacity: Option<u32>,
    /// Forward passes at the same time, each with its own model. By default the processors that this process may use,
    /// also by its control group, divided by --threads; with --device cuda or auto, 1
    #[arg(long, env = "ROUNDHOUSE_WORKERS", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub workers: Option<u32>,
    /// Threads of one forward pass
    #[arg(long, env = "ROUNDHOUSE_THREADS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,
    /// Most pixels of one image, width × height
    #[arg(long, env = "ROUNDHOUSE_MAX_PIXELS", default_value_t = Limits::default().max_pixels)]
    pub max_pixels: u64,
    /// Name in answers; replica-PID by default
    #[arg(long, env = "ROUNDHOUSE_NAME")]
    pub name: Option<String>,
    /// Limits of a request
    #[command(flatten)]
    pub request_limits: RequestLimits,
    /// Flags of every program
    #[command(flatten)]
    pub process: Process,
}

/// The checked settings of a replica.
#[derive(Debug)]
pub struct Config {
    /// Address to serve on.
    pub listen: SocketAddr,
    /// Where the model comes from.
    pub model: ModelSource,
    /// How the model is run.
    pub setup: Setup,
    /// Values of the transform that override the metadata of the model's file.
    pub transform: transform::Flags,
    /// Where the class names come from.
    pub labels: LabelSource,
    /// The sizes of the pipeline.
    pub sizes: Sizes,
    /// The limits of one request.
    pub request_limits: RequestLimits,
    /// The limits of one image.
    pub pixels: Limits,
    /// Name in answers.
    pub name: String,
    /// How the replica drains when it is told to stop.
    pub drain: DrainConfig,
}

impl TryFrom<Args> for Config {
    type Error = anyhow::Error;

    fn try_from(args: Args) -> anyhow::Result<Self> {
        ensure!(args.max_pixels > 0, "--max-pixels must be at least 1");
        let processors = available_parallelism().context("ask the system how many processors there are")?.get();
        let (threads, max_batch) = (args.threads as usize, args.max_batch as usize);
        // On a CUDA device, several workers would share one stream, and each would have weights of its own.
        let default_workers = if args.device == Device::Cpu { (processors / threads).max(1) } else { 1 };
        let workers = args.workers.map_or(default_workers, |workers| workers as usize);
        let capacity = args.capacity.map_or(2 * workers * max_batch, |capacity| capacity as usize);
        let RequestLimits { drain_delay, grace, .. } = args.request_limits;
        let model = match (args.torchscript, args.sha256, args.weights) {
            (Some(path), Some(sha256), _) => ModelSource::TorchScript(path, sha256),
            (_, _, Some(path)) => ModelSource::Weights(path, args.architecture),
            _ => ModelSource::Bundled,
        };
        // No batch is larger than the capacity, so no larger one is warmed up.
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

/// Parses the 64 hexadecimal digits of a SHA-256.
fn sha256(text: &str) -> Result<[u8; 32], String> {
    let digits: Option<Vec<u8>> = text.chars().map(|digit| Some(digit.to_digit(16)? as u8)).collect();
    let bytes = digits
        .filter(|digits| digits.len() == 64)
        .map(|digits| std::array::from_fn(|index| digits[2 * index] << 4 | digits[2 * index + 1]));
    bytes.ok_or_else(|| "give 64 hexadecimal digits, as sha256sum prints them".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::error::ErrorKind;

    fn config(flags: &[&str]) -> Result<Config, ErrorKind> {
        let args = Args::try_parse_from([&["replica"], flags].concat()).map_err(|error| error.kind())?;
        Ok(Config::try_from(args).expect("valid flags"))
    }

    #[test]
    fn capacity_is_two_batches_for_each_worker() {
        for (flags, workers, capacity, max_batch) in [
            (&["--workers=1"][..], 1, 2, 1),
            (&["--workers=3", "--max-batch=4"], 3, 24, 4),
            (&["--workers=2", "--capacity=3", "--max-batch=8"], 2, 3, 3),
            (&["--threads=256"], 1, 2, 1),
        ] {
            let sizes = config(flags).expect("valid flags").sizes;
            assert_eq!((sizes.workers, sizes.capacity, sizes.max_batch), (workers, capacity, max_batch), "{flags:?}");
        }
    }

    #[test]
    fn torchscript_runs_only_with_permission_and_its_hash() {
        let hash = "--sha256=00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";
        let script = "--torchscript=model.pt";
        let ModelSource::TorchScript(_, found) =
            config(&[script, "--allow-torchscript", hash]).expect("valid flags").model
        else {
            panic!("the flags name a TorchScript file");
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
