//! `bench replica`: compares the replica with its peers in the same run, and measures the replica alone.
//!
//! The host may slow this machine down at any time. So each round runs both sides of a comparison, and a figure is the
//! median of the ratios of each round.

mod client;
mod decode;
mod forward;
mod forward_setting;
mod measuring_process;
mod memory;
mod overhead;
mod precisions;
mod requests;
mod server;
mod startup;
mod throughput;
mod two_processes;

use crate::figure::{self, Figure, TargetRange};
use crate::images::Images;
use crate::output::Output;
use crate::python::{ENGINES, Python, TORCHVISION};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum, value_parser};
use forward_setting::{AllowedInstructions, ForwardSetting, TimedNetwork};
use harness::{paths, steal};
use std::fs;
use std::path::{Path, PathBuf};

/// The targets of figures, by the figures' names.
const TARGETS: [(&str, TargetRange); 20] = [
    ("forward_ratio_best_b1", TargetRange::AtMost(0.70)),
    ("forward_ratio_best_b8", TargetRange::AtMost(0.60)),
    ("forward_ratio_best_b1_avx2", TargetRange::AtMost(0.55)),
    ("forward_ratio_best_b8_avx2", TargetRange::AtMost(0.50)),
    ("forward_ratio_best_b1_resnet50", TargetRange::AtMost(0.95)),
    ("forward_ratio_best_b8_resnet50", TargetRange::AtMost(0.90)),
    ("forward_ratio_best_b1_resnet50_avx2", TargetRange::AtMost(0.95)),
    ("forward_ratio_best_b8_resnet50_avx2", TargetRange::AtMost(0.90)),
    ("forward_ratio_onnxruntime_b1_t2", TargetRange::AtMost(0.90)),
    ("forward_ratio_onnxruntime_b8_t2", TargetRange::AtMost(0.80)),
    ("int8_ratio_openvino_b1", TargetRange::AtMost(1.0)),
    ("int8_ratio_openvino_b8", TargetRange::AtMost(1.0)),
    ("cpu_ratio_flask", TargetRange::AtMost(0.30)),
    ("throughput_ratio", TargetRange::AtLeast(0.95)),
    ("two_processes_ratio", TargetRange::AtLeast(0.9)),
    ("added_ms", TargetRange::AtMost(0.3)),
    ("jpeg_ratio_libjpeg_turbo_38k", TargetRange::AtMost(1.3)),
    ("jpeg_ratio_libjpeg_turbo_166k", TargetRange::AtMost(1.3)),
    ("startup_s", TargetRange::AtMost(0.7)),
    ("rss_mb", TargetRange::AtMost(300.0)),
];

/// Flags of `bench replica`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Parts to measure; by default all
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<BenchmarkPart>,
    /// Rounds, each of which measures both sides of every comparison
    #[arg(long, default_value_t = 20, value_parser = value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Number of requests after which the part memory measures; the growth is
    /// measured from a tenth of that number on
    #[arg(long, default_value_t = 10_000, value_parser = value_parser!(u32).range(100..=10_000_000))]
    requests: u32,
    /// Python interpreter that has the packages already; by default, environments with them are made
    /// in target/tools
    #[arg(long)]
    python: Option<PathBuf>,
    /// Networks that the part forward computes
    #[arg(long, value_enum, value_delimiter = ',', default_value = "resnet18,resnet50")]
    networks: Vec<TimedNetwork>,
    /// Vector instructions that the part forward allows, such as best,avx2
    #[arg(long, value_enum, value_delimiter = ',', default_value = "best")]
    instructions: Vec<AllowedInstructions>,
    #[command(flatten)]
    output: Output,
}

/// The parts of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BenchmarkPart {
    /// Forward passes, next to ONNX Runtime and OpenVINO
    Forward,
    /// Forward passes in 8-bit integers, next to ONNX Runtime and OpenVINO in 8-bit integers and in the precision that
    /// they choose
    Precisions,
    /// Processor time and latency of whole requests, next to Flask
    Requests,
    /// Requests per second on one core, next to the rate at which that core can decode and infer
    Throughput,
    /// Requests per second of two replicas on two cores, next to twice those of one
    TwoProcesses,
    /// Time that HTTP, queue and threads add to decoding and inference
    Added,
    /// Time from an image file to the model's input, next to PIL and torchvision; time of the JPEG decoder, next to
    /// libjpeg-turbo
    Decode,
    /// Time from exec to ready
    Startup,
    /// Resident memory after many requests
    Memory,
}

