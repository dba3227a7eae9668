//! The flags of a replica, and their conversion to checked settings.

use crate::decode::{ImageLimits, memory};
use crate::labels::LabelSource;
use crate::model::{Device, KernelChoice, ModelSource, Precision, Setup};
use crate::model_flags::ModelFlags;
use crate::pipeline::Sizes;
use crate::transform::TransformFlags;
use anyhow::{Context, ensure};
use clap::Parser;
use service::options::{ProcessFlags, RequestLimits, duration};
use service::server::{ConnectionLimits, DrainConfig};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

/// Fewest bytes of --decode-bytes. An image of 640 × 480 pixels takes less in every format.
const MIN_DECODE_BYTES: u64 = 16 << 20;

/// Classifies images with a residual network, or with any ONNX or TorchScript classifier.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:\n  replica                                            the bundled model of textured shapes\n  \
    replica --weights resnet50.pth --labels imagenet   torchvision's ImageNet weights\n  \
    replica --model resnet-50/                         a directory as transformers or timm write it\n  \
    replica --weights vit.onnx --labels labels.txt     any network that was exported to ONNX\n  \
    replica quantize --calibrate pictures --output int8.safetensors\n  \
    replica --weights int8.safetensors --precision int8\n  \
    replica --torchscript model.pt --allow-torchscript --sha256 \"$(sha256sum < model.pt | cut -c-64)\"\n\n\
    curl -H 'Content-Type: image/jpeg' --data-binary @image.jpg http://127.0.0.1:6000/predict"
)]
pub struct Args {
    /// Address to serve on; port 0 selects a free port; the address is printed to standard output. [::] takes IPv6 and
    /// IPv4, and becomes 0.0.0.0 on a machine without IPv6
    #[arg(long, env = "ROUNDHOUSE_LISTEN", default_value = "[::]:6000")]
    pub listen: SocketAddr,
    /// The flags that name the files of a model.
    #[command(flatten)]
    pub files: ModelFlags,
    /// File of a TorchScript classifier from [n, 3, side, side] to [n, classes]; needs --allow-torchscript and --sha256
    #[arg(
        long,
        env = "ROUNDHOUSE_TORCHSCRIPT",
        conflicts_with = "model_files",
        requires = "allow_torchscript",
        requires = "sha256"
    )]
    pub torchscript: Option<PathBuf>,
    /// Allow the TorchScript file to run; it is a program, so allow only a file that you trust
    #[arg(long, requires = "torchscript")]
    pub allow_torchscript: bool,
    /// SHA-256 of the TorchScript file, 64 hexadecimal digits; a file with another hash does not run
    #[arg(long, env = "ROUNDHOUSE_SHA256", requires = "torchscript", value_parser = sha256)]
    pub sha256: Option<[u8; 32]>,
    /// Time between two looks at the files of the model. A changed model is loaded beside the present one, which takes the
    /// memory of both for that time, and then takes over; a bad one is refused. 0s: never. A TorchScript file is never
    /// loaded again
    #[arg(long, env = "ROUNDHOUSE_RELOAD_INTERVAL", default_value = "2s", value_parser = duration)]
    pub reload_interval: Duration,
    /// Names of the classes: weights (the names in the files of the model), imagenet, or a file with one name on each
    /// line
    #[arg(long, env = "ROUNDHOUSE_LABELS", default_value = "weights")]
    pub labels: LabelSource,
    /// The flags of the transform from pixels to the model's input.
    #[command(flatten)]
    pub transform: TransformFlags,
    /// Engine that computes the convolutions on the CPU in f32; auto takes the engine that is fastest at the start; has
    /// no effect on a TorchScript or ONNX file
    #[arg(long, env = "ROUNDHOUSE_KERNEL", value_enum, default_value_t = KernelChoice::Auto)]
    pub kernel: KernelChoice,
    /// Device that runs the model: cpu, cuda, cuda:N (such as cuda:1), or auto, the first CUDA device or else cpu
    #[arg(long, env = "ROUNDHOUSE_DEVICE", default_value_t = Device::Cpu)]
    pub device: Device,
    /// Precision of weights and activations; libtorch computes f16 and bf16; for a file of weights, the difference of
    /// the logits from those in f32 is logged at the start; int8 needs a file that replica quantize has written
    #[arg(long, env = "ROUNDHOUSE_PRECISION", value_enum, default_value_t = Precision::F32)]
    pub precision: Precision,
    /// Least share of the calibration's pictures, in percent, for which a file with 8-bit weights gives the same class as
    /// f32; a file below is refused, such as 98.5
    #[arg(long, env = "ROUNDHOUSE_MIN_AGREEMENT", default_value_t = 99.0, value_parser = percent)]
    pub min_agreement: f64,
    /// Most images in one forward pass
    #[arg(long, env = "ROUNDHOUSE_MAX_BATCH", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub max_batch: u32,
    /// Longest time that an image waits for others to join its batch, such as 5ms
    #[arg(long, env = "ROUNDHOUSE_BATCH_WAIT", default_value = "0s", value_parser = duration)]
    pub batch_wait: Duration,
    /// Slots: images that the replica takes at once; a request without a free slot gets 503 busy; by default two
    /// batches for each worker, one that is computed and one that waits
    #[arg(long, env = "ROUNDHOUSE_CAPACITY", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub capacity: Option<u32>,
    /// Forward passes that run at the same time, each with its own model; by default 1 with --device cuda or auto, or
    /// else the processors that this process may use (control groups included) divided by --threads
    #[arg(long, env = "ROUNDHOUSE_WORKERS", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub workers: Option<u32>,
    /// Threads that compute one forward pass
    #[arg(long, env = "ROUNDHOUSE_THREADS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,
    /// Most pixels of one image (width × height); a larger image gets 413
    #[arg(long, env = "ROUNDHOUSE_MAX_PIXELS", default_value_t = ImageLimits::default().max_pixels)]
    pub max_pixels: u64,
    /// Bytes of memory for all images that are decoded at the same time, such as 268435456; decoding takes 3 to 9 bytes for
    /// each pixel, depending on the format; an image waits until its bytes are free, and gets 413 if it needs more than
    /// these; by default half of the memory that this process may use (control groups included), at most 2 GiB
    #[arg(long, env = "ROUNDHOUSE_DECODE_BYTES", value_parser = clap::value_parser!(u64).range(MIN_DECODE_BYTES..))]
    pub decode_bytes: Option<u64>,
    /// Turn and mirror images as their EXIF metadata says, such as pictures of phones; without it, pixels are as stored,
    /// except those of TIFF files, which are always turned
    #[arg(long, env = "ROUNDHOUSE_ORIENT")]
    pub orient: bool,
    /// Name of this replica, which its answers contain; by default replica-PID
    #[arg(long, env = "ROUNDHOUSE_NAME")]
    pub name: Option<String>,
    /// The flags that limit one request.
    #[command(flatten)]
    pub request_limits: RequestLimits,
    /// The flags that limit one connection.
    #[command(flatten)]
    pub connection_limits: ConnectionLimits,
    /// The flags that all server programs have.
    #[command(flatten)]
    pub process: ProcessFlags,
}

