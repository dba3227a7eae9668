//! The replica next to its peers, all by turns within one run, and what it takes by itself.
//!
//! Whatever the host of this machine does meanwhile happens to both sides of a comparison: a figure is the median of
//! its rounds' ratios.

pub mod clients;
pub mod cores;
pub mod decode;
pub mod figure;
pub mod forward;
pub mod memory;
pub mod overhead;
pub mod pictures;
pub mod requests;
pub mod startup;
pub mod subject;
pub mod throughput;
pub mod worker;

use crate::python::{ENGINES, Python, TORCHVISION};
use crate::steal::Watch;
use crate::{build, paths};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum, value_parser};
use indicatif::{ProgressBar, ProgressStyle};
use pictures::Pictures;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Flags of `cargo xtask bench replica`.
#[derive(Debug, Args)]
pub struct Options {
    /// What to measure; without it, everything
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Rounds; each measures both sides of every comparison
    #[arg(long, default_value_t = 20, value_parser = value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Requests after which memory is measured; from a tenth of them on it is to stay as it is
    #[arg(long, default_value_t = 10_000, value_parser = value_parser!(u32).range(100..=10_000_000))]
    requests: u32,
    /// A Python that has the packages already, instead of those that are made in target/tools
    #[arg(long)]
    python: Option<PathBuf>,
    /// Write every figure there, too
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Forward passes, next to ONNX Runtime and OpenVINO
    Forward,
    /// Processor time and latency of whole requests, next to Flask
    Requests,
    /// Requests per second on one core, next to what decoding and inference leave possible
    Throughput,
    /// What HTTP, queue and threads add to decoding and inference
    Added,
    /// Bytes to numbers, next to PIL and torchvision
    Decode,
    /// From exec to ready
    Startup,
    /// Resident memory after many requests
    Memory,
}

/// What every part measures with.
pub struct Bench<'a> {
    /// Logs and whatever is made.
    pub folder: &'a Path,
    /// Rounds of every comparison.
    pub rounds: u32,
    /// Requests after which memory is measured.
    pub requests: u32,
    python: Option<&'a Path>,
    /// Made before anything is measured, if a part needs them.
    pictures: Option<Pictures>,
}

impl Bench<'_> {
    /// With other engines and PIL.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn engines(&self) -> Result<Python> {
        Python::find(self.python, ENGINES)
    }

    /// With torchvision and Flask.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn torchvision(&self) -> Result<Python> {
        Python::find(self.python, TORCHVISION)
    }

    /// What is sent and decoded.
    ///
    /// # Panics
    /// In a part that was said to need none.
    pub fn pictures(&self) -> &Pictures {
        self.pictures.as_ref().expect("they were made for every part that needs them")
    }

    /// A bar of so many steps, which shows the time that is left.
    pub fn progress(&self, steps: u32, what: &'static str) -> ProgressBar {
        let style = ProgressStyle::with_template("{msg:11} {bar:24} {pos}/{len}  {eta} left").expect("it is valid");
        let progress = ProgressBar::new(steps.into()).with_style(style).with_message(what);
        progress.enable_steady_tick(Duration::from_millis(500));
        progress
    }
}

/// Measures, prints and writes.
///
/// # Errors
/// When something is missing, does not start, or answers other than it should.
pub fn run(options: &Options) -> Result<()> {
    build::programs()?;
    let folder = paths::output("bench").join("replica");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let mut bench = Bench {
        folder: &folder,
        rounds: options.rounds,
        requests: options.requests,
        python: options.python.as_deref(),
        pictures: None,
    };
    let wanted = |part: &&Part| options.only.is_empty() || options.only.contains(part);
    let parts: Vec<Part> = Part::value_variants().iter().filter(wanted).copied().collect();
    bench.prepare(&parts)?;
    let watch = Watch::start();
    let mut figures = Vec::new();
    for part in parts {
        let measured = match part {
            Part::Forward => forward::measure(&bench),
            Part::Requests => requests::measure(&bench),
            Part::Throughput => throughput::measure(&bench),
            Part::Added => overhead::measure(&bench),
            Part::Decode => decode::measure(&bench),
            Part::Startup => startup::measure(&bench),
            Part::Memory => memory::measure(&bench),
        };
        figures.extend(measured.with_context(|| format!("measure {part:?}"))?);
    }
    let stolen = watch.finish();
    figure::print(&figures);
    if stolen.is_notable() {
        println!("{stolen}");
    }
    if let Some(path) = &options.json {
        fs::write(path, figure::json(&figures)).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

impl Bench<'_> {
    /// Builds and downloads before anything is measured.
    fn prepare(&mut self, parts: &[Part]) -> Result<()> {
        let needs = |of: &[Part]| of.iter().any(|part| parts.contains(part));
        if needs(&[Part::Forward, Part::Throughput]) {
            build::example("forward")?;
            // It decodes what the forward pass is measured on.
            build::example("parity")?;
        }
        if needs(&[Part::Decode, Part::Throughput]) {
            build::example("decode")?;
        }
        if needs(&[Part::Forward]) {
            self.engines()?;
        }
        if needs(&[Part::Decode, Part::Requests]) {
            self.torchvision()?;
        }
        if parts.iter().any(|part| *part != Part::Startup) {
            self.pictures = Some(Pictures::make(&self.engines()?, self.folder)?);
        }
        Ok(())
    }
}
