//! `bench replica`: compares the replica with its peers, in turns within one run, and measures the replica alone.
//!
//! The host of this machine may slow it down at any time. Both sides of a comparison run in each round, so a figure is
//! the median of the rounds' ratios.

mod client;
mod decode;
mod forward;
mod measuring_process;
mod memory;
mod overhead;
mod requests;
mod server;
mod startup;
mod throughput;

use crate::figure::{self, Figure, TargetRange};
use crate::images::Images;
use crate::output::Output;
use crate::python::{ENGINES, Python, TORCHVISION};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum, value_parser};
use harness::{paths, steal};
use std::fs;
use std::path::{Path, PathBuf};

/// Figures that the replica is judged by.
const TARGETS: [(&str, TargetRange); 9] = [
    ("forward_ratio_onnxruntime_b1", TargetRange::AtMost(0.75)),
    ("forward_ratio_onnxruntime_b8", TargetRange::AtMost(0.65)),
    ("forward_ratio_onnxruntime_b1_t2", TargetRange::AtMost(0.90)),
    ("forward_ratio_onnxruntime_b8_t2", TargetRange::AtMost(0.80)),
    ("cpu_ratio_flask", TargetRange::AtMost(0.30)),
    ("throughput_ratio", TargetRange::AtLeast(0.95)),
    ("added_ms", TargetRange::AtMost(0.3)),
    ("startup_s", TargetRange::AtMost(0.7)),
    ("rss_mb", TargetRange::AtMost(300.0)),
];

/// Flags of `bench replica`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What to measure; without it, everything
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<BenchmarkPart>,
    /// Rounds; each measures both sides of every comparison
    #[arg(long, default_value_t = 20, value_parser = value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Requests after which memory is measured; it should not grow after a tenth of them
    #[arg(long, default_value_t = 10_000, value_parser = value_parser!(u32).range(100..=10_000_000))]
    requests: u32,
    /// A Python that has the packages already, instead of those that are made in target/tools
    #[arg(long)]
    python: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// The parts of the benchmark that can be run alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BenchmarkPart {
    /// Forward passes, next to ONNX Runtime and OpenVINO
    Forward,
    /// Processor time and latency of whole requests, next to Flask
    Requests,
    /// Requests per second on one core, next to what decoding and inference leave possible
    Throughput,
    /// Time that HTTP, queue and threads add to decoding and inference
    Added,
    /// Bytes to numbers, next to PIL and torchvision
    Decode,
    /// From exec to ready
    Startup,
    /// Resident memory after many requests
    Memory,
}

impl BenchmarkPart {
    fn measure(self, run: &RunContext) -> Result<Vec<Figure>> {
        let measured = match self {
            Self::Forward => forward::measure(run),
            Self::Requests => requests::measure(run),
            Self::Throughput => throughput::measure(run),
            Self::Added => overhead::measure(run),
            Self::Decode => decode::measure(run),
            Self::Startup => startup::measure(run),
            Self::Memory => memory::measure(run),
        };
        let name = self.to_possible_value().expect("no part is hidden");
        measured.with_context(|| format!("measure the part {}", name.get_name()))
    }
}

/// Everything that the parts of one run share.
struct RunContext<'a> {
    /// Folder for logs and other files.
    folder: &'a Path,
    /// Rounds of every comparison.
    rounds: u32,
    /// Requests after which memory is measured.
    requests: u32,
    /// `--python`.
    python: Option<&'a Path>,
    /// Present if a part of the run needs images.
    images: Option<Images>,
}

/// Measures, prints and writes.
///
/// # Errors
/// When a program is missing, does not start, or answers with another status than expected.
pub(crate) fn run(options: &Options) -> Result<()> {
    let folder = paths::output("bench").join("replica");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let is_chosen = |part: &&BenchmarkPart| options.only.is_empty() || options.only.contains(part);
    let parts: Vec<BenchmarkPart> = BenchmarkPart::value_variants().iter().filter(is_chosen).copied().collect();
    let mut run = RunContext {
        folder: &folder,
        rounds: options.rounds,
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

fn with_target(figure: Figure) -> Figure {
    match TARGETS.iter().find(|(name, _)| *name == figure.name) {
        Some(&(_, target)) => figure.with_target(target),
        None => figure,
    }
}

impl RunContext<'_> {
    /// The Python with other engines and PIL.
    fn engines(&self) -> Result<Python> {
        Python::find(self.python, ENGINES)
    }

    /// The Python with torchvision and Flask.
    fn torchvision(&self) -> Result<Python> {
        Python::find(self.python, TORCHVISION)
    }

    /// The images that are sent and decoded.
    ///
    /// # Panics
    /// If [`RunContext::prepare`] was called without a part that needs them.
    fn images(&self) -> &Images {
        self.images.as_ref().expect("prepare made the images")
    }

    /// Downloads and makes everything that the parts need, before any of them measures.
    fn prepare(&mut self, parts: &[BenchmarkPart]) -> Result<()> {
        if parts.contains(&BenchmarkPart::Forward) {
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