/// The checked settings of a replica.
#[derive(Debug)]
pub struct Config {
    /// The address to serve on.
    pub listen: SocketAddr,
    /// The source of the model.
    pub model: ModelSource,
    /// The time between two looks at the files of the model; `None` if they never change.
    pub reload_interval: Option<Duration>,
    /// The settings with which the model runs: engine, device, precision, threads and largest batch.
    pub setup: Setup,
    /// The least share of pictures, 0 to 1, for which a model in 8-bit integers must give the same class as in f32.
    pub min_agreement: f64,
    /// The values of the transform that override those of the model's files.
    pub transform: TransformFlags,
    /// The source of the class names.
    pub labels: LabelSource,
    /// The numbers of threads and images of the pipeline.
    pub sizes: Sizes,
    /// The limits of one request.
    pub request_limits: RequestLimits,
    /// The limits of one connection.
    pub connection_limits: ConnectionLimits,
    /// The limits of one image.
    pub pixels: ImageLimits,
    /// The name of this replica, which its answers contain.
    pub name: String,
    /// The settings for draining after a request to stop.
    pub drain: DrainConfig,
}

impl TryFrom<Args> for Config {
    type Error = anyhow::Error;

    fn try_from(args: Args) -> anyhow::Result<Self> {
        ensure!(args.max_pixels > 0, "--max-pixels 0: give at least 1");
        let processors = available_parallelism().context("read the number of processors from the system")?.get();
        let (threads, max_batch) = (args.threads as usize, args.max_batch as usize);
        // On a CUDA device, several workers would share one stream, and each would hold a copy of the weights.
        let default_workers = if args.device == Device::Cpu { (processors / threads).max(1) } else { 1 };
        let workers = args.workers.map_or(default_workers, |workers| workers as usize);
        let capacity = args.capacity.map_or(2 * workers * max_batch, |capacity| capacity as usize);
        let RequestLimits { max_body_bytes, drain_delay, grace, .. } = args.request_limits;
        let connection_limits = ConnectionLimits { max_chunk_bytes: max_body_bytes, ..args.connection_limits };
        let model = match (args.torchscript, args.sha256) {
            (Some(path), Some(sha256)) => ModelSource::TorchScript(path, sha256),
            _ => args.files.source(),
        };
        // No batch is larger than the capacity, so the warm-up needs no larger batch.
        let max_batch = capacity.min(max_batch);
        Ok(Self {
            listen: args.listen,
            reload_interval: (model.is_data() && !args.reload_interval.is_zero()).then_some(args.reload_interval),
            model,
            setup: Setup { kernel: args.kernel, device: args.device, precision: args.precision, threads, max_batch },
            min_agreement: args.min_agreement / 100.0,
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
            connection_limits,
            pixels: ImageLimits {
                max_pixels: args.max_pixels,
                memory_bytes: args.decode_bytes.unwrap_or_else(|| memory::default_bytes().max(MIN_DECODE_BYTES)),
                orient: args.orient,
            },
            name: args.name.unwrap_or_else(|| format!("replica-{}", std::process::id())),
            drain: DrainConfig { delay: drain_delay, grace, exit_with_parent: args.process.exit_with_parent },
        })
    }
}

/// Parses a percentage from 0 to 100.
fn percent(text: &str) -> Result<f64, String> {
    let percent = text.parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
    percent.ok_or_else(|| "give a percentage from 0 to 100, such as 99".into())
}

/// Parses a SHA-256 of 64 hexadecimal digits.
pub(crate) fn sha256(text: &str) -> Result<[u8; 32], String> {
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
    fn torchscript_needs_permission_and_a_hash_and_malformed_flags_are_refused() {
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
            (&["--weights-key=ema"], ErrorKind::MissingRequiredArgument),
            (&["--model=m", "--weights=w.pth"], ErrorKind::ArgumentConflict),
            (&[script, "--allow-torchscript", hash, "--model=m"], ErrorKind::ArgumentConflict),
            (&["--min-agreement=101"], ErrorKind::ValueValidation),
            (&["--min-agreement=nan"], ErrorKind::ValueValidation),
            (&["--precision=int4"], ErrorKind::InvalidValue),
        ] {
            assert_eq!(config(flags).err(), Some(expected), "{flags:?}");
        }
    }
}