impl BenchmarkPart {
    fn measure(self, run: &RunContext) -> Result<Vec<Figure>> {
        let measured = match self {
            Self::Forward => forward::measure(run),
            Self::Precisions => precisions::measure(run),
            Self::Requests => requests::measure(run),
            Self::Throughput => throughput::measure(run),
            Self::TwoProcesses => two_processes::measure(run),
            Self::Added => overhead::measure(run),
            Self::Decode => decode::measure(run),
            Self::Startup => startup::measure(run),
            Self::Memory => memory::measure(run),
        };
        let name = self.to_possible_value().expect("clap hides no variant of BenchmarkPart");
        measured.with_context(|| format!("measure the part {}", name.get_name()))
    }
}

/// The options and files that the parts of one run share.
struct RunContext<'a> {
    /// The folder for logs and other files.
    folder: &'a Path,
    /// The number of rounds of every comparison.
    rounds: u32,
    /// The settings of the part `forward`.
    settings: &'a [ForwardSetting],
    /// The number of requests after which the part `memory` measures.
    requests: u32,
    /// The value of `--python`; `None` without the flag.
    python: Option<&'a Path>,
    /// The image files; `None` if no part of the run needs them.
    images: Option<Images>,
}

/// Measures the chosen parts, prints the figures and writes them.
///
/// # Errors
/// If a program is missing, does not start, or answers with a status other than 200.
pub(crate) fn run(options: &Options) -> Result<()> {
    let folder = paths::output("bench").join("replica");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let is_chosen = |part: &&BenchmarkPart| options.only.is_empty() || options.only.contains(part);
    let parts: Vec<BenchmarkPart> = BenchmarkPart::value_variants().iter().filter(is_chosen).copied().collect();
    let of_network =
        |&network| options.instructions.iter().map(move |&instructions| ForwardSetting { network, instructions });
    let settings: Vec<ForwardSetting> = options.networks.iter().flat_map(of_network).collect();
    let mut run = RunContext {
        folder: &folder,
        rounds: options.rounds,
        settings: &settings,
        requests: options.requests,
        python: options.python.as_deref(),
        images: None,
    };
    run.prepare(&parts)?;
    let measured = steal::watch(|| parts.iter().map(|part| part.measure(&run)).collect::<Result<Vec<_>>>())?;
    let figures: Vec<Figure> = measured.into_iter().flatten().map(with_target).collect();
    figure::print(&figures);
    options.output.write(&figure::json(&figures))
}

/// The figure with its target in [`TARGETS`], if there is one.
fn with_target(figure: Figure) -> Figure {
    match TARGETS.iter().find(|(name, _)| *name == figure.name) {
        Some(&(_, target)) => figure.with_target(target),
        None => figure,
    }
}

impl RunContext<'_> {
    /// The Python with ONNX Runtime, OpenVINO and PIL.
    fn engines(&self) -> Result<Python> {
        Python::find(self.python, ENGINES)
    }

    /// The Python with torchvision and Flask.
    fn torchvision(&self) -> Result<Python> {
        Python::find(self.python, TORCHVISION)
    }

    /// The image files.
    ///
    /// # Panics
    /// If [`RunContext::prepare`] was called without a part that needs images.
    fn images(&self) -> &Images {
        self.images.as_ref().expect("`prepare` was called with a part that needs images")
    }

    /// Installs the Python packages and makes the image files that `parts` need.
    fn prepare(&mut self, parts: &[BenchmarkPart]) -> Result<()> {
        if parts.contains(&BenchmarkPart::Forward) || parts.contains(&BenchmarkPart::Precisions) {
            self.engines()?;
        }
        if parts.contains(&BenchmarkPart::Decode) || parts.contains(&BenchmarkPart::Requests) {
            self.torchvision()?;
        }
        if parts.iter().any(|part| *part != BenchmarkPart::Startup) {
            self.images = Some(Images::make(&self.engines()?, self.folder)?);
        }
        Ok(())
    }
}
