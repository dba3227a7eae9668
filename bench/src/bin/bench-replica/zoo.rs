//! The replica's part of `cargo xtask bench zoo`: loads each checkpoint that `bench/peers/zoo.py` has made, and compares
//! the result with the expected one.

use anyhow::{Context, Result, bail, ensure};
use replica::decode::{self, Pixels};
use replica::labels::LabelSource;
use replica::model::{
    Description, Device, Input, KernelChoice, ModelFactory, ModelFile, ModelSource, Precision, Setup, WeightsSource,
};
use replica::preprocess;
use replica::transform::Transform;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The side of the images in input.f32, in pixels.
const SIDE: usize = 64;

/// The largest accepted difference of a logit from torch's, relative to the largest logit.
const LOGITS: f32 = 1e-4;

/// The largest accepted mean difference of the inputs from a framework's, in levels of 255.
const MEAN_LEVELS: f32 = 0.5;

/// The largest accepted difference of one input from a framework's, in levels of 255.
const MAX_LEVELS: f32 = 4.0;

/// Loads the models that FOLDER/zoo.json lists, and compares logits, inputs, labels and refusals with the expected ones.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder that `zoo.py` has filled
    folder: PathBuf,
    /// Part of the names of the models to load; by default all
    #[arg(long)]
    only: Option<String>,
}

/// A model of the zoo, and the expected result: a refusal, or logits, and for a directory also inputs and labels.
#[derive(Deserialize)]
struct Specimen {
    name: String,
    /// A file or a directory.
    path: PathBuf,
    /// The value of `--weights-key`.
    key: Option<String>,
    /// A part of the message.
    refused: Option<String>,
    /// A file with torch's logits of input.f32.
    logits: Option<PathBuf>,
    /// A file with the inputs that the framework makes of picture-*.png.
    inputs: Option<PathBuf>,
    labels: Option<Vec<String>>,
}

/// Prints a line for each model.
///
/// # Errors
/// If a file of the folder cannot be read, or a result is not the expected one.
pub(crate) fn run(args: &Args) -> Result<()> {
    let list = args.folder.join("zoo.json");
    let text = std::fs::read_to_string(&list).with_context(|| format!("read {}", list.display()))?;
    let mut zoo: Vec<Specimen> = serde_json::from_str(&text).with_context(|| format!("parse {}", list.display()))?;
    zoo.retain(|specimen| args.only.as_ref().is_none_or(|part| specimen.name.contains(part)));
    let images = numbers(&args.folder.join("input.f32"))?.chunks(3 * SIDE * SIDE).map(<[f32]>::to_vec).collect();
    let folder = ZooFolder { folder: &args.folder, images, pictures: pictures(&args.folder)? };
    let mut failed = Vec::new();
    for specimen in &zoo {
        let result = folder.check(specimen);
        let expected = match (&specimen.refused, &result) {
            (Some(part), Err(error)) => format!("{error:#}").contains(part),
            (refused, result) => refused.is_none() && result.is_ok(),
        };
        let result = result.unwrap_or_else(|error| format!("refused: {error:#}"));
        println!("{} {:<28} {result}", if expected { "ok  " } else { "FAIL" }, specimen.name);
        if !expected {
            failed.push(specimen.name.as_str());
        }
    }
    let (count, of, names) = (failed.len(), zoo.len(), failed.join(", "));
    ensure!(failed.is_empty(), "{count} of {of} models have other results than expected: {names}");
    println!("all {of} models have the expected results");
    Ok(())
}

/// The folder of the zoo, and the images in it.
struct ZooFolder<'a> {
    folder: &'a Path,
    /// The model's inputs in input.f32.
    images: Vec<Input>,
    pictures: Vec<Pixels>,
}

impl ZooFolder<'_> {
    /// Loads a model, and compares logits, inputs and labels with the expected ones. Returns the differences.
    fn check(&self, specimen: &Specimen) -> Result<String> {
        let path = self.folder.join(&specimen.path);
        let source = WeightsSource { key: specimen.key.clone(), ..WeightsSource::file(&path) };
        let file = ModelFile::open(&match path.is_dir() {
            true => ModelSource::Directory(source),
            false => ModelSource::Weights(source),
        })?;
        let description = file.description();
        // All engines compute the same network, so the one that starts first is enough.
        let (kernel, device, precision) = (KernelChoice::Libtorch, Device::Cpu, Precision::F32);
        let setup = Setup { kernel, device, precision, threads: 1, max_batch: self.images.len() };
        let factory = ModelFactory::new(file, SIDE, setup)?;
        let labels = LabelSource::Weights.load(description.labels.clone(), factory.classes())?;
        let Some(expected) = &specimen.logits else { bail!("accepted, but a refusal is expected") };
        let logits = factory.model()?.logits(&self.images)?.concat();
        let difference = difference(&logits, &numbers(&self.folder.join(expected))?);
        ensure!(difference <= LOGITS, "logits differ by {difference:.1e} of the largest");
        let mut result = format!("logits differ by {difference:.1e}");
        if let Some(expected) = &specimen.inputs {
            let (mean, largest) = self.levels(&description, &numbers(&self.folder.join(expected))?)?;
            ensure!(mean <= MEAN_LEVELS && largest <= MAX_LEVELS, "inputs differ by {mean:.2}, {largest:.1} levels");
            result.push_str(&format!(", inputs by {mean:.3} levels, {largest:.1} at most"));
        }
        if let Some(expected) = &specimen.labels {
            ensure!(labels == *expected, "labels are {labels:?}, expected {expected:?}");
        }
        Ok(result)
    }

    /// The mean and the largest difference of the inputs of all pictures from the `expected` ones, in levels of 255.
    fn levels(&self, description: &Description, expected: &[f32]) -> Result<(f32, f32)> {
        let values: Vec<_> =
            description.transform.iter().map(|(name, values)| (name.as_str(), values.clone())).collect();
        let (transform, _) = Transform::resolve(&values);
        let inputs: Vec<f32> = self.pictures.iter().flat_map(|pixels| preprocess::input(pixels, &transform)).collect();
        ensure!(inputs.len() == expected.len(), "inputs have {} numbers, expected {}", inputs.len(), expected.len());
        let pairs = inputs.iter().zip(expected).enumerate();
        let levels = pairs.map(|(index, (ours, theirs))| (ours - theirs).abs() * transform.std[index % 3] * 255.0);
        let (sum, largest) = levels.fold((0.0, 0.0_f32), |(sum, largest), level| (sum + level, largest.max(level)));
        Ok((sum / inputs.len() as f32, largest))
    }
}

/// The largest difference of two lists of logits, relative to the largest expected logit; infinite if they differ in
/// length, or a logit is not finite.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    if found.len() != expected.len() || found.iter().any(|logit| !logit.is_finite()) {
        return f32::INFINITY;
    }
    let scale = expected.iter().fold(f32::MIN_POSITIVE, |largest, logit| largest.max(logit.abs()));
    found.iter().zip(expected).map(|(ours, theirs)| (ours - theirs).abs() / scale).fold(0.0, f32::max)
}

/// The pictures in the order of their names.
fn pictures(folder: &Path) -> Result<Vec<Pixels>> {
    let paths = (0..).map(|number| folder.join(format!("picture-{number}.png"))).take_while(|path| path.exists());
    let decoded = paths.map(|path| {
        let file = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        decode::decode(&file, decode::ImageLimits::default()).with_context(|| format!("decode {}", path.display()))
    });
    decoded.collect()
}

/// The little-endian numbers of a file.
fn numbers(path: &Path) -> Result<Vec<f32>> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}
